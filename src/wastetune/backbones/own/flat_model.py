"""A functional model without its classification head, and the places where a single tensor carries everything.

Models inside the model are taken apart, so that it can be cut inside them, too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wastetune.errors import UserError, first_line, suggest

# Layers that do not change what their input tells: a head may end in them, or they may come before its dense layer.
_OF_A_HEAD = ("Softmax", "Activation", "Dropout", "Identity", "Rescaling")
_SCALERS = ("Rescaling", "Normalization")


@dataclass(frozen=True)
class Step:
    """A call of a layer or an operation: what it took, and what it gave."""

    operation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class FlatModel:
    """Pictures to pooled vectors, as one graph: `ends` has, from the lowest to the highest, where blocks end."""

    body: Any  # Keras
    ends: dict[str, Any]  # name of a cut -> its tensor
    left_off: tuple[str, ...]  # the layers of the head that have weights
    scales: bool  # whether pixels of 0..255 are scaled inside


Unfold = Callable[[Any, Any], "tuple[list[Any], Any] | None"]


def flatten_model(model: Any, size: int, layer: str | None, unfold: Unfold, pool: Any = None) -> FlatModel:
    """The trunk and tail of a functional model for pictures of (size, size, 3).

    `layer` names the layer whose output is the top; without it, a dense layer at the end and what follows it is left
    off. A map at the top is averaged over its places; `pool`, if given, does it instead. `unfold` maps a layer and its
    input to the layers inside it and their outputs, where they are called one after another.
    UserError where the model does not take such pictures, or cannot be cut there.
    """
    import keras

    pixels = keras.Input((size, size, 3), name="scaled_pixels")
    steps: list[Step] = []
    try:
        end = _run(model, pixels, steps, set(), unfold)
    except UserError:
        raise
    except Exception as error:  # Keras raises anything where a shape does not fit
        raise UserError(
            f"the model cannot be built for pictures of {size} px ({first_line(error, most=200)}); see image_size"
        ) from error
    steps = _needed(steps, end)
    top = _layer_output(steps, layer) if layer else _without_head(steps, end)
    kept = _needed(steps, top)
    left_off = [step.operation.name for step in steps if step not in kept and _weights(step.operation)]
    singles = _singles(kept, pixels)
    if all(top is not each for each in singles):  # cannot be: everything else was left out
        raise UserError("the model takes something besides a picture, so it cannot be cut")
    ends = _block_ends(kept, singles, top)
    body = keras.Model(pixels, _pooled(top) if pool is None else pool(top), name="body")
    for each in body.layers:  # of which a file may have frozen some
        each.trainable = True
    for each in body._flatten_layers():  # also those inside of layers
        if isinstance(each, keras.layers.BatchNormalization):
            each.trainable = False
    _check_features(body)
    return FlatModel(body, ends, tuple(left_off), _scales(kept))


def _run(model: Any, tensor: Any, steps: list[Step], names: set[str], unfold: Unfold) -> Any:
    """The output of a model whose layers are called on another tensor, and each call as a step."""
    import keras

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            tensor = args[0]
            for each in layer.layers:
                tensor = call(each, tensor)
            return tensor
        given = [each for each in keras.tree.flatten([args, kwargs]) if keras.utils.is_keras_tensor(each)]
        if isinstance(layer, keras.Model) and hasattr(layer, "operations") and len(given) == 1:
            return _run(layer, given[0], steps, names, unfold)
        if unfolded := unfold(layer, given[0] if given else None):
            inside, outputs = unfolded
            for each in inside:
                given = [call(each, *given)]
            return outputs if outputs is not None else given[0]
        if all(step.operation is not layer for step in steps):
            layer.name = _unique(layer.name, names)
        made = layer(*args, **kwargs)
        steps.append(Step(layer, tuple(given), tuple(keras.tree.flatten(made))))
        return made

    if isinstance(model, keras.Sequential):
        return call(model, tensor)
    inputs = keras.tree.map_structure(lambda _: tensor, model.input)
    made = model._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=call)
    return keras.tree.flatten(made)[0]


def _unique(name: str, names: set[str]) -> str:
    """A name that is a name of a folder and not taken yet; models in a model may use the same ones."""
    plain = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "layer"
    found, number = plain, 0
    while found in names or found in ("pixels", "top", "scaled_pixels"):
        number += 1
        found = f"{plain}_{number}"
    names.add(found)
    return found


def _needed(steps: list[Step], end: Any) -> list[Step]:
    """The steps that lead to a tensor."""
    wanted, kept = {id(end)}, []
    for step in reversed(steps):
        if any(id(each) in wanted for each in step.outputs):
            wanted |= {id(each) for each in step.inputs}
            kept.append(step)
    return kept[::-1]


def _maker(steps: list[Step], tensor: Any) -> Step | None:
    return next((step for step in steps if any(each is tensor for each in step.outputs)), None)


def _layer_output(steps: list[Step], name: str) -> Any:
    outputs = {step.operation.name: step.outputs[0] for step in steps}
    if name not in outputs:
        raise UserError(f"the model has no layer {name!r}; {suggest(name, outputs)}")
    if len(outputs[name].shape) not in (2, 3, 4):
        raise UserError(f"the output of layer {name!r} has the shape {outputs[name].shape}, which no head can take")
    return outputs[name]


def _without_head(steps: list[Step], end: Any) -> Any:
    """What the last dense layer takes, if nothing but a softmax or the like follows it; else the end."""
    tensor = end
    while (step := _maker(steps, tensor)) and type(step.operation).__name__ in _OF_A_HEAD:
        tensor = step.inputs[0]
    if not step or type(step.operation).__name__ != "Dense" or len(tensor.shape) != 2:
        return end
    tensor = step.inputs[0]
    while (step := _maker(steps, tensor)) and type(step.operation).__name__ == "Dropout":
        tensor = step.inputs[0]
    return tensor


def _singles(steps: list[Step], pixels: Any) -> list[Any]:
    """The tensors that everything above is made from, from the lowest to the highest."""
    last_use = {id(each): number for number, step in enumerate(steps) for each in step.inputs}
    alive: dict[int, Any] = {id(pixels): pixels}
    found: list[Any] = []
    for number, step in enumerate(steps):
        for each in step.outputs:
            if last_use.get(id(each), -1) > number or number == len(steps) - 1:
                alive[id(each)] = each
        alive = {key: each for key, each in alive.items() if last_use.get(key, len(steps)) > number}
        if len(alive) == 1:
            found += [each for each in alive.values() if not found or found[-1] is not each]
    return found


def _block_ends(steps: list[Step], singles: list[Any], top: Any) -> dict[str, Any]:
    """A name and a tensor for each block: the last single tensor before the next layer that has a kernel.

    A block without a kernel of its own belongs to the one below it, so every tail has something to train.
    """
    ends: dict[str, Any] = {}
    pending: tuple[str, Any] | None = None
    has_kernel = False
    for step in steps:
        if _kernels(step.operation):
            if pending is not None and has_kernel:
                ends[pending[0]] = pending[1]
                has_kernel = False
            pending, has_kernel = None, True
        for each in step.outputs:
            if each is not top and any(each is single for single in singles) and len(each.shape) >= 2:
                pending = (step.operation.name, each) if has_kernel else None
    return ends


def _weights(operation: Any) -> list[Any]:
    return list(getattr(operation, "weights", ()))


def _kernels(operation: Any) -> bool:
    return any(len(weight.shape) >= 2 for weight in _weights(operation))


def _scales(steps: list[Step]) -> bool:
    """Whether a layer scales pixels before the first one with a kernel."""
    for step in steps:
        if _kernels(step.operation):
            return False
        if type(step.operation).__name__ in _SCALERS:
            return True
    return False


def _pooled(tensor: Any) -> Any:
    import keras

    if len(tensor.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name="mean_over_places")(tensor)
    if len(tensor.shape) == 3:
        return keras.layers.GlobalAveragePooling1D(name="mean_over_places")(tensor)
    return tensor


def _check_features(body: Any) -> None:
    """UserError unless the body gives vectors of numbers for noise."""
    if len(body.output.shape) != 2 or body.output.shape[1] is None:
        raise UserError(f"the model gives an output of shape {tuple(body.output.shape)}, not a vector for a picture")
    noise = np.random.default_rng(0).uniform(0, 1, (2, *body.input.shape[1:])).astype(np.float32)
    if not np.isfinite(np.asarray(body(noise, training=False))).all():
        raise UserError("the model gives numbers that are not finite for noise between 0 and 1")
