"""The pictures of the training set that a model sees as most like another one."""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wastetune.attention import Onlooker
from wastetune.bundle import MODEL_FILE
from wastetune.data.picture import read_picture, resize_picture
from wastetune.errors import UserError
from wastetune.report import write_whole

_BATCH = 32


@dataclass(frozen=True)
class Gallery:
    """What the model was trained on, and how it sees it."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    vectors: NDArray[np.float32]  # (n, c), each of length 1


@dataclass(frozen=True)
class Neighbour:
    """A training picture, and how like the other one it is: the cosine of their vectors."""

    path: Path
    name: str  # its class
    similarity: float


def open_gallery(
    results: Path,
    pictures: Path,
    onlooker: Onlooker,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Gallery:
    """The pictures that a study's final model was trained on: training and validation, never test.

    Their vectors are computed once and kept in `cache`. UserError where the table of the split or a picture is gone.
    """
    table = results / "split.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] != "test"]
    except OSError as error:
        raise UserError(f"{table} cannot be read ({error.strerror}); run the study again, which writes it") from None
    key = hashlib.sha256((results / "bundle" / MODEL_FILE).read_bytes())
    key.update("\n".join(row["bytes_sha256"] for row in rows).encode())
    kept = cache / f"vectors-{key.hexdigest()[:32]}.npy"
    paths = tuple(pictures / row["path"] for row in rows)
    if kept.exists():
        vectors = np.load(kept)
    else:
        vectors = _all_vectors(paths, onlooker, progress)
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(kept, lambda part: _save(part, vectors))
    return Gallery(paths, tuple(row["class"] for row in rows), vectors)


def most_similar(gallery: Gallery, vector: NDArray[np.float32], most: int = 4) -> list[Neighbour]:
    """The pictures that are most like the one of this vector (c,), the likest first."""
    cosines = gallery.vectors @ _unit(vector[None])[0]
    order = np.argsort(-cosines, kind="stable")[:most]
    return [Neighbour(gallery.paths[i], gallery.classes[i], float(cosines[i])) for i in order]


def _all_vectors(
    paths: tuple[Path, ...], onlooker: Onlooker, progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        parts.append(onlooker.vectors(np.stack([resize_picture(read_picture(path), onlooker.size) for path in batch])))
        progress(start + len(batch), len(paths))
    return _unit(np.concatenate(parts))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / lengths, np.float32)


def _save(part: Path, vectors: NDArray[np.float32]) -> None:
    with part.open("wb") as file:
        np.save(file, vectors)
