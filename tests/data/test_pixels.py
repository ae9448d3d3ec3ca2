"""What open_pixels promises: the right pixels, written once, complete or absent."""

import multiprocessing
import os
import re
import shutil
import socket
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import wastetune.data.pixels
from wastetune.data.image import read_picture, resize_picture
from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.pixels import Pixels, open_pixels, select_pictures
from wastetune.datasets.synthetic import write_sample
from wastetune.errors import UserError
from wastetune.files import PART_PREFIX


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp("pixels") / "sample"
    return index_folder(write_sample(folder, per_class=20, size=48))


def everything(pixels: Pixels) -> NDArray[np.uint8]:
    return pixels.read(range(len(pixels.keys)))


def test_row_i_is_picture_i_squashed(index: ImageIndex, tmp_path: Path) -> None:
    pixels = open_pixels(index, 32, tmp_path)
    assert pixels.size == 32
    assert pixels.keys == tuple(picture.pixels_sha256 for picture in index.pictures)
    rows = (0, 41, len(index.pictures) - 1)
    found = pixels.read(rows)
    assert (found.shape, found.dtype) == ((3, 32, 32, 3), np.uint8)
    for row, array in zip(rows, found, strict=True):
        picture = read_picture(index.folder / index.pictures[row].path)
        np.testing.assert_array_equal(array, resize_picture(picture, 32))
    some = select_pictures(index, pixels, rows)
    np.testing.assert_array_equal(some.decode(range(3)), some.read(range(3)))
    np.testing.assert_array_equal(np.load(pixels.path)[list(rows)], found)  # a .npy like any other


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
    np.testing.assert_array_equal(everything(first), everything(second))
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
    assert everything(open_pixels(index, 8, tmp_path)).any(axis=(1, 2, 3)).all()


def test_what_a_killed_writer_left_is_removed(index: ImageIndex, tmp_path: Path) -> None:
    open_pixels(index, 8, tmp_path)
    (complete,) = tmp_path.glob("*.npy")
    expected = complete.read_bytes()
    left = f"{PART_PREFIX}{socket.gethostname()}-{2**22 + 1}-{complete.name}"  # no process of Linux has such a number
    writing = f"{PART_PREFIX}{socket.gethostname()}-{os.getppid()}-{complete.name}"
    elsewhere = f"{PART_PREFIX}elsewhere-7-{complete.name}"
    for name in (left, complete.with_suffix(".part").name, writing, elsewhere):  # the second is of earlier versions
        (tmp_path / name).write_bytes(expected[:500] + b"rubbish" * 9000)
    complete.unlink()
    open_pixels(index, 8, tmp_path)
    assert complete.read_bytes() == expected
    kept = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert kept == {complete.name, writing, elsewhere}


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
    return done[-1], int(everything(pixels).sum())


@pytest.mark.skipif(sys.platform != "linux", reason="stands in for flock")
def test_where_locks_are_granted_to_all_each_decodes_and_the_file_is_whole(index: ImageIndex, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Manager().Barrier(2)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        reports = list(pool.map(_open_without_locks, [index] * 2, [tmp_path] * 2, [barrier] * 2))
    expected = open_pixels(index, 16, tmp_path / "other")
    assert reports == [(len(index.pictures), int(everything(expected).sum()))] * 2
    (written,) = tmp_path.glob("*.npy")
    assert written.read_bytes() == expected.path.read_bytes()
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(f"{PART_PREFIX}*"))


def _open_without_locks(index: ImageIndex, cache: Path, barrier: threading.Barrier) -> tuple[int, int]:
    import fcntl

    fcntl.flock = lambda *_: None  # type: ignore[assignment]
    done = [0]

    def progress(count: int, _: int) -> None:
        barrier.wait(60)  # both are in the middle of the file
        done.append(count)

    pixels = open_pixels(index, 16, cache, progress=progress)
    return done[-1], int(everything(pixels).sum())


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    begin, length = content.index(b"\n") + 1, 3 * 16 * 16
    half = begin + len(content) // 2
    if kind == "a bit":
        content[begin + 5 * length + 7] ^= 4
    elif kind == "two rows":
        one, other = (slice(begin + row * length, begin + (row + 1) * length) for row in (3, 30))
        content[one], content[other] = content[other], content[one]
    elif kind == "zeros":
        content[half:] = bytes(len(content) - half)
    elif kind == "cut":
        del content[half:]
    elif kind == "header":
        content[20] ^= 1
    elif kind == "nothing left":
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("a bit", r"1 of the \d+ pictures in .* were damaged: they were decoded again"),
        ("two rows", r"2 of the \d+ pictures"),
        ("zeros", r"\d\d of the \d+ pictures"),
        ("cut", r"was damaged \(its beginning or its length is wrong\): all pictures are decoded again"),
        ("nothing left", "all pictures are decoded again"),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_damage_is_noticed_mended_and_told_once(
    index: ImageIndex, tmp_path: Path, kind: str, told: str, opened: bool
) -> None:
    """`opened`: it comes when the file is open already."""
    said: list[str] = []
    pixels = open_pixels(index, 16, tmp_path, say=said.append)
    expected, whole = everything(pixels), pixels.path.read_bytes()
    damage(pixels.path, kind)
    if not opened:
        pixels = open_pixels(index, 16, tmp_path, say=said.append)
    for _ in range(2):
        np.testing.assert_array_equal(everything(pixels), expected)
    (sentence,) = said
    assert re.search(told, sentence)
    assert pixels.path.read_bytes() == whole


def test_a_damaged_header_is_noticed(index: ImageIndex, tmp_path: Path) -> None:
    said: list[str] = []
    pixels = open_pixels(index, 16, tmp_path)
    whole = pixels.path.read_bytes()
    damage(pixels.path, "header")
    open_pixels(index, 16, tmp_path, say=said.append)
    assert len(said) == 1
    assert pixels.path.read_bytes() == whole


def test_a_file_in_the_place_of_another_is_noticed(index: ImageIndex, tmp_path: Path) -> None:
    backwards = replace(index, pictures=index.pictures[::-1])
    one, other = (open_pixels(each, 16, tmp_path) for each in (index, backwards))
    expected = everything(one)
    shutil.copy(other.path, one.path)
    np.testing.assert_array_equal(everything(open_pixels(index, 16, tmp_path)), expected)


def test_a_damaged_picture_whose_file_has_changed_is_named(tmp_path: Path) -> None:
    folder = write_sample(tmp_path / "sample", per_class=2, size=24, odd_files=False)
    pixels = open_pixels(index_folder(folder), 16, tmp_path / "cache")
    damage(pixels.path, "zeros")
    for path in folder.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"Cannot read .*\.jpg"):
        everything(pixels)


def test_a_disk_that_damages_what_is_repaired_is_told(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = open_pixels(index, 16, tmp_path)
    repair = wastetune.data.pixels._repair

    def repair_in_vain(pixels: Pixels) -> None:
        repair(pixels)
        damage(pixels.path, "a bit")

    damage(pixels.path, "a bit")
    monkeypatch.setattr(wastetune.data.pixels, "_repair", repair_in_vain)
    with pytest.raises(UserError, match="damaged again as soon as it is repaired; check this machine's disk"):
        everything(pixels)


def test_of_several_processes_one_repairs_and_tells(index: ImageIndex, tmp_path: Path) -> None:
    pixels = open_pixels(index, 16, tmp_path)
    expected, whole = int(everything(pixels).sum()), pixels.path.read_bytes()
    damage(pixels.path, "zeros")
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        reports = list(pool.map(_open_and_listen, [index] * 3, [tmp_path] * 3))
    assert [total for total, _ in reports] == [expected] * 3
    assert sum(said for _, said in reports) == 1
    assert pixels.path.read_bytes() == whole


def _open_and_listen(index: ImageIndex, cache: Path) -> tuple[int, int]:
    said: list[str] = []
    pixels = open_pixels(index, 16, cache, say=said.append)
    return int(everything(pixels).sum()), len(said)
