"""The training pictures that a model sees as most like another one."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wastetune.data.image import read_picture, resize_picture
from wastetune.data.splits import read_split_table
from wastetune.files import write_whole
from wastetune.models.bundle import MODEL_FILE
from wastetune.models.saliency import SaliencyModel

_BATCH = 16  # so that a question in between does not wait long for its turn


@dataclass(frozen=True)
class NeighborIndex:
    """Training pictures, and how the model sees them."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    vectors: NDArray[np.float32]  # (n, c), each of length 1
    learnt: frozenset[str]  # hashes of the pixels of all that the final model was trained on, validation too


@dataclass(frozen=True)
class Neighbor:
    """A training picture, and how like another one it is: the cosine of their vectors."""

    path: Path
    name: str  # its class
    similarity: float


def open_neighbor_index(
    results: Path,
    pictures: Path,
    onlooker: SaliencyModel,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NeighborIndex:
    """The training pictures of a study, those that its table of the split calls so and no others.

    Their vectors are computed once and kept in `cache`. UserError where the table or a picture is gone.
    """
    table = read_split_table(results / "split.csv")
    rows = [row for row in table if row.split == "train"]
    paths = tuple(pictures / row.path for row in rows)
    key = hashlib.sha256((results / "bundle" / MODEL_FILE).read_bytes())
    key.update("\n".join(f"{row.path} {row.bytes_sha256}" for row in rows).encode())
    kept = cache / f"vectors-{key.hexdigest()[:32]}.npy"
    if kept.exists():
        vectors = np.load(kept)
    else:
        vectors = _all_vectors(paths, onlooker, progress)
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(kept, lambda part: _save(part, vectors))
    learnt = frozenset(row.pixels_sha256 for row in table if row.split in ("train", "val"))
    return NeighborIndex(paths, tuple(row.class_name for row in rows), vectors, learnt)


def nearest_neighbors(gallery: NeighborIndex, vector: NDArray[np.float32], most: int) -> list[Neighbor]:
    """The pictures that are most like the one of this vector (c,), the likest first."""
    cosines = gallery.vectors @ _unit(vector[None])[0]
    order = np.argsort(-cosines, kind="stable")[:most]
    return [Neighbor(gallery.paths[i], gallery.classes[i], float(cosines[i])) for i in order]


def _all_vectors(
    paths: tuple[Path, ...], onlooker: SaliencyModel, progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    def read(path: Path) -> NDArray[np.uint8]:
        return resize_picture(read_picture(path), onlooker.size)

    parts = []
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(paths), _BATCH):
            progress(start, len(paths))
            parts.append(onlooker.vectors(np.stack(list(pool.map(read, paths[start : start + _BATCH])))))
    return _unit(np.concatenate(parts))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _save(part: Path, vectors: NDArray[np.float32]) -> None:
    with part.open("wb") as file:  # np.save would add a suffix to the name
        np.save(file, vectors)
