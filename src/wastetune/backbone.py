"""A backbone with its weights and preprocessing, cut into trunk and tail."""

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wastetune.architectures import (
    BACKBONES,
    Architecture,
    Preprocessing,
    find_architecture,
    weights_file_name,
)
from wastetune.errors import UserError
from wastetune.seeding import seed_for


@dataclass(frozen=True)
class Cut:
    """A place to cut: everything below stays frozen. `frozen_depth` is the share of blocks below, 1.0 the top."""

    name: str
    frozen_depth: float


TOP = Cut("top", 1.0)


@dataclass(frozen=True)
class Backbone:
    """A backbone in memory, with its weights.

    `body` maps preprocessed pictures to pooled vectors, `preprocess` maps pixels in 0..255 to what `body`
    wants; both are Keras models for pictures of (size, size, 3). `digest` names the weights by content.
    """

    name: str
    size: int
    digest: str
    cuts: tuple[Cut, ...]
    body: Any
    preprocess: Any


def find_weights(name: str, wanted: str, folder: Path | None) -> Path | Literal["imagenet"] | None:
    """Where the weights come from: a file, Keras's own download, or nowhere (random ones).

    `wanted` is "imagenet", "none", a file or a folder; `folder` is searched before Keras's download.
    UserError for a path that is not there.
    """
    if wanted == "none":
        return None
    if wanted != "imagenet":
        path = Path(wanted).expanduser()
        if path.is_dir():
            path = path / weights_file_name(name)
        if not path.is_file():
            wanted_name = weights_file_name(name)
            raise UserError(f"there is no weights file {path}; give a file, or a folder that holds {wanted_name}")
        return path
    if folder is not None and (folder / weights_file_name(name)).is_file():
        return folder / weights_file_name(name)
    return "imagenet"


def load_backbone(
    name: str, weights: str = "imagenet", *, size: int | None = None, folder: Path | None = None
) -> Backbone:
    """A backbone with its weights loaded, without a classification top.

    Random weights ("none") are the same on every call. All BatchNormalization layers are frozen: in a tail
    they would otherwise learn the statistics of small batches (and Keras forgets `training=False` in `fit`).
    UserError for an unknown name and for weights that cannot be found, fetched or fitted.
    """
    with held_back_stderr():
        import keras

    row = find_architecture(name)
    source = find_weights(name, weights, folder)
    side = size or row.size
    build = getattr(keras.applications, row.builder)
    keras.utils.set_random_seed(seed_for("weights", name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file that does not fit is said to below, once
            body = build(
                include_top=False,
                pooling="avg",
                input_shape=(side, side, 3),
                weights=source if source is None else str(source),
                **row.options,
            )
    except ValueError as error:
        if isinstance(source, Path):
            raise UserError(f"the weights in {source} do not fit {name}: {_first_line(error)}") from error
        raise UserError(f"{name} cannot be built for pictures of {side} px: {_first_line(error)}") from error
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if isinstance(source, Path):
            raise UserError(f"the weights in {source} cannot be read: {_first_line(error)}") from error
        place = folder or Path("weights")
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded ({_first_line(error)}); without a network, "
            f"put a file named {weights_file_name(name)} into {place} and pass --weights {place}, or --weights none"
        ) from error
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return Backbone(
        name=name,
        size=side,
        digest=_weights_digest(body),
        cuts=_list_cuts(row, body),
        body=body,
        preprocess=_build_preprocessing(row.preprocessing, side),
    )


def nearest_cut(backbone: Backbone, frozen_depth: float) -> Cut:
    """The cut nearest to a frozen depth; of two equally near, the one that trains more."""
    return min(backbone.cuts, key=lambda cut: (abs(cut.frozen_depth - frozen_depth), cut.frozen_depth))


def reachable_cuts(backbone: Backbone, low: float, high: float) -> tuple[Cut, ...]:
    """The cuts that frozen depths between low and high snap to, from the lowest to the top."""
    first, last = nearest_cut(backbone, low), nearest_cut(backbone, high)
    return tuple(cut for cut in backbone.cuts if first.frozen_depth <= cut.frozen_depth <= last.frozen_depth)


def build_trunk(backbone: Backbone, cuts: tuple[Cut, ...]) -> Any:
    """The model from pixels (n, size, size, 3) in 0..255 to the activations at each of the cuts.

    Several cuts give a list, a single one the bare tensor.
    """
    import keras

    inputs = keras.Input((backbone.size, backbone.size, 3), name="pixels")
    ends = [_tensor_at(backbone, cut) for cut in cuts]
    below = keras.Model(backbone.body.input, ends if len(ends) > 1 else ends[0])
    return keras.Model(inputs, below(backbone.preprocess(inputs)), name="trunk")


def split(backbone: Backbone, cut: Cut) -> tuple[Any, Any]:
    """Trunk (pixels -> activations at the cut) and tail (activations -> pooled vectors).

    Both share the backbone's layers, so whoever trains the tail puts its weights back afterwards.
    At the top the tail is the identity.
    """
    import keras

    trunk = build_trunk(backbone, (cut,))
    if cut == TOP:
        return trunk, keras.Sequential(
            [keras.Input(backbone.body.output.shape[1:]), keras.layers.Identity()], name="tail"
        )
    return trunk, keras.Model(_tensor_at(backbone, cut), backbone.body.output, name="tail")


def gains_from_xla(backbone: Backbone, cut: Cut) -> bool:
    """Whether XLA is worth compiling what lies above the cut for, on a CPU (figures in docs/log.md)."""
    return BACKBONES[backbone.name].xla and cut != TOP


def activation_shape(backbone: Backbone, cut: Cut) -> tuple[int, ...]:
    """The shape of one picture's activations at a cut: (h, w, c), or (c,) at the top."""
    return tuple(int(n) for n in _tensor_at(backbone, cut).shape[1:])


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Keeps what TensorFlow's C++ prints on being imported off the terminal, unless the import fails."""
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _tensor_at(backbone: Backbone, cut: Cut) -> Any:
    if cut == TOP:
        return backbone.body.output
    row = BACKBONES[backbone.name]
    return _block_ends(row, backbone.body)[cut.name].output


def _block_ends(row: Architecture, body: Any) -> dict[str, Any]:
    operations = body.operations
    ends: dict[str, Any] = {}
    for position, operation in enumerate(operations):
        if found := re.match(row.block, operation.name):
            ends[found.group(1)] = operations[position + 1] if row.block_ends_after else operation
    return ends


def _list_cuts(row: Architecture, body: Any) -> tuple[Cut, ...]:
    names = list(_block_ends(row, body))
    stages = len(names) + int(row.top_block)
    return (*(Cut(name, (i + 1) / stages) for i, name in enumerate(names[: stages - 1])), TOP)


def _build_preprocessing(kind: Preprocessing, size: int) -> Any:
    import keras

    pixels = keras.Input((size, size, 3))
    if kind == "signed":  # [-1, 1]
        return keras.Model(pixels, keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels), name="preprocess")
    if kind == "caffe":  # BGR with ImageNet's mean colour taken off
        mean, one = [103.939, 116.779, 123.68], [1.0, 1.0, 1.0]
        bgr = keras.ops.flip(pixels, axis=-1)
        return keras.Model(pixels, keras.layers.Normalization(mean=mean, variance=one)(bgr), name="preprocess")
    return keras.Model(pixels, keras.layers.Identity()(pixels), name="preprocess")


def _weights_digest(body: Any) -> str:
    digest = hashlib.sha256()
    for array in body.get_weights():
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(os.linesep + ".")[:200]
