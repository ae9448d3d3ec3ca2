"""A study's file becomes all that its trials need: pictures, split, backbone, and the fingerprint of it all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wastetune import __version__
from wastetune.activations import PictureSet, open_store
from wastetune.architectures import find_architecture
from wastetune.backbone import load_backbone
from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.pixels import Pixels, open_pixels
from wastetune.data.sources import find_dataset
from wastetune.data.splits import Splits, split_digest, split_index
from wastetune.errors import UserError
from wastetune.objective import Setting, TuningData
from wastetune.parameters import render_param
from wastetune.places import cache_folder
from wastetune.space import load_space
from wastetune.spec import StudySpec
from wastetune.terminal import Terminal

# What a study may change and stay the same, or what the rest of the fingerprint says better.
_NO_PART = {"name", "source", "question", "trials", "weights", "dataset", "space"}


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run. `test` is for `retrain` alone."""

    setting: Setting
    test: PictureSet
    index: ImageIndex
    splits: Splits
    fingerprint: dict[str, str]


def cache_limit() -> int | None:
    """How many bytes of activations may be kept: WASTETUNE_CACHE_GB, or None for half of the free disk."""
    text = os.environ.get("WASTETUNE_CACHE_GB")
    if not text:
        return None
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"WASTETUNE_CACHE_GB is {text!r}, but must be a number of gigabytes, such as 20")
    return limit


def prepare_study(spec: StudySpec, *, data: Path | None, weights: Path | None, terminal: Terminal) -> Prepared:
    """Everything a study's trials need.

    `data` is a folder of data sets, `weights` a folder of weights files; both are searched first.
    UserError for whatever in the study's file, the folders or the weights does not fit.
    """
    with _key_of(spec, "backbone"):
        architecture = find_architecture(spec.backbone)
    with _key_of(spec, "space"):
        space = load_space(spec.space)
    with _key_of(spec, "dataset"):
        folder = find_dataset(spec.dataset, data)
    cache = cache_folder()
    with terminal.bar("reading pictures", None) as done:
        index = index_folder(folder, cache=cache, progress=_steps(done))
    splits = split_index(index, seed=spec.seed, val_fraction=spec.val_fraction, test_fraction=spec.test_fraction)
    with terminal.bar("decoding pictures", len(index.pictures)) as done:
        pixels = open_pixels(index, spec.image_size or architecture.size, cache, progress=_steps(done))
    backbone = load_backbone(spec.backbone, spec.weights, size=spec.image_size, folder=weights)
    train, val, test = (_select(index, pixels, rows) for rows in (splits.train, splits.val, splits.test))
    return Prepared(
        setting=Setting(spec, space, index.classes, backbone, open_store(cache, cache_limit()), TuningData(train, val)),
        test=test,
        index=index,
        splits=splits,
        fingerprint={
            "wastetune version": __version__,
            **{key: str(value) for key, value in spec.model_dump(exclude=_NO_PART).items()},
            # Later parameters depend on earlier ones, so their order counts.
            "space": ", ".join(key for key, _ in space.params),
            **{f"space's {key}": render_param(param) for key, param in space.params},
            "data and split": split_digest(index, splits)[:16],
            "weights": backbone.digest[:16],
        },
    )


@contextmanager
def _key_of(spec: StudySpec, key: str) -> Iterator[None]:
    """Says which key of which file a mistake is in."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{spec.source}: {key} = {getattr(spec, key)!r}: {error}") from None


def _select(index: ImageIndex, pixels: Pixels, rows: tuple[int, ...]) -> PictureSet:
    def read(positions: range) -> npt.NDArray[np.uint8]:
        return np.stack([pixels.array[rows[position]] for position in positions])

    labels = np.array([index.pictures[row].label for row in rows], np.int64)
    return PictureSet(read, tuple(pixels.keys[row] for row in rows), labels)


def _steps(done: Callable[[int], None]) -> Callable[[int, int], None]:
    """A function that is told (done so far, total) from one that is told what was added."""
    last = 0

    def progress(so_far: int, total: int) -> None:
        nonlocal last
        done(so_far - last)
        last = so_far

    return progress
