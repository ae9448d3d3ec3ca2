"""The activation store: the frozen trunk's output for each view of each picture, computed once and kept on disk.

A *chunk* is the activations of up to 256 pictures at one cut in one view: a `.npy` file named by the hash of all that
they depend on, which is the pictures' pixels, their size, the weights and the view's recipe. So all trials, workers
and studies that need the same activations share them, and they never have to be invalidated.

A chunk is complete or absent, also after a kill. A process that computes one holds a file lock, released when the
process ends, while others compute other chunks. If the lock is held for too long, or the network's file system has
no locks, a chunk is computed twice, with the same result.

A chunk ends with a checksum, bound to its name, which each process checks when it opens the chunk for the first time. A
damaged chunk is deleted, and so is computed again.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wastetune.backbones import augmentation
from wastetune.backbones.augmentation import build_views
from wastetune.backbones.backbone import Backbone, activation_shape
from wastetune.backbones.cuts import TOP, Cut
from wastetune.backbones.runtime import TrunkRunner, open_trunk
from wastetune.data.pixels import PictureSet
from wastetune.errors import Say, UserError, warn
from wastetune.files import PART_PREFIX, file_lock, is_sound, seal, write_whole
from wastetune.formatting import render_bytes

# In every key: change it whenever the same pixels and weights give other activations. The runtime of the trunk
# is not in it: runtimes agree within 1e-5 of the largest activation (test_runtime.py), float16 keeps 5e-4.
RECIPE = "1"
FORMAT = "2"  # of a chunk's file, also in every key; the first one had no checksum
CHUNK = 256
_LOCK_TIMEOUT = 120.0  # seconds to wait for a chunk that another process is computing
_MAX_WRITE_SECONDS = 24 * 3600.0  # older temporary files belong to processes that were killed

Progress = Callable[[int], None]
_Stamp = tuple[int, int, int]  # a file's number, bytes and time of change: what keeps them was not written to


@dataclass(frozen=True)
class Store:
    """A folder of activations and the most bytes that it may hold."""

    folder: Path
    limit: int
    say: Say = warn  # gets a sentence when a chunk was found damaged
    checked: dict[Path, "_Stamp"] = field(default_factory=dict, compare=False)  # files that were found sound


class ReadableRows(Protocol):
    """What of an array `Activations` uses."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, and the shape of one."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class Activations:
    """The activations of a picture set at one cut in one view, in the order of the set; read when asked for."""

    chunks: tuple[ReadableRows, ...]  # memory-mapped arrays; at the pixels, pictures
    rows: npt.NDArray[np.int64] | None = None  # of the chunks, in this order; None: all of them

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """The row after the last of each chunk."""
        return np.cumsum([len(chunk) for chunk in self.chunks])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture's activations."""
        return tuple(self.chunks[0].shape[1:])

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.rows is None else len(self.rows)

    def __add__(self, other: "Activations") -> "Activations":
        if self.rows is not None or other.rows is not None:
            raise ValueError("activations are joined before rows of them are selected")
        return Activations(self.chunks + other.chunks)

    def select(self, rows: npt.NDArray[np.int64]) -> "Activations":
        """The activations of these rows alone; nothing is read."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The activations of these rows, (len(rows), ...) float32."""
        rows = rows if self.rows is None else self.rows[rows]
        out = np.empty((len(rows), *self.shape), np.float32)
        chunk_of = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(chunk_of):
            chosen, chunk = chunk_of == number, self.chunks[number]
            out[chosen] = chunk[rows[chosen] - (self.ends[number] - len(chunk))]
        return out


def pooled(activations: Activations, *, at_once: int = 256) -> npt.NDArray[np.float32]:
    """The mean over all places of each picture's activations, (n, channels) float32."""
    means = []
    for start in range(0, len(activations), at_once):
        part = activations.take(np.arange(start, min(start + at_once, len(activations))))
        means.append(part.mean(axis=tuple(range(1, part.ndim - 1))) if part.ndim > 2 else part)
    return np.concatenate(means)


def open_store(cache: Path, limit: int | None = None, say: Say = warn) -> Store:
    """The store in a cache folder, of at most `limit` bytes; by default of half the free space of the disk."""
    folder = cache / "activations"
    folder.mkdir(parents=True, exist_ok=True)
    if limit is None:
        limit = (shutil.disk_usage(folder).free + sum(size for _, size, _ in _stored(folder))) // 2
    return Store(folder, limit, say)


def activation_bytes(backbone: Backbone, cut: Cut, pictures: int) -> int:
    """The bytes on disk of the activations of so many pictures at a cut in one view."""
    return int(np.prod(activation_shape(backbone, cut))) * _storage_type(cut).itemsize * pictures


def missing_pictures(
    store: Store, backbone: Backbone, pictures: PictureSet, cuts: Sequence[Cut], view: int, magnitude: float
) -> int:
    """How many of the pictures `fill_activations` would run through the trunk."""
    return sum(
        len(chunk.rows)
        for chunk in _chunks(store, backbone, pictures, view, magnitude)
        if not all(chunk.at(cut).exists() for cut in cuts)
    )


def fill_activations(
    store: Store,
    backbone: Backbone,
    pictures: PictureSet,
    cuts: Sequence[Cut],
    view: int,
    magnitude: float,
    progress: Progress = lambda pictures: None,
) -> None:
    """Computes and stores the missing chunks at these cuts in this view, all cuts of a chunk in one pass.

    Chunks that another process is computing are left to it and awaited at the end.
    `progress` is called with the number of pictures in each chunk. Raises UserError if they do not fit into the store.
    """
    from filelock import Timeout

    def is_missing(chunk: _Chunk) -> bool:
        return not all(chunk.at(cut).exists() for cut in cuts)

    chunks = list(_chunks(store, backbone, pictures, view, magnitude))
    missing = [chunk for chunk in chunks if is_missing(chunk)]
    if not missing:
        return
    count = sum(len(chunk.rows) for chunk in missing)
    needed = sum(activation_bytes(backbone, cut, count) for cut in cuts)
    _make_room(store, needed, keep={chunk.at(cut) for chunk in chunks for cut in cuts})
    trunk = open_trunk(backbone, tuple(cuts))
    for timeout in (0.0, _LOCK_TIMEOUT):  # first the chunks that no other process is computing, then the rest
        for chunk in filter(is_missing, missing):
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(file_lock(chunk.lock, timeout))
                except Timeout:
                    if not timeout:
                        continue
                if is_missing(chunk):  # also after a timeout: the process that holds the lock may be suspended
                    _compute_chunk(trunk, pictures, chunk, view, magnitude, cuts)
            chunk.lock.unlink(missing_ok=True)
            progress(len(chunk.rows))


def open_activations(
    store: Store, backbone: Backbone, pictures: PictureSet, cut: Cut, view: int, magnitude: float
) -> Activations:
    """Stored activations, memory-mapped for reading.

    Raises FileNotFoundError for a chunk that is not stored, and deletes damaged ones, which are then not stored either.
    """
    arrays: list[npt.NDArray[Any]] = []
    damaged: list[Path] = []
    for chunk in _chunks(store, backbone, pictures, view, magnitude):
        path = chunk.at(cut)
        mapped = _map(path) if _is_checked(store, path, chunk.name(cut)) else None
        if mapped is None:
            damaged.append(path)
        else:
            arrays.append(mapped)
    if damaged:
        _delete_damaged(store, damaged)
        raise FileNotFoundError(damaged[0])
    return Activations(tuple(arrays))


def _map(path: Path) -> npt.NDArray[Any] | None:
    """A chunk, memory-mapped for reading; None where it was cut off after it was checked."""
    try:
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        return None
    return mapped


def _is_checked(store: Store, path: Path, name: str) -> bool:
    """Whether a chunk is sound, read as a whole when this process sees its file first; marks it as used."""
    status = path.stat()
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
    if store.checked.get(path) != stamp:
        if not is_sound(path, name):
            return False
        store.checked[path] = stamp
    # The least recently used chunks are deleted first. The other time tells whether a file has changed.
    with contextlib.suppress(OSError):  # a store that may only be read serves as well; nothing is deleted there
        os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
    return True


def _delete_damaged(store: Store, paths: Sequence[Path]) -> None:
    deleted = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process has seen it, too
            path.unlink()
            deleted.append(path)
    if deleted:
        what = f"{len(deleted)} files with activations were" if len(deleted) > 1 else "a file with activations was"
        store.say(f"{what} damaged and deleted, and will be computed again ({deleted[0]})")


@dataclass(frozen=True)
class _Chunk:
    """Some pictures in one view, and the files of their activations."""

    rows: range
    folder: Path
    key: str

    def at(self, cut: Cut) -> Path:
        return self.folder / cut.name / f"{self.key}.npy"

    def name(self, cut: Cut) -> str:
        """What its checksum is bound to."""
        return f"{self.key} {cut.name}"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.key}.lock"


def _chunks(store: Store, backbone: Backbone, pictures: PictureSet, view: int, magnitude: float) -> Iterator[_Chunk]:
    folder = store.folder / f"{backbone.name}-{backbone.digest[:8]}"
    recipe = "plain" if magnitude == 0.0 else f"{augmentation.RECIPE} {view} {magnitude:.9f}"
    for start in range(0, len(pictures), CHUNK):
        rows = range(start, min(start + CHUNK, len(pictures)))
        keys = "".join(pictures.keys[rows.start : rows.stop])
        content = f"{RECIPE} {FORMAT} {backbone.digest} {backbone.size} {recipe}{keys}"
        yield _Chunk(rows, folder, hashlib.sha256(content.encode()).hexdigest()[:40])


def _compute_chunk(
    trunk: TrunkRunner, pictures: PictureSet, chunk: _Chunk, view: int, magnitude: float, cuts: Sequence[Cut]
) -> None:
    outputs: list[list[npt.NDArray[Any]]] = [[] for _ in cuts]
    for activations in trunk.run(_read(pictures, chunk.rows, view, magnitude, trunk.batch)):
        for cut, kept, made in zip(cuts, outputs, activations, strict=True):
            limit = np.finfo(_storage_type(cut))
            kept.append(made.clip(limit.min, limit.max).astype(limit.dtype))
    for cut, batches in zip(cuts, outputs, strict=True):
        path = chunk.at(cut)
        path.parent.mkdir(parents=True, exist_ok=True)
        write = partial(_write_chunk, np.concatenate(batches), chunk.name(cut))
        try:
            write_whole(path, write)
        except FileNotFoundError:  # to a process whose clock has jumped, the file being written looked left over
            write_whole(path, write)


def _write_chunk(activations: npt.NDArray[Any], name: str, path: Path) -> None:
    np.save(path, activations)
    seal(path, name)


def _read(pictures: PictureSet, rows: range, view: int, magnitude: float, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The pixels of this view, a batch at a time, read and augmented lazily."""
    for start in range(rows.start, rows.stop, size):
        batch = range(start, min(start + size, rows.stop))
        yield build_views(pictures.read(batch), [pictures.keys[row] for row in batch], view, magnitude)


def _storage_type(cut: Cut) -> np.dtype[Any]:
    # Feature maps are large, and half precision is enough for them; pooled vectors are small.
    return np.dtype(np.float32 if cut == TOP else np.float16)


def _make_room(store: Store, needed: int, keep: set[Path]) -> None:
    """Deletes what killed processes left half written, and the least recently used chunks until `needed` bytes fit."""
    for changed, _, path in _stored(store.folder, f"{PART_PREFIX}*"):
        if changed < time.time() - _MAX_WRITE_SECONDS:
            path.unlink(missing_ok=True)
    if needed > store.limit:
        raise UserError(
            f"the activations need {render_bytes(needed)} and the store in {store.folder} may hold "
            f"{render_bytes(store.limit)}; free some disk space, raise "
            "WASTETUNE_CACHE_GB, or search a narrower range of frozen_depth"
        )
    chunks = sorted(_stored(store.folder))
    excess = sum(size for _, size, _ in chunks) + needed - store.limit
    for _, size, path in chunks:
        if excess <= 0:
            return
        if path not in keep:
            path.unlink(missing_ok=True)
            excess -= size


def _stored(folder: Path, names: str = "[!.]*.npy") -> Iterator[tuple[float, int, Path]]:
    """The time of last use, the bytes and the path of each chunk."""
    for path in folder.glob(f"*/*/{names}"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process has deleted or renamed it
            continue
        yield status.st_atime, status.st_size, path
