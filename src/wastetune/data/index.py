"""A folder of pictures as an ImageIndex: what is in it, what stands there twice, and what cannot be used."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from wastetune.data.image import MAX_BYTES, TOO_MANY_BYTES, decode_picture, pixels_hash
from wastetune.data.layout import PictureFile, Problem, find_files
from wastetune.data.near_duplicates import appearance_of, group_near_duplicates
from wastetune.errors import UserError

# What a cached line was computed with: pixels depend on the decoder, looks on the recipe.
RECIPE = f"2, Pillow {PIL.__version__}"


@dataclass(frozen=True)
class Picture:
    """One usable picture. Pixels are meant upright and RGB, so width and height are too."""

    path: str  # posix, relative to ImageIndex.folder
    label: int  # position in ImageIndex.classes
    bytes_sha256: str
    pixels_sha256: str
    look: str  # compared by near_duplicate_keys
    width: int
    height: int
    own_split: str | None  # "train" or "test" where the data set comes split, else None


@dataclass(frozen=True)
class ImageIndex:
    """The pictures of a folder, sorted by path, and the files that are none."""

    folder: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]


def index_folder(
    folder: Path, *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> ImageIndex:
    """The index of a folder with one subfolder per class.

    A data set that comes split has ``TRAIN/<class>`` and ``TEST/<class>``, perhaps in a folder ``DATASET``.
    With ``cache``, a folder, files that have kept size and time since they were read are not read again.
    ``progress(done, total)`` counts files.
    Raises UserError when there are not at least two classes with pictures.
    """
    files, problems = find_files(folder)
    memory = None if cache is None else cache / f"index-{_short_hash(str(folder.resolve()))}.json"
    findings = _read_all(folder, files, memory, progress)

    names = sorted({file.class_name for file, found in zip(files, findings, strict=True) if "what" not in found})
    for name in sorted({file.class_name for file in files} - set(names)):
        problems.append(Problem(name, "a class folder without a usable picture: not a class"))
    if len(names) < 2:
        has = f"only one class with pictures ({names[0]})" if names else "no class folder with pictures"
        raise UserError(
            f"{folder} has {has}; a data set is a folder with one subfolder of pictures per class, "
            "for at least two classes."
        )
    pictures = []
    for file, found in zip(files, findings, strict=True):
        if "what" in found:
            problems.append(Problem(file.path, found["what"]))
        else:
            pictures.append(Picture(file.path, names.index(file.class_name), **found, own_split=file.own_split))
    problems.sort(key=lambda problem: problem.path)
    return ImageIndex(folder, tuple(names), tuple(pictures), tuple(problems))


def duplicate_groups(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The groups of two or more pictures with exactly the same pixels."""
    return _groups(index, [picture.pixels_sha256 for picture in index.pictures])


def near_duplicate_groups(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The groups of two or more pictures that look the same, pixel for pixel or nearly."""
    return _groups(index, near_duplicate_keys(index))


def near_duplicate_keys(index: ImageIndex) -> tuple[str, ...]:
    """For each picture the key of its group of lookalikes, which it may be alone in."""
    return group_near_duplicates([picture.look for picture in index.pictures])


def contradictions(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The duplicate groups that stand in more than one class."""
    return tuple(group for group in duplicate_groups(index) if len({picture.label for picture in group}) > 1)


def _groups(index: ImageIndex, keys: Sequence[str]) -> tuple[tuple[Picture, ...], ...]:
    groups: dict[str, list[Picture]] = {}
    for picture, key in zip(index.pictures, keys, strict=True):
        groups.setdefault(key, []).append(picture)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _read_all(
    folder: Path, files: list[PictureFile], memory: Path | None, progress: Callable[[int, int], None] | None
) -> list[dict[str, Any]]:
    known = _remembered(memory)
    now: dict[str, Any] = {}

    def look_up(file: PictureFile) -> tuple[list[int] | None, dict[str, Any]]:
        try:
            status = (folder / file.path).stat()
            stamp = [status.st_size, status.st_mtime_ns]
            if file.path in known and known[file.path][0] == stamp:
                return stamp, known[file.path][1]
            return stamp, _read_one(folder / file.path, status)
        except OSError as error:  # not remembered: a permission changes without a change of time
            return None, {"what": f"cannot be read: {error.strerror}"}

    findings = []
    # Decoding and hashing let go of the interpreter lock, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        for done, (file, (stamp, found)) in enumerate(zip(files, pool.map(look_up, files), strict=True), 1):
            findings.append(found)
            if stamp is not None:
                now[file.path] = [stamp, found]
            if progress:
                progress(done, len(files))
    if memory is not None and now != known:
        _remember(memory, now)
    return findings


def _read_one(path: Path, status: os.stat_result) -> dict[str, Any]:
    if not stat.S_ISREG(status.st_mode):
        return {"what": "not a file"}
    if status.st_size > MAX_BYTES:
        return {"what": TOO_MANY_BYTES}
    try:
        content = path.read_bytes()
        picture = decode_picture(content)
    except ValueError as error:
        return {"what": str(error)}
    pixels = pixels_hash(picture)
    return {
        "bytes_sha256": hashlib.sha256(content).hexdigest(),
        "pixels_sha256": pixels,
        "look": appearance_of(picture, unlike_any=pixels),
        "width": picture.width,
        "height": picture.height,
    }


def _remembered(memory: Path | None) -> dict[str, Any]:
    try:
        content = json.loads(memory.read_text()) if memory else {}
        return dict(content["files"]) if content.get("recipe") == RECIPE else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # absent or damaged: the pictures are simply read again


def _remember(memory: Path, files: dict[str, Any]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    part = memory.with_name(f"{memory.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"recipe": RECIPE, "files": files}))
    part.replace(memory)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
