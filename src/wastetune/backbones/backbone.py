"""A backbone with its weights and preprocessing, cut into a frozen trunk and a trainable tail."""

import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from wastetune.backbones.catalog import BACKBONES, Preprocessing, find_architecture, weights_file_name
from wastetune.backbones.cuts import PIXELS, TOP, Cut, block_ends, list_cuts
from wastetune.backbones.keras_applications import build_preprocessing, find_weights, named_for_keras, weights_digest
from wastetune.backbones.own.flat_model import FlatModel, flatten_model
from wastetune.backbones.own.hub_preset import load_preset
from wastetune.backbones.own.keras_file import read_keras
from wastetune.backbones.own.onnx_trunk import OnnxTrunk, load_onnx
from wastetune.backbones.own.scaling import SCALINGS, Scaling, build_scaling
from wastetune.backbones.schemes import Source, find_source, needs_preprocessing
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line
from wastetune.seeding import seed_for


@dataclass(frozen=True)
class Backbone:
    """A backbone in memory, with its weights.

    `preprocess` maps pixels in 0..255 to the input of `body`, and `body` maps that to pooled vectors; both are Keras
    models for pictures of (size, size, 3). `digest` is the SHA-256 of the weights; of a file of one's own, that of its
    bytes and of what the study says of it. A trunk in an ONNX file takes the place of both models.
    """

    name: str
    size: int
    digest: str
    cuts: tuple[Cut, ...]
    body: Any
    preprocess: Any
    ends: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # of one's own: cut -> tensor
    onnx: OnnxTrunk | None = field(default=None, compare=False, repr=False)
    left_off: tuple[str, ...] = ()  # layers of the classification head of a file


def load_backbone(
    name: str,
    weights: str = "imagenet",
    *,
    size: int | None = None,
    folder: Path | None = None,
    near: Path = Path(),
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
) -> Backbone:
    """A backbone with its weights loaded, without a classification top.

    A name of the catalog, the path of a .keras or .onnx file, or `keras_hub:` and a preset or its folder; paths start
    at the folder `near`. `preprocessing` and `layer`, the top, are for those that are not of the catalog.

    Random weights ("none") are the same on every call. All BatchNormalization layers are frozen: in a tail
    they would otherwise learn the statistics of small batches (and Keras ignores `training=False` in `fit`).
    Raises UserError for an unknown name, for weights that cannot be found, downloaded or loaded, and for a file that
    cannot be cut.
    """
    _share_cores()
    source = find_source(name, near, weights=weights, preprocessing=preprocessing, layer=layer)
    if source.kind == "catalog":
        return _load_from_catalog(name, weights, size=size, folder=folder)
    scaling = SCALINGS[preprocessing] if preprocessing else None
    if source.kind == "keras_hub":
        return _load_preset(source, size, scaling)
    recipe = f"{preprocessing} {layer}"
    if source.kind == "onnx":
        trunk = load_onnx(Path(source.place), size, scaling or Scaling(), layer)
        digest = _file_digest(source.place, recipe)
        left_off = (trunk.left_off,) if trunk.left_off else ()
        return Backbone(source.name, trunk.size, digest, (TOP,), None, None, onnx=trunk, left_off=left_off)
    return _load_keras_file(source, size, scaling, layer, recipe)


def _load_keras_file(
    source: Source, size: int | None, scaling: Scaling | None, layer: str | None, recipe: str
) -> Backbone:
    """The model in a .keras file."""
    digest = _file_digest(source.place, recipe)
    try:
        model = read_keras(Path(source.place))
    except UserError:
        raise
    except Exception as error:  # Keras raises anything over a broken file
        raise UserError(f"{source.place} cannot be read as a Keras model: {first_line(error, most=200)}") from error
    side = _input_side(model, source) or size
    if side is None:
        raise UserError(f"{source.place} does not say for what size of pictures it is; add image_size to the study")
    try:
        flat = flatten_model(model, size or side, layer, lambda layer, tensor: None)
    except UserError as error:
        raise UserError(f"{source.place}: {error}") from error
    if scaling is None and not flat.scales:
        raise UserError(needs_preprocessing(source.place))
    return _own_backbone(source, size or side, digest, flat, scaling or Scaling())


def _load_preset(source: Source, size: int | None, scaling: Scaling | None) -> Backbone:
    """A preset of KerasHub."""
    preset = load_preset(source.place, size)
    if (scaling := scaling or preset.scaling) is None:
        raise UserError(needs_preprocessing(source.place))
    content = preset.digest or weights_digest(preset.flat.body)
    digest = hashlib.sha256(f"{content} {scaling}".encode()).hexdigest()
    return _own_backbone(source, preset.size, digest, preset.flat, scaling)


def _own_backbone(source: Source, size: int, digest: str, flat: FlatModel, scaling: Scaling) -> Backbone:
    count = len(flat.ends) + 1
    between = (Cut(name, (number + 1) / count) for number, name in enumerate(flat.ends))
    return Backbone(
        name=source.name,
        size=size,
        digest=digest,
        cuts=(PIXELS, *between, TOP),
        body=flat.body,
        preprocess=build_scaling(scaling, size),
        ends=flat.ends,
        left_off=flat.left_off,
    )


def _file_digest(file: str, recipe: str) -> str:
    """The SHA-256 of a file's bytes and of what the study says of it."""
    content = hashlib.sha256(Path(file).read_bytes())
    content.update(f"\n{recipe}".encode())
    return content.hexdigest()


def _input_side(model: Any, source: Source) -> int | None:
    """The pixels a side that a model is for; None where it takes any. UserError where it takes no pictures."""
    import keras

    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise UserError(f"{source.place} is no functional model of Keras, so its layers cannot be told apart")
    shapes = [tuple(each.shape) for each in model.inputs]
    if len(shapes) != 1 or len(model.outputs) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3:
        raise UserError(
            f"{source.place} has inputs {shapes} and {len(model.outputs)} outputs; a backbone takes one picture, "
            "(None, h, w, 3), and gives one output"
        )
    height, width = shapes[0][1:3]
    if height != width:
        raise UserError(f"{source.place} takes pictures of {height} x {width}; wastetune's are square")
    return None if height is None else int(height)


def _load_from_catalog(name: str, weights: str, *, size: int | None, folder: Path | None) -> Backbone:
    with suppressed_stderr():
        import keras

    row = find_architecture(name)
    source = find_weights(name, weights, folder)
    side = size or row.size
    build = getattr(keras.applications, row.builder)
    keras.utils.set_random_seed(seed_for("weights", name))
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            given = stack.enter_context(named_for_keras(source)) if isinstance(source, Path) else source
            warnings.simplefilter("ignore")  # weights that do not fit are reported once, below
            body = build(
                include_top=False,
                pooling="avg",
                input_shape=(side, side, 3),
                weights=given if given is None else str(given),
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
            f"without a network, fetch that file elsewhere, put it as {weights_file_name(name)} into {place} and pass "
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
    return build_trunk(backbone, (cut,)), build_tail(backbone, cut)


def build_tail(backbone: Backbone, cut: Cut) -> Any:
    """The Keras model from activations at the cut to pooled vectors; see `split`."""
    import keras

    if cut == TOP:
        shape = activation_shape(backbone, cut)
        return keras.Sequential([keras.Input(shape), keras.layers.Identity()], name="tail")
    if cut == PIXELS:
        pixels = keras.Input((backbone.size, backbone.size, 3), name="pixels")
        return keras.Model(pixels, backbone.body(backbone.preprocess(pixels)), name="tail")
    return keras.Model(_tensor_at(backbone, cut), backbone.body.output, name="tail")


def gains_from_xla(backbone: Backbone, cut: Cut) -> bool:
    """Whether XLA makes training the layers above the cut faster on this CPU (figures in docs/log.md).

    It does for some backbones where vectors have 256 bits. With 512, TensorFlow's own convolutions are faster.
    """
    row = BACKBONES.get(backbone.name)
    return row is not None and row.xla and cut != TOP and not _has_avx512()


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
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, count_cores() // 2)))


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def activation_shape(backbone: Backbone, cut: Cut) -> tuple[int, ...]:
    """The shape of one picture's activations at a cut: (h, w, c), or (c,) at the top."""
    if cut == PIXELS:
        return (backbone.size, backbone.size, 3)
    if backbone.onnx is not None:
        return (backbone.onnx.features,)
    return tuple(int(n) for n in _tensor_at(backbone, cut).shape[1:])


def _tensor_at(backbone: Backbone, cut: Cut) -> Any:
    if cut == TOP:
        return backbone.body.output
    if backbone.ends:
        return backbone.ends[cut.name]
    row = BACKBONES[backbone.name]
    return block_ends(row, backbone.body)[cut.name].output
