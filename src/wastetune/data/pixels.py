"""The pictures of an index, decoded and resized once, as a uint8 array on disk.

The file is a `.npy`, followed by a checksum of each picture, which is bound to the picture's key and is checked
whenever the picture is read. What is damaged is decoded again and takes its place in the file.
"""

import hashlib
import io
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wastetune.data.image import decode_picture, resize_picture
from wastetune.data.index import ImageIndex, Picture
from wastetune.errors import Say, UserError, warn
from wastetune.files import CHECKSUM_BYTES, PART_PREFIX, checksum, file_lock, write_whole

if TYPE_CHECKING:
    from typing_extensions import Buffer

RECIPE = 1  # part of the file's name; changes whenever resize_picture gives other pixels
FORMAT = 2  # of the file; 1 had no checksums
_ATTEMPTS = 3  # to read a picture
BATCH = 64  # pictures in memory at once


@dataclass(frozen=True)
class Pixels:
    """Resized pictures on disk: row i is picture i of the index."""

    index: ImageIndex
    size: int
    path: Path
    say: Say = warn  # gets a sentence when the file or a picture was found damaged

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The pixels_sha256 of each row's picture."""
        return tuple(picture.pixels_sha256 for picture in self.index.pictures)

    @cached_property
    def header(self) -> bytes:
        """The beginning of the file, which makes it a `.npy`."""
        header, shape = io.BytesIO(), (len(self.keys), self.size, self.size, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def read(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """The pictures in these rows, (len(rows), size, size, 3).

        Raises UserError when one is damaged and its file can no longer be decoded.
        """
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError), self.path.open("rb", buffering=0) as file:
                found = np.empty((len(rows), self.size, self.size, 3), np.uint8)
                if all(_read_row(self, file, row, place) for row, place in zip(rows, found, strict=True)):
                    return found
            _repair(self)
        raise UserError(
            f"{self.path} is damaged again as soon as it is repaired; check this machine's disk and memory, or set "
            "WASTETUNE_CACHE to a folder on another disk"
        )


@dataclass(frozen=True)
class PictureSet:
    """n pictures of a data set, for example its training pictures. The others cannot be reached from it.

    `decode` gives what `read` gives, but from the pictures' own files instead of what is stored; UserError where one
    has changed.
    """

    read: Callable[[Sequence[int]], NDArray[np.uint8]]  # positions -> pixels (len(positions), size, size, 3)
    keys: tuple[str, ...]  # pixels_sha256
    labels: NDArray[np.int64]  # (n,)
    paths: tuple[str, ...]  # posix, relative to the data set's folder
    decode: Callable[[range], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.keys)


def select_pictures(index: ImageIndex, pixels: Pixels, rows: Sequence[int]) -> PictureSet:
    """The pictures at these positions of the index, for example those of one side of a split.

    `pixels` may be of an index with more pictures.
    """
    pictures = [index.pictures[row] for row in rows]
    row_of = {key: row for row, key in enumerate(pixels.keys)}
    places = [row_of[picture.pixels_sha256] for picture in pictures]

    def decode(positions: range) -> NDArray[np.uint8]:
        return np.stack([_decode(index.folder, pictures[position], pixels.size) for position in positions])

    return PictureSet(
        lambda positions: pixels.read([places[position] for position in positions]),
        keys=tuple(picture.pixels_sha256 for picture in pictures),
        labels=np.array([picture.label for picture in pictures], np.int64),
        paths=tuple(picture.path for picture in pictures),
        decode=decode,
    )


def open_pixels(
    index: ImageIndex,
    size: int,
    cache: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    say: Say = warn,
) -> Pixels:
    """The pictures of an index at size x size pixels, in a file in the folder ``cache``, written once.

    The file is complete or absent. One process writes it while the others wait; where the file system has no locks,
    each writes all of it, and the last one stays.
    ``progress(done, total)`` counts pictures and is called only while writing. ``say`` gets a sentence when the file,
    or later some of its pictures, are found damaged; they are then decoded again.
    Raises UserError when a picture has changed since it was indexed.
    """
    keys = (picture.pixels_sha256 for picture in index.pictures)
    content = [f"recipe {RECIPE}, format {FORMAT}, size {size}", *keys]
    name = hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
    pixels = Pixels(index, size, cache / f"pixels-{name}.npy", say)
    if not _is_whole(pixels):
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(pixels.path.with_suffix(".lock")):
            if not _is_whole(pixels):
                _write(pixels, progress)
    return pixels


def _write(pixels: Pixels, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the file, under its lock."""
    if pixels.path.exists():
        pixels.say(f"{pixels.path} was damaged (its beginning or its length is wrong): all pictures are decoded again")

    def write(part: Path) -> None:
        total, checksums = len(pixels.keys), []
        # Plain writes, not a writable memory map: on a full disk they raise, a map would kill the process.
        with part.open("wb") as file, ThreadPoolExecutor() as pool:
            file.write(pixels.header)
            for start in range(0, total, BATCH):
                rows = range(start, min(start + BATCH, total))
                for row, content in zip(rows, pool.map(partial(_decode_row, pixels), rows), strict=True):
                    file.write(content.data)
                    checksums.append(_checksum(pixels, row, content.data))
                if progress:
                    progress(rows.stop, total)
            file.writelines(checksums)

    _remove_left_over(pixels.path)
    name = f"{PART_PREFIX}{socket.gethostname()}-{os.getpid()}-{pixels.path.name}"
    write_whole(pixels.path, write, part=pixels.path.with_name(name))


def _remove_left_over(path: Path) -> None:
    """Deletes the gigabytes that killed writers of this machine left; locks may be none, so others may write now."""
    import psutil

    before, after = f"{PART_PREFIX}{socket.gethostname()}-", f"-{path.name}"
    for part in path.parent.glob(f"{before}*{after}"):
        pid = part.name.removeprefix(before).removesuffix(after)
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)
    path.with_suffix(".part").unlink(missing_ok=True)  # of an earlier version


def _repair(pixels: Pixels) -> None:
    """Decodes the damaged pictures again and writes them in their places; all of them where the file is gone.

    A picture is always the same bytes, so it does not matter when somebody reads or writes it at the same time.
    """
    with file_lock(pixels.path.with_suffix(".lock")):
        if not _is_whole(pixels):
            _write(pixels)
            return
        with pixels.path.open("rb+", buffering=0) as file:
            into = np.empty((pixels.size, pixels.size, 3), np.uint8)
            damaged = [row for row in range(len(pixels.keys)) if not _read_row(pixels, file, row, into)]
            for row in damaged:
                content = _decode_row(pixels, row)
                place, checksum_place = _places(pixels, row)
                _seek(file, place).write(content.data)
                _seek(file, checksum_place).write(_checksum(pixels, row, content.data))
    if damaged:  # else another process was faster
        pixels.say(
            f"{len(damaged)} of the {len(pixels.keys)} pictures in {pixels.path} were damaged: they were decoded again"
        )


def _is_whole(pixels: Pixels) -> bool:
    """Whether the file is there, with the right beginning and length."""
    try:
        with pixels.path.open("rb", buffering=0) as file:
            end = _places(pixels, len(pixels.keys))[1]
            return file.read(len(pixels.header)) == pixels.header and pixels.path.stat().st_size == end
    except FileNotFoundError:
        return False


def _read_row(pixels: Pixels, file: io.FileIO, row: int, into: NDArray[np.uint8]) -> bool:
    """Reads a picture into an array, (size, size, 3); false where it is damaged."""
    place, checksum_place = _places(pixels, row)
    try:
        _seek(file, place).readinto(into.data)
        return _seek(file, checksum_place).read(CHECKSUM_BYTES) == _checksum(pixels, row, into.data)
    except OSError:  # a bad sector; read through a memory map, it would kill the process
        return False


def _decode_row(pixels: Pixels, row: int) -> NDArray[np.uint8]:
    return _decode(pixels.index.folder, pixels.index.pictures[row], pixels.size)


def _decode(folder: Path, picture: Picture, size: int) -> NDArray[np.uint8]:
    return resize_picture(_read_unchanged(folder, picture), size)


def _checksum(pixels: Pixels, row: int, content: "Buffer") -> bytes:
    return checksum(pixels.keys[row], content)


def _places(pixels: Pixels, row: int) -> tuple[int, int]:
    """Where a row and its checksum begin in the file."""
    begin, length = len(pixels.header), 3 * pixels.size**2
    return begin + row * length, begin + len(pixels.keys) * length + row * CHECKSUM_BYTES


def _seek(file: io.FileIO, place: int) -> io.FileIO:
    file.seek(place)
    return file


def _read_unchanged(folder: Path, picture: Picture) -> Image.Image:
    path = folder / picture.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}; it was there when the folder was indexed.") from error
    if hashlib.sha256(content).hexdigest() != picture.bytes_sha256:
        raise UserError(f"{path} has changed since the folder was indexed: start again.")
    return decode_picture(content)
