"""The activation store: what the frozen trunk makes of each view of each picture, computed once and kept on disk.

A *part* is the activations of up to 256 pictures at one cut in one view, a `.npy` file named by the hash of
everything that went into it: the pictures' pixels, the size, the weights and the view's recipe. So a part is
shared by every trial, worker and study to which it is the same, and never has to be invalidated.

A part is written to a temporary file and renamed: it is complete or absent, also after a kill. One process
computes a part, under a file lock that dies with it, while others compute other parts. Where a lock is held for too
long, or does not hold on a network's file system, a part is computed twice and is the same.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones import augmentation
from wastetune.backbones.augmentation import build_views
from wastetune.backbones.backbone import Backbone, activation_shape
from wastetune.backbones.cuts import TOP, Cut
from wastetune.backbones.runtime import TrunkRunner, open_trunk
from wastetune.data.pixels import PictureSet
from wastetune.errors import UserError

# Part of every key: change it whenever the same pixels and weights give other activations. What ran the trunk
# is no part of it: runtimes agree within 1e-5 of the largest activation (test_runtime.py), float16 keeps 5e-4.
RECIPE = "1"
PART = 256
_PATIENCE = 120.0  # seconds that a part in another process's hands is waited for
_ABANDONED = 24 * 3600.0  # seconds; no part takes so long

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Store:
    """Where activations lie and how many bytes they may take."""

    folder: Path
    limit: int


@dataclass(frozen=True)
class Activations:
    """The activations of a picture set at one cut in one view, memory-mapped. Rows are in the set's order."""

    parts: tuple[npt.NDArray[Any], ...]

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each part ends, in rows."""
        return np.cumsum([len(part) for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture's activations."""
        return tuple(self.parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __add__(self, other: "Activations") -> "Activations":
        return Activations(self.parts + other.parts)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The activations of these rows, (len(rows), ...) float32."""
        out = np.empty((len(rows), *self.shape), np.float32)
        part_of = np.searchsorted(self.ends, rows, side="right")
        for part in np.unique(part_of):
            chosen = part_of == part
            out[chosen] = self.parts[part][rows[chosen] - (self.ends[part] - len(self.parts[part]))]
        return out


def open_store(cache: Path, limit: int | None = None) -> Store:
    """The store in a cache folder; it keeps to `limit` bytes, by default to half of what the disk still has."""
    folder = cache / "activations"
    folder.mkdir(parents=True, exist_ok=True)
    if limit is None:
        limit = (shutil.disk_usage(folder).free + sum(size for _, size, _ in _stored(folder))) // 2
    return Store(folder, limit)


def activation_bytes(backbone: Backbone, cut: Cut, pictures: int) -> int:
    """What the activations of so many pictures at a cut take on disk, for one view."""
    return int(np.prod(activation_shape(backbone, cut))) * _storage_type(cut).itemsize * pictures


def missing_pictures(
    store: Store, backbone: Backbone, pictures: PictureSet, cuts: Sequence[Cut], view: int, magnitude: float
) -> int:
    """How many of the pictures `fill_activations` would have to push through the trunk."""
    return sum(
        len(part.rows)
        for part in _parts(store, backbone, pictures, view, magnitude)
        if not all(part.at(cut).exists() for cut in cuts)
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
    """Every missing part at these cuts in this view, all cuts of a part in one pass through the trunk.

    Parts that another process is computing are left to it at first and waited for at the end.
    `progress` is told the pictures done. UserError where they would not fit into the store.
    """
    from filelock import FileLock, Timeout

    def is_missing(part: _Part) -> bool:
        return not all(part.at(cut).exists() for cut in cuts)

    parts = list(_parts(store, backbone, pictures, view, magnitude))
    missing = [part for part in parts if is_missing(part)]
    if not missing:
        return
    count = sum(len(part.rows) for part in missing)
    needed = sum(activation_bytes(backbone, cut, count) for cut in cuts)
    _make_room(store, needed, spare={part.at(cut) for part in parts for cut in cuts})
    trunk = open_trunk(backbone, tuple(cuts))
    for patience in (0.0, _PATIENCE):  # first what nobody else has in hand, then wait for the rest
        for part in filter(is_missing, missing):
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(FileLock(part.lock, timeout=patience))
                except Timeout:
                    if not patience:
                        continue
                if is_missing(part):  # also where it was waited for in vain: whoever has it in hand may be paused
                    _compute_part(trunk, pictures, part, view, magnitude, cuts)
            part.lock.unlink(missing_ok=True)
            progress(len(part.rows))


def open_activations(
    store: Store, backbone: Backbone, pictures: PictureSet, cut: Cut, view: int, magnitude: float
) -> Activations:
    """Stored activations, memory-mapped for reading. FileNotFoundError where a part has not been computed."""
    arrays = []
    for part in _parts(store, backbone, pictures, view, magnitude):
        arrays.append(np.load(part.at(cut), mmap_mode="r"))
        os.utime(part.at(cut))  # the store forgets by time of last use
    return Activations(tuple(arrays))


@dataclass(frozen=True)
class _Part:
    """Some pictures in one view, and where their activations lie."""

    rows: range
    folder: Path
    key: str

    def at(self, cut: Cut) -> Path:
        return self.folder / cut.name / f"{self.key}.npy"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.key}.lock"


def _parts(store: Store, backbone: Backbone, pictures: PictureSet, view: int, magnitude: float) -> Iterator[_Part]:
    folder = store.folder / f"{backbone.name}-{backbone.digest[:8]}"
    recipe = "plain" if magnitude == 0.0 else f"{augmentation.RECIPE} {view} {magnitude:.9f}"
    for start in range(0, len(pictures), PART):
        rows = range(start, min(start + PART, len(pictures)))
        keys = "".join(pictures.keys[rows.start : rows.stop])
        content = f"{RECIPE} {backbone.digest} {backbone.size} {recipe}{keys}"
        yield _Part(rows, folder, hashlib.sha256(content.encode()).hexdigest()[:40])


def _compute_part(
    trunk: TrunkRunner, pictures: PictureSet, part: _Part, view: int, magnitude: float, cuts: Sequence[Cut]
) -> None:
    outputs: list[list[npt.NDArray[Any]]] = [[] for _ in cuts]
    for activations in trunk.run(_read(pictures, part.rows, view, magnitude, trunk.batch)):
        for cut, kept, made in zip(cuts, outputs, activations, strict=True):
            limit = np.finfo(_storage_type(cut))
            kept.append(made.clip(limit.min, limit.max).astype(limit.dtype))
    for cut, batches in zip(cuts, outputs, strict=True):
        path = part.at(cut)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.tmp")  # process numbers are a machine's own
        with temporary.open("wb") as file:
            np.save(file, np.concatenate(batches))
        temporary.replace(path)


def _read(pictures: PictureSet, rows: range, view: int, magnitude: float, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The pixels of this view, a batch at a time: read and augmented when they are asked for."""
    for start in range(rows.start, rows.stop, size):
        batch = range(start, min(start + size, rows.stop))
        yield build_views(pictures.read(batch), [pictures.keys[row] for row in batch], view, magnitude)


def _storage_type(cut: Cut) -> np.dtype[Any]:
    # Feature maps are large and keep their sense in half precision; pooled vectors are small.
    return np.dtype(np.float32 if cut == TOP else np.float16)


def _make_room(store: Store, needed: int, spare: set[Path]) -> None:
    """Deletes the parts that were used longest ago until so many more bytes fit, and what kills left unfinished."""
    for temporary in store.folder.glob("*/*/*.tmp"):
        if temporary.stat().st_mtime < time.time() - _ABANDONED:
            temporary.unlink(missing_ok=True)
    if needed > store.limit:
        raise UserError(
            f"the activations need {needed / 1e9:.1f} GB and the store in {store.folder} may hold "
            f"{store.limit / 1e9:.1f} GB; free some disk space, raise "
            "WASTETUNE_CACHE_GB, or search a narrower range of frozen_depth"
        )
    parts = sorted(_stored(store.folder))
    excess = sum(size for _, size, _ in parts) + needed - store.limit
    for _, size, path in parts:
        if excess <= 0:
            return
        if path not in spare:
            path.unlink(missing_ok=True)
            excess -= size


def _stored(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each part was last used, its bytes, its path."""
    for path in folder.glob("*/*/*.npy"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process made room
            continue
        yield status.st_mtime, status.st_size, path
