"""The pictures of an index, decoded and resized once, as a uint8 array on disk."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from wastetune.data.image import decode_picture, resize_picture
from wastetune.data.index import ImageIndex, Picture
from wastetune.errors import UserError
from wastetune.files import write_whole

RECIPE = 1  # part of the file's name; changes whenever resize_picture gives other pixels
BATCH = 64  # pictures in memory at once


@dataclass(frozen=True)
class Pixels:
    """Resized pictures: row i of ``array`` is picture i of the index."""

    array: NDArray[np.uint8]  # (pictures, size, size, 3), memory-mapped, read-only
    keys: tuple[str, ...]  # pixels_sha256 of each row's picture
    size: int


@dataclass(frozen=True)
class PictureSet:
    """n pictures of a data set, for example its training pictures. The others cannot be reached from it."""

    read: Callable[[Sequence[int]], NDArray[np.uint8]]  # positions -> pixels (len(positions), size, size, 3)
    keys: tuple[str, ...]  # pixels_sha256
    labels: NDArray[np.int64]  # (n,)
    paths: tuple[str, ...]  # posix, relative to the data set's folder

    def __len__(self) -> int:
        return len(self.keys)


def select_pictures(index: ImageIndex, pixels: Pixels, rows: Sequence[int]) -> PictureSet:
    """The pictures at these positions of the index, for example those of one side of a split.

    `pixels` may be of an index with more pictures.
    """
    pictures = [index.pictures[row] for row in rows]
    row_of = {key: row for row, key in enumerate(pixels.keys)}
    places = [row_of[picture.pixels_sha256] for picture in pictures]

    def read(positions: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([pixels.array[places[position]] for position in positions])

    return PictureSet(
        read,
        keys=tuple(picture.pixels_sha256 for picture in pictures),
        labels=np.array([picture.label for picture in pictures], np.int64),
        paths=tuple(picture.path for picture in pictures),
    )


def open_pixels(
    index: ImageIndex, size: int, cache: Path, *, progress: Callable[[int, int], None] | None = None
) -> Pixels:
    """The pictures of an index at size x size pixels, from a file in the folder ``cache``, written once.

    The file is complete or absent. One process writes it while the others wait.
    ``progress(done, total)`` counts pictures and is called only while writing.
    Raises UserError when a picture has changed since it was indexed.
    """
    keys = tuple(picture.pixels_sha256 for picture in index.pictures)
    name = hashlib.sha256("\n".join([f"recipe {RECIPE}, size {size}", *keys]).encode()).hexdigest()[:32]
    path = cache / f"pixels-{name}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _write(index, size, path, progress)
    return Pixels(np.load(path, mmap_mode="r"), keys, size)


def _write(index: ImageIndex, size: int, path: Path, progress: Callable[[int, int], None] | None) -> None:
    def row(picture: Picture) -> bytes:
        return resize_picture(_read_unchanged(index.folder, picture), size).tobytes()

    def write(part: Path) -> None:
        total = len(index.pictures)
        # Plain writes, not a writable memory map: on a full disk they raise, a map would kill the process.
        with part.open("wb") as file, ThreadPoolExecutor() as pool:
            _write_header(file, (total, size, size, 3))
            for start in range(0, total, BATCH):
                for content in pool.map(row, index.pictures[start : start + BATCH]):
                    file.write(content)
                if progress:
                    progress(min(start + BATCH, total), total)

    # The holder of the lock is the only writer, so it may overwrite the gigabytes that a killed one left.
    write_whole(path, write, part=path.with_suffix(".part"))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _read_unchanged(folder: Path, picture: Picture) -> Image.Image:
    path = folder / picture.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}; it was there when the folder was indexed.") from error
    if hashlib.sha256(content).hexdigest() != picture.bytes_sha256:
        raise UserError(f"{path} has changed since the folder was indexed: start again.")
    return decode_picture(content)
