"""What index_folder makes of real files, odd ones above all."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wastetune.data.image
import wastetune.data.index
from wastetune.data.image import decode_picture, load_pixels, read_picture
from wastetune.data.index import (
    contradictions,
    duplicate_groups,
    index_folder,
    look_alike_groups,
    near_duplicate_groups,
)
from wastetune.errors import UserError


def paint(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A smooth random picture: another seed looks quite different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number in range(3):
        save(paint(number), root / "paper and card" / f"{number}.png")
        save(paint(10 + number), root / "glass" / "deep" / f"{number}.jpg")
    return root


def what(folder: Path) -> dict[str, str]:
    return {problem.path: problem.what for problem in index_folder(folder).problems}


def test_an_index_lists_classes_and_pictures_sorted(folder: Path) -> None:
    index = index_folder(folder)
    assert index.classes == ("glass", "paper and card")
    assert [p.path for p in index.pictures] == [f"glass/deep/{n}.jpg" for n in range(3)] + [
        f"paper and card/{n}.png" for n in range(3)
    ]
    assert [p.label for p in index.pictures] == [0, 0, 0, 1, 1, 1]
    assert {(p.width, p.height, p.own_split) for p in index.pictures} == {(40, 30, None)}
    assert index.problems == ()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_data_set_with_its_own_test_folder_keeps_its_sides(tmp_path: Path, wrapped: bool) -> None:
    root = tmp_path / "DATASET" if wrapped else tmp_path
    for number, side in enumerate(("TRAIN", "Test")):
        for name in ("O", "R"):
            save(paint(number * 2 + ord(name)), root / side / name / "x.png")
    save(paint(9), root / "extra" / "x.png")
    index = index_folder(tmp_path)
    assert index.classes == ("O", "R")
    assert sorted((p.own_split, p.label) for p in index.pictures) == [
        ("test", 0),
        ("test", 1),
        ("train", 0),
        ("train", 1),
    ]
    assert [problem.what for problem in index.problems] == ["not in TRAIN or Test"]


@pytest.mark.parametrize("words", [("training", "Valid", "TESTING"), ("Train", "dev", "eval")])
def test_folders_that_are_called_for_parts_are_parts_and_no_classes(tmp_path: Path, words: tuple[str, ...]) -> None:
    for number, word in enumerate(words):
        for name in ("glass", "metal"):
            save(paint(number * 2 + len(name)), tmp_path / word / name / "x.png")
    index = index_folder(tmp_path)
    assert index.classes == ("glass", "metal")
    assert sorted((p.own_split, p.label) for p in index.pictures) == [
        (part, label) for part in ("test", "train", "val") for label in (0, 1)
    ]
    assert index.problems == ()


def test_two_folders_for_one_part_and_parts_without_training_are_refused(tmp_path: Path) -> None:
    for word in ("train", "val", "valid"):
        save(paint(1), tmp_path / "twice" / word / "glass" / "x.png")
    with pytest.raises(UserError, match="holds val and valid, which both mean val; put their pictures into one"):
        index_folder(tmp_path / "twice")
    for word in ("valid", "test"):
        save(paint(1), tmp_path / "none" / word / "glass" / "x.png")
    with pytest.raises(UserError, match="holds valid and test, which are no classes"):
        index_folder(tmp_path / "none")


def test_classes_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    for path in ("train/O/x.png", "train/R/x.png", "test/o/x.png", "test/R/x.png"):
        save(paint(len(path)), tmp_path / path)
    with pytest.raises(UserError, match=r"'O' and 'o' in .* differ only in case; give their folders one name"):
        index_folder(tmp_path)


def test_broken_and_foreign_files_are_problems_with_a_reason(folder: Path) -> None:
    whole = save(paint(50, (300, 200)), folder / "glass" / "whole.jpg").read_bytes()
    (folder / "glass" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "glass" / "empty.jpg").touch()
    (folder / "glass" / "notes.txt").write_text("no picture")
    (folder / "README.md").write_text("about")
    (folder / "nothing here").mkdir()
    (folder / "only text").mkdir()
    (folder / "only text" / "a.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    (folder / "glass" / ".DS_Store").write_text("x")
    save(paint(51), folder / "__MACOSX" / "x.png")
    os.mkfifo(folder / "glass" / "pipe")
    shutil.copy(folder / "glass" / "whole.jpg", os.fsencode(folder / "glass") + b"/\xff.jpg")
    (folder / "glass" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "glass" / "loop").symlink_to(folder)
    problems = what(folder)
    assert problems.pop("glass/cut.jpg").startswith("broken: image file is truncated")
    assert problems == {
        "glass/empty.jpg": "empty file",
        "glass/notes.txt": "not a picture Pillow can read",
        "glass/pipe": "not a file",
        "glass/\\udcff.jpg": "its name is not valid text",
        "glass/gone.jpg": "cannot be read: No such file or directory",
        "glass/loop": "a link to a folder inside a class is not followed",
        "README.md": "outside every class folder",
        "nothing here": "an empty folder: not a class",
        "only text": "a class folder without a usable picture: not a class",
        "only text/a.txt": "not a picture Pillow can read",
    }
    assert index_folder(folder).classes == ("glass", "paper and card")


def test_a_decompression_bomb_is_refused_by_its_header_alone(folder: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    for name, width in (("large", 9000), ("bomb", 60000)):
        Image.new("1", (width, 9000)).save(folder / "glass" / f"{name}.png")
    problems = what(folder)
    assert problems == dict.fromkeys(("glass/large.png", "glass/bomb.png"), "more than 80 million pixels")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_small_tiff_with_an_enormous_tile_is_refused_too() -> None:
    """Its tile would be unpacked whole: a gigabyte from a megabyte, for 16 by 16 pixels."""

    def tiff(tile: int) -> bytes:
        data = zlib.compress(bytes(tile * tile), 9)
        tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
        tags += [(324, 8), (325, len(data))]
        directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory + bytes(4)

    assert decode_picture(tiff(64)).size == (16, 16)
    with pytest.raises(ValueError, match="more than 80 million pixels"):
        decode_picture(tiff(9000))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "RGB"])
def test_a_large_picture_is_converted_in_bands_to_what_it_is_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 30, 4), np.uint8)
    picture = Image.fromarray(noise, "RGBA")
    if mode in ("I;16", "F"):
        numbers = noise[..., 0].astype(np.uint16) * 251 if mode == "I;16" else noise[..., 0] / np.float32(255)
        picture = Image.fromarray(numbers)
    elif mode == "P":
        picture = picture.convert("RGB").quantize(40)
        picture.info["transparency"] = 7
    elif mode == "RGB":
        picture = picture.convert("RGB").quantize(8).convert("RGB")
        picture.info["transparency"] = picture.getpixel((3, 3))
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    whole = np.asarray(load_pixels(picture))
    monkeypatch.setattr(wastetune.data.image, "BAND_PIXELS", 100)  # three rows
    np.testing.assert_array_equal(np.asarray(load_pixels(picture)), whole)
    if mode in ("RGBA", "LA"):
        colours, alpha = noise[..., :3].astype(float), noise[..., 3:] / 255
        if mode == "LA":
            colours = np.asarray(picture)[..., :1].astype(float)
        assert np.abs(colours * alpha + 255 * (1 - alpha) - whole).max() < 1.01


def test_other_colour_modes_become_the_rgb_they_show(tmp_path: Path) -> None:
    grey = save(Image.new("L", (8, 8), 100), tmp_path / "grey.jpg")
    deep = save(Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)), tmp_path / "deep.png")
    cmyk = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg")
    clear = save(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), tmp_path / "clear.png")
    palette = save(Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4), tmp_path / "palette.png")
    named_wrong = save(Image.new("RGB", (8, 8), (1, 2, 3)), tmp_path / "png.jpg", format="PNG")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    moving = save(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    shown = {path.name: read_picture(path).getpixel((4, 4)) for path in (grey, deep, clear, palette)}
    assert shown == {
        "grey.jpg": (100, 100, 100),
        "deep.png": (100, 100, 100),
        "clear.png": (255, 255, 255),
        "palette.png": (10, 200, 30),
    }
    red, green, blue = read_picture(cmyk).getpixel((4, 4))  # type: ignore[misc]
    assert (red > 230, green < 30, blue < 30) == (True, True, True)
    assert read_picture(named_wrong).getpixel((0, 0)) == (1, 2, 3)
    assert read_picture(moving).getpixel((4, 4)) == (0, 0, 255)
    assert read_picture(moving).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_a_rotated_picture_is_set_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste((255, 255, 255), (0, 0, 16, 8))  # white top left, so all eight ways to turn it differ
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in undo[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_picture(save(stored, tmp_path / f"turned.{suffix}", exif=exif))
    assert read.size == (32, 16)
    difference = np.abs(np.asarray(read, int) - np.asarray(upright, int))
    assert difference.mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = save(paint(1), tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert read_picture(path).size == (40, 30)


def test_read_picture_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.jpg: not a picture"):
        read_picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"Cannot read .*b\.jpg: No such file"):
        read_picture(tmp_path / "b.jpg")


def test_a_second_run_reads_nothing_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "glass" / "notes.txt").write_text("no picture")
    cache = tmp_path / "cache"
    first = index_folder(folder, cache=cache)
    decoded: list[int] = []
    decode = wastetune.data.index.decode_picture
    monkeypatch.setattr(
        wastetune.data.index,
        "decode_picture",
        lambda content: decoded.append(len(content)) or decode(content),
    )
    assert index_folder(folder, cache=cache) == first
    assert decoded == []

    changed = save(paint(77), folder / "paper and card" / "1.png")
    second = index_folder(folder, cache=cache)
    assert decoded == [changed.stat().st_size]
    assert second.pictures[4].pixels_sha256 != first.pictures[4].pixels_sha256


@pytest.mark.parametrize("kind", ["a bit", "zeros", "cut", "another folder's"])
def test_a_damaged_index_is_noticed_read_again_and_told_once(folder: Path, tmp_path: Path, kind: str) -> None:
    cache, said = tmp_path / "cache", []
    first = index_folder(folder, cache=cache, say=said.append)
    (stored,) = cache.iterdir()
    content = bytearray(stored.read_bytes())
    if kind == "a bit":
        content[content.index(first.pictures[2].pixels_sha256.encode())] ^= 1
    elif kind == "zeros":
        content = bytearray(len(content))
    elif kind == "cut":
        del content[100:]
    else:  # the pictures have the same names, sizes and times
        other = shutil.copytree(folder, tmp_path / "other")
        Image.effect_noise((40, 30), 50).save(other / "glass" / "deep" / "0.jpg")
        index_folder(other, cache=cache)
        content = next(path for path in cache.iterdir() if path != stored).read_bytes()
    stored.write_bytes(content)
    for _ in range(2):
        assert index_folder(folder, cache=cache, say=said.append) == first
    (sentence,) = said
    assert sentence == f"the stored index of {folder} was damaged ({stored}): all its pictures are read again"


def test_progress_counts_every_file(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    index_folder(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_duplicates_and_contradictions_are_found(folder: Path) -> None:
    same = folder / "paper and card" / "0.png"
    shutil.copy(same, folder / "paper and card" / "copy.png")
    save(paint(1), folder / "glass" / "other file same pixels.bmp")
    index = index_folder(folder)
    assert {tuple(p.path for p in group) for group in duplicate_groups(index)} == {
        ("paper and card/0.png", "paper and card/copy.png"),
        ("glass/other file same pixels.bmp", "paper and card/1.png"),
    }
    (group,) = contradictions(index)
    assert {p.path for p in group} == {"glass/other file same pixels.bmp", "paper and card/1.png"}


def test_another_size_and_compression_is_a_lookalike(folder: Path) -> None:
    save(paint(0).resize((90, 70), Image.Resampling.BICUBIC), folder / "glass" / "again.jpg", quality=60)
    index = index_folder(folder)
    assert duplicate_groups(index) == ()
    assert [[p.path for p in group] for group in near_duplicate_groups(index)] == [
        ["glass/again.jpg", "paper and card/0.png"]
    ]
    shutil.copy(folder / "paper and card" / "0.png", folder / "paper and card" / "copy.png")
    shutil.copy(folder / "paper and card" / "1.png", folder / "paper and card" / "copy1.png")
    index = index_folder(folder)
    assert [len(group) for group in near_duplicate_groups(index)] == [3, 2]
    (alike,) = look_alike_groups(index)  # the identical ones are told as duplicates
    assert [picture.path for picture in alike] == ["glass/again.jpg", "paper and card/0.png"]


def test_flat_pictures_are_not_all_alike(tmp_path: Path) -> None:
    for name, level in (("a", 20), ("a", 120), ("b", 121), ("b", 250)):
        save(Image.new("L", (50, 50), level), tmp_path / name / f"{level}.png")
    assert near_duplicate_groups(index_folder(tmp_path)) == ()


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        index_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        index_folder(tmp_path / "file")
    with pytest.raises(UserError, match="no class folder"):
        index_folder(tmp_path)
    save(paint(1), tmp_path / "alone" / "x.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"only one class with pictures \(alone\)"):
        index_folder(tmp_path)


@pytest.mark.parametrize(("name", "pictures", "identical", "alike"), [("trashnet", 2527, 3, 9), ("wid", 5076, 28, 84)])
def test_the_real_photos_hold_the_duplicates_that_are_known(
    name: str, pictures: int, identical: int, alike: int, real_data: Path
) -> None:
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    index = index_folder(folder)
    if len(index.pictures) != pictures:
        pytest.skip(f"{folder} is another copy of {name}, with {len(index.pictures)} pictures")
    assert index.problems == ()
    assert len(duplicate_groups(index)) == identical
    # Near-duplicates depend a little on the JPEG decoder.
    assert abs(len(near_duplicate_groups(index)) - alike) <= 2
    assert max(map(len, near_duplicate_groups(index))) <= 4
    twins = {frozenset(Path(p.path).stem for p in group) for group in contradictions(index)}
    assert twins == {
        frozenset({"glass115", "metal91"}),
        frozenset({"glass176", "plastic152"}),
        frozenset({"glass389", "plastic332"}),
    }
