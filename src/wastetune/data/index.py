"""A folder of pictures as an ImageIndex: its usable pictures, its duplicates, and the files that cannot be used."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL

from wastetune.data.image import MAX_BYTES, TOO_MANY_BYTES, decode_picture, pixels_hash
from wastetune.data.layout import PictureFile, Problem, find_files
from wastetune.data.near_duplicates import appearance_of, group_near_duplicates
from wastetune.errors import Say, UserError, warn
from wastetune.files import CHECKSUM_BYTES, is_sound, seal, write_whole

# What cached contents were computed with: pixels depend on the decoder, appearances on near_duplicates.py.
RECIPE = f"2, Pillow {PIL.__version__}"


@dataclass(frozen=True)
class Picture:
    """One usable picture. Its pixels, width and height are those of the upright RGB picture."""

    path: str  # posix, relative to ImageIndex.folder
    label: int  # position in ImageIndex.classes
    bytes_sha256: str
    pixels_sha256: str
    appearance: str  # compared by near_duplicate_keys
    width: int
    height: int
    own_split: str | None  # "train", "val" or "test" where the data set comes split, else None
    group: str | None = None  # pictures with the same one count as near-duplicates


@dataclass(frozen=True)
class _Content:
    """What a Picture takes from the file itself."""

    bytes_sha256: str
    pixels_sha256: str
    appearance: str
    width: int
    height: int


_Found = _Content | str  # or why the file cannot be used
_Stamp = tuple[int, int]  # size and time of change: a file that kept both is not read again
_Cached = dict[str, tuple[_Stamp, _Found]]  # by path


@dataclass(frozen=True)
class ImageIndex:
    """The pictures of a folder, sorted by path, and the files that cannot be used."""

    folder: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]
    # Decision in corrections.csv -> pictures that it changed.
    corrected: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def near_duplicate_keys(self) -> tuple[str, ...]:
        """For each picture the key of its group of near-duplicates, of which it may be the only one.

        Kept, because its time grows with the square of the pictures, and split, folds and reports all ask for it.
        """
        first: dict[str, str] = {}  # of each group that a person named
        named = [(first.setdefault(one.group, one.appearance), one.appearance) for one in self.pictures if one.group]
        return group_near_duplicates([picture.appearance for picture in self.pictures], named)


def index_folder(
    folder: Path,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    fewest: int = 2,
    say: Say = warn,
) -> ImageIndex:
    """The index of a folder with one subfolder per class.

    A data set that comes split has ``train/<class>`` and ``test/<class>``, perhaps ``val/<class>``, perhaps in a folder
    ``DATASET``; a table of labels may take the place of class folders. See `layout.py` and `label_table.py`.
    With ``cache``, a folder, files whose size and time have not changed since they were read are not read again.
    ``progress(done, total)`` counts files. ``say`` gets a sentence when what is cached was found damaged.
    Raises UserError unless there are at least ``fewest`` classes with pictures; one is enough to evaluate a model.
    """
    files, problems = find_files(folder)
    cache_file = None if cache is None else cache / f"index-{_short_hash(str(folder.resolve()))}.sealed"
    contents = _read_all(folder, files, cache_file, progress, say)

    names = sorted({file.class_name for file, found in zip(files, contents, strict=True) if not isinstance(found, str)})
    for name in sorted({file.class_name for file in files} - set(names)):
        problems.append(Problem(name, "a class folder without a usable picture: not a class"))
    if len(names) < fewest:
        has = f"only one class with pictures ({names[0]})" if names else "no class folder with pictures"
        at_least = ", for at least two classes" if fewest > 1 else ""
        raise UserError(
            f"{folder} has {has}; a data set is a folder with one subfolder of pictures per class{at_least}."
        )
    pictures = []
    for file, found in zip(files, contents, strict=True):
        if isinstance(found, str):
            problems.append(Problem(file.path, found))
        else:
            label = names.index(file.class_name)
            pictures.append(Picture(file.path, label, **asdict(found), own_split=file.own_split))
    problems.sort(key=lambda problem: problem.path)
    return ImageIndex(folder, tuple(names), tuple(pictures), tuple(problems))


def duplicate_groups(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The groups of two or more pictures with exactly the same pixels."""
    return _groups(index, [picture.pixels_sha256 for picture in index.pictures])


def near_duplicate_groups(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The groups of two or more pictures that are near-duplicates, or exact ones."""
    return _groups(index, index.near_duplicate_keys)


def look_alike_groups(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The groups of near-duplicates, with one picture for all that have exactly the same pixels."""
    alike = ({each.pixels_sha256: each for each in reversed(group)} for group in near_duplicate_groups(index))
    return tuple(tuple(sorted(one.values(), key=lambda each: each.path)) for one in alike if len(one) > 1)


def contradictions(index: ImageIndex) -> tuple[tuple[Picture, ...], ...]:
    """The groups of exact duplicates with pictures in more than one class."""
    return tuple(group for group in duplicate_groups(index) if len({picture.label for picture in group}) > 1)


def _groups(index: ImageIndex, keys: Sequence[str]) -> tuple[tuple[Picture, ...], ...]:
    groups: dict[str, list[Picture]] = {}
    for picture, key in zip(index.pictures, keys, strict=True):
        groups.setdefault(key, []).append(picture)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _read_all(
    folder: Path,
    files: list[PictureFile],
    cache_file: Path | None,
    progress: Callable[[int, int], None] | None,
    say: Say,
) -> list[_Found]:
    cached = _load_cache(cache_file, folder, say)
    current: _Cached = {}

    def read(file: PictureFile) -> tuple[_Stamp | None, _Found]:
        try:
            status = (folder / file.path).stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if file.path in cached and cached[file.path][0] == stamp:
                return cached[file.path]
            return stamp, _read_one(folder / file.path, status)
        except OSError as error:  # not cached: a permission changes without a change of time
            return None, f"cannot be read: {error.strerror}"

    contents = []
    # Decoding and hashing release the interpreter lock, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        for done, (file, (stamp, found)) in enumerate(zip(files, pool.map(read, files), strict=True), 1):
            contents.append(found)
            if stamp is not None:
                current[file.path] = (stamp, found)
            if progress:
                progress(done, len(files))
    if cache_file is not None and current != cached:
        _save_cache(cache_file, current)
    return contents


def _read_one(path: Path, status: os.stat_result) -> _Found:
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    if status.st_size > MAX_BYTES:
        return TOO_MANY_BYTES
    try:
        content = path.read_bytes()
        picture = decode_picture(content)
    except ValueError as error:
        return str(error)
    pixels = pixels_hash(picture)
    return _Content(
        bytes_sha256=hashlib.sha256(content).hexdigest(),
        pixels_sha256=pixels,
        appearance=appearance_of(picture, if_flat=pixels),
        width=picture.width,
        height=picture.height,
    )


def _load_cache(file: Path | None, folder: Path, say: Say) -> _Cached:
    if file is None or not file.exists():
        return {}
    if not is_sound(file, file.name):  # its name is that of the folder
        say(f"the stored index of {folder} was damaged ({file}): all its pictures are read again")
        return {}
    content = json.loads(file.read_bytes()[:-CHECKSUM_BYTES])
    files = content["files"] if content["recipe"] == RECIPE else {}
    return {path: ((stamp[0], stamp[1]), _from_json(found)) for path, (stamp, found) in files.items()}


def _save_cache(file: Path, files: _Cached) -> None:
    content = {"recipe": RECIPE, "files": {path: [stamp, _to_json(found)] for path, (stamp, found) in files.items()}}

    def write(part: Path) -> None:
        part.write_text(json.dumps(content))
        seal(part, file.name)

    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, write)


def _from_json(found: dict[str, Any]) -> _Found:
    return str(found["what"]) if "what" in found else _Content(appearance=found.pop("look"), **found)


def _to_json(found: _Found) -> dict[str, Any]:
    if isinstance(found, str):
        return {"what": found}
    fields = asdict(found)
    return {"look" if name == "appearance" else name: value for name, value in fields.items()}


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
