"""A backbone with its weights and preprocessing, cut into a frozen trunk and a trainable tail."""

import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wastetune.backbones.catalog import BACKBONES, find_architecture, weights_file_name
from wastetune.backbones.cuts import PIXELS, TOP, Cut, block_ends, list_cuts
from wastetune.backbones.keras_applications import build_preprocessing, find_weights, weights_digest
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line
from wastetune.seeding import seed_for


@dataclass(frozen=True)
class Backbone:
    """A backbone in memory, with its weights.

    `preprocess` maps pixels in 0..255 to the input of `body`, and `body` maps that to pooled vectors; both are Keras
    models for pictures of (size, size, 3). `digest` is the SHA-256 of the weights.
    """

    name: str
    size: int
    digest: str
    cuts: tuple[Cut, ...]
    body: Any
    preprocess: Any


def load_backbone(
    name: str, weights: str = "imagenet", *, size: int | None = None, folder: Path | None = None
) -> Backbone:
    """A backbone with its weights loaded, without a classification top.

    Random weights ("none") are the same on every call. All BatchNormalization layers are frozen: in a tail
    they would otherwise learn the statistics of small batches (and Keras ignores `training=False` in `fit`).
    Raises UserError for an unknown name, and for weights that cannot be found, downloaded or loaded.
    """
    _share_cores()
    with suppressed_stderr():
        import keras

    row = find_architecture(name)
    source = find_weights(name, weights, folder)
    side = size or row.size
    build = getattr(keras.applications, row.builder)
    keras.utils.set_random_seed(seed_for("weights", name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that do not fit are reported once, below
            body = build(
                include_top=False,
                pooling="avg",
                input_shape=(side, side, 3),
                weights=source if source is None else str(source),
                **row.options,
            )
    except ValueError as error:
        if isinstance(source, Path):
            raise UserError(f"the weights in {source} do not fit {name}: {first_line(error, most=200)}") from error
        raise UserError(f"{name} cannot be built for pictures of {side} px: {first_line(error, most=200)}") from error
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if isinstance(source, Path):
            raise UserError(f"the weights in {source} cannot be read: {first_line(error, most=200)}") from error
        place = folder or Path("weights")
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded ({first_line(error, most=200)}); "
            f"without a network, put a file named {weights_file_name(name)} into {place} and pass "
            f"--weights {place}, or --weights none"
        ) from error
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return Backbone(
        name=name,
        size=side,
        digest=weights_digest(body),
        cuts=list_cuts(row, body),
        body=body,
        preprocess=build_preprocessing(row.preprocessing, side),
    )


def nearest_cut(backbone: Backbone, frozen_depth: float) -> Cut:
    """The cut nearest to a frozen depth; of two equally near, the one that freezes less."""
    return min(backbone.cuts, key=lambda cut: (abs(cut.frozen_depth - frozen_depth), cut.frozen_depth))


def reachable_cuts(backbone: Backbone, low: float, high: float) -> tuple[Cut, ...]:
    """The cuts nearest to frozen depths between low and high, from the lowest to the highest."""
    first, last = nearest_cut(backbone, low), nearest_cut(backbone, high)
    return tuple(cut for cut in backbone.cuts if first.frozen_depth <= cut.frozen_depth <= last.frozen_depth)


def build_trunk(backbone: Backbone, cuts: tuple[Cut, ...]) -> Any:
    """The model from pixels (n, size, size, 3) in 0..255 to the activations at each of the cuts.

    Its output is a list for several cuts, a tensor for one.
    """
    import keras

    inputs = keras.Input((backbone.size, backbone.size, 3), name="pixels")
    found: dict[Cut, Any] = {}
    if PIXELS in cuts:
        found[PIXELS] = keras.layers.Identity(name="pixels_as_they_are")(inputs)
    if computed := [cut for cut in cuts if cut != PIXELS]:
        ends = [_tensor_at(backbone, cut) for cut in computed]
        below = keras.Model(backbone.body.input, ends if len(ends) > 1 else ends[0])
        made = below(backbone.preprocess(inputs))
        found |= zip(computed, made if len(ends) > 1 else [made], strict=True)
    outputs = [found[cut] for cut in cuts]
    return keras.Model(inputs, outputs if len(cuts) > 1 else outputs[0], name="trunk")


def split(backbone: Backbone, cut: Cut) -> tuple[Any, Any]:
    """Trunk (pixels -> activations at the cut) and tail (activations -> pooled vectors).

    Both share the backbone's layers, so code that trains the tail must restore its weights afterwards.
    At the top the tail is the identity; at the pixels the trunk is.
    """
    import keras

    trunk = build_trunk(backbone, (cut,))
    if cut == TOP:
        return trunk, keras.Sequential(
            [keras.Input(backbone.body.output.shape[1:]), keras.layers.Identity()], name="tail"
        )
    if cut == PIXELS:
        pixels = keras.Input((backbone.size, backbone.size, 3), name="pixels")
        return trunk, keras.Model(pixels, backbone.body(backbone.preprocess(pixels)), name="tail")
    return trunk, keras.Model(_tensor_at(backbone, cut), backbone.body.output, name="tail")


def gains_from_xla(backbone: Backbone, cut: Cut) -> bool:
    """Whether XLA makes training the layers above the cut faster on this CPU (figures in docs/log.md).

    It does for some backbones where vectors have 256 bits. With 512, TensorFlow's own convolutions are faster.
    """
    return BACKBONES[backbone.name].xla and cut != TOP and not _has_avx512()


@cache
def _has_avx512() -> bool:
    import numpy as np

    extensions: Any = np.show_config(mode="dicts")["SIMD Extensions"]
    names = [name for kind in ("baseline", "found") for name in extensions.get(kind, ())]
    return any(name == "X86_V4" or name.startswith("AVX512") for name in names)


def _share_cores() -> None:
    """Gives each operation of TensorFlow half of the cores: the halves of a batch, or two batches, run side by side.

    TensorFlow reads this before its first operation, and not again.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores // 2)))


def activation_shape(backbone: Backbone, cut: Cut) -> tuple[int, ...]:
    """The shape of one picture's activations at a cut: (h, w, c), or (c,) at the top."""
    if cut == PIXELS:
        return (backbone.size, backbone.size, 3)
    return tuple(int(n) for n in _tensor_at(backbone, cut).shape[1:])


def _tensor_at(backbone: Backbone, cut: Cut) -> Any:
    if cut == TOP:
        return backbone.body.output
    row = BACKBONES[backbone.name]
    return block_ends(row, backbone.body)[cut.name].output
