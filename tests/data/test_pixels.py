"""What open_pixels promises: the right pixels, written once, complete or absent."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wastetune.data.pixels
from wastetune.data.image import read_picture, resize_picture
from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.pixels import open_pixels
from wastetune.datasets.synthetic import write_sample
from wastetune.errors import UserError


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp("pixels") / "sample"
    return index_folder(write_sample(folder, per_class=20, size=48))


def test_row_i_is_picture_i_squashed_and_cannot_be_written(index: ImageIndex, tmp_path: Path) -> None:
    pixels = open_pixels(index, 32, tmp_path)
    assert pixels.array.shape == (len(index.pictures), 32, 32, 3)
    assert pixels.array.dtype == np.uint8
    assert pixels.size == 32
    assert pixels.keys == tuple(picture.pixels_sha256 for picture in index.pictures)
    for row in (0, 41, len(index.pictures) - 1):
        picture = read_picture(index.folder / index.pictures[row].path)
        np.testing.assert_array_equal(pixels.array[row], resize_picture(picture, 32))
    assert isinstance(pixels.array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pixels.array[0] = 0


def test_a_wide_picture_is_squashed_and_averaged() -> None:
    stripes = np.zeros((10, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    resized = resize_picture(Image.fromarray(stripes), 20)
    assert resized.shape == (20, 20, 3)
    assert np.abs(resized.astype(int) - 100).max() <= 12  # without antialiasing it would be 0 or 200


def test_a_second_call_decodes_nothing(index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_pixels(index, 16, tmp_path)
    monkeypatch.setattr(wastetune.data.pixels, "decode_picture", None)
    seen: list[tuple[int, int]] = []
    second = open_pixels(index, 16, tmp_path, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(first.array, second.array)
    assert seen == []


def test_another_size_or_other_pictures_make_another_file(index: ImageIndex, tmp_path: Path) -> None:
    fewer = ImageIndex(index.folder, index.classes, index.pictures[:-1], ())
    open_pixels(index, 16, tmp_path)
    open_pixels(index, 8, tmp_path)
    open_pixels(fewer, 8, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_progress_ends_at_the_number_of_pictures(index: ImageIndex, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    open_pixels(index, 8, tmp_path, progress=lambda done, total: seen.append((done, total)))
    total = len(index.pictures)
    assert seen == [(64, total), (total, total)]


def test_when_writing_breaks_off_nothing_is_left_and_the_next_call_works(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = wastetune.data.pixels.decode_picture
    calls: list[int] = []

    def decode_some(content: bytes) -> Image.Image:
        calls.append(1)
        if len(calls) > 70:
            raise KeyboardInterrupt
        return decode(content)

    monkeypatch.setattr(wastetune.data.pixels, "decode_picture", decode_some)
    with pytest.raises(KeyboardInterrupt):
        open_pixels(index, 8, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] in ([], [".lock"])
    monkeypatch.undo()
    assert open_pixels(index, 8, tmp_path).array[-1].any()


def test_what_a_killed_writer_left_is_overwritten(index: ImageIndex, tmp_path: Path) -> None:
    open_pixels(index, 8, tmp_path)
    (complete,) = tmp_path.glob("*.npy")
    expected = complete.read_bytes()
    complete.rename(complete.with_suffix(".part"))
    complete.with_suffix(".part").write_bytes(expected[:500] + b"rubbish" * 9000)
    open_pixels(index, 8, tmp_path)
    assert complete.read_bytes() == expected
    assert not complete.with_suffix(".part").exists()


def test_a_picture_that_changed_since_the_index_is_refused(tmp_path: Path) -> None:
    folder = write_sample(tmp_path / "sample", per_class=2, size=24, odd_files=False)
    index = index_folder(folder)
    Image.new("RGB", (24, 24)).save(folder / "box" / "box000.jpg")
    with pytest.raises(UserError, match=r"box000\.jpg has changed since"):
        open_pixels(index, 8, tmp_path / "cache")
    (folder / "box" / "box000.jpg").unlink()
    with pytest.raises(UserError, match=r"Cannot read .*box000\.jpg"):
        open_pixels(index, 8, tmp_path / "cache")


def test_of_several_processes_one_decodes(index: ImageIndex, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        reports = list(pool.map(_open_and_count, [index] * 3, [tmp_path] * 3))
    assert sorted(decoded for decoded, _ in reports) == [0, 0, len(index.pictures)]
    assert len({total for _, total in reports}) == 1


def _open_and_count(index: ImageIndex, cache: Path) -> tuple[int, int]:
    done = [0]
    pixels = open_pixels(index, 16, cache, progress=lambda count, _: done.append(count))
    return done[-1], int(pixels.array.sum())
