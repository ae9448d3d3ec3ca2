"""The training pictures whose embeddings are nearest to that of a picture."""

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
from wastetune.models.bundle import model_file
from wastetune.models.saliency import SaliencyModel

_BATCH = 16  # small, so that a prediction between two batches does not wait long


@dataclass(frozen=True)
class NeighborIndex:
    """The training pictures of a study and their embeddings."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    embeddings: NDArray[np.float32]  # (n, c), each of length 1
    trained_on: frozenset[str]  # hashes of the pixels that the final model was trained on, validation pictures too


@dataclass(frozen=True)
class Neighbor:
    """A training picture near another picture."""

    path: Path
    class_name: str
    similarity: float  # the cosine of the embeddings


def open_neighbor_index(
    results: Path,
    pictures: Path,
    model: SaliencyModel,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NeighborIndex:
    """The training pictures in the split.csv of a results folder; `pictures` is the folder of the data set.

    Their embeddings are computed once and kept in `cache`. `progress(done, total)` counts pictures.
    Raises UserError if the table or a picture is missing.
    """
    table = read_split_table(results / "split.csv")
    rows = [row for row in table if row.split == "train"]
    paths = tuple(pictures / row.path for row in rows)
    key = hashlib.sha256(model_file(results / "bundle").read_bytes())
    key.update("\n".join(f"{row.path} {row.bytes_sha256}" for row in rows).encode())
    file = cache / f"vectors-{key.hexdigest()[:32]}.npy"
    if file.exists():
        embeddings = np.load(file)
    else:
        embeddings = _embed_all(paths, model, progress)
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda part: np.save(part, embeddings))
    trained_on = frozenset(row.pixels_sha256 for row in table if row.split in ("train", "val"))
    return NeighborIndex(paths, tuple(row.class_name for row in rows), embeddings, trained_on)


def nearest_neighbors(index: NeighborIndex, embedding: NDArray[np.float32], count: int) -> list[Neighbor]:
    """The nearest training pictures of an embedding (c,), at most `count`, the nearest first."""
    cosines = index.embeddings @ _unit(embedding[None])[0]
    order = np.argsort(-cosines, kind="stable")[:count]
    return [Neighbor(index.paths[i], index.classes[i], float(cosines[i])) for i in order]


def _embed_all(
    paths: tuple[Path, ...], model: SaliencyModel, progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    def read(path: Path) -> NDArray[np.uint8]:
        return resize_picture(read_picture(path), model.size)

    batches = []
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(paths), _BATCH):
            progress(start, len(paths))
            batches.append(model.embed(np.stack(list(pool.map(read, paths[start : start + _BATCH])))))
    return _unit(np.concatenate(batches))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
