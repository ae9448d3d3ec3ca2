"""A head of the user's own: a function `build(hp, features, classes)` in KerasTuner's API, in a Python file.

The function is called again and again. While a configuration is proposed, `hp` asks for each value that the function
wants, and the layers it makes are thrown away; when a model is built, `hp` has the values that were chosen. KerasTuner
itself decides which conditional scopes are active.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from wastetune.backbones.own.keras_file import foreign_code
from wastetune.errors import UserError, did_you_mean, first_line, optional_import
from wastetune.training.config import HEAD_PREFIX, TrialConfig

Value = int | float | str | bool
Function = Callable[[Any, Any, int], Any]
Ask = Callable[[Any], Value]  # a keras_tuner HyperParameter -> its value

_MOST_BUILDS = 100  # of a rehearsal, at about 30 ms each
_ROWS = 16  # of noise, for a look at what the head gives
_NAME = re.compile(r"[\w./ :-]+")  # what MLflow allows in the name of a parameter


@dataclass(frozen=True)
class HeadFile:
    """The function of a head, as its file has it."""

    name: str  # FILE:FUNCTION, without a folder
    digest: str  # of the file's content
    function: Function
    path: Path


@dataclass(frozen=True)
class CustomHead:
    """A head that was built with all kinds of values and gave logits of the right shape."""

    file: HeadFile
    features: int  # length of the pooled vectors
    classes: int
    hyperparameters: tuple[Any, ...]  # KerasTuner's, in the order in which they were first asked for


def load_head(reference: str, folder: Path) -> HeadFile:
    """The function that `FILE.py:FUNCTION` names; the file is imported. A relative path starts at the folder.

    UserError, with the file, where it is missing, cannot be imported, or has no such function.
    """
    place, _, name = reference.rpartition(":")
    if not place.endswith(".py") or not name.isidentifier():
        raise UserError('it must be a Python file and a function in it, such as "my_head.py:build"')
    path = folder / Path(place).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; its folder is that of the study's file") from None
    digest = hashlib.sha256(content).hexdigest()
    module_name = f"wastetune_head_{digest[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    with optional_import("KerasTuner", "kerastuner"):
        import keras_tuner  # noqa: F401  (a file that imports it must not be blamed where it is not installed)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be imported: {_render(error, path)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{path} has no function {name!r}; {did_you_mean(name, known) or 'define it there'}")
    return HeadFile(f"{path.name}:{name}", digest, function, path)


def rehearse(file: HeadFile, features: int, classes: int) -> CustomHead:
    """The head of a file, after it was built with its defaults, each bound and each option.

    UserError, with file, function and values, where it raises or gives anything but logits (n, classes) of plain Keras
    layers.
    """
    known: dict[tuple[str, str], Any] = {}
    todo: list[dict[str, Value]] = [{}]
    for _ in range(_MOST_BUILDS):
        if not todo:
            break
        chosen = todo.pop(0)
        hp = asked_hyperparameters()(partial(_value_or_default, chosen))
        inputs = _features(features)
        _check_output(file, hp, inputs, _call(file, hp, inputs, classes), classes)
        for asked in hp.space:
            key = (asked.name, repr([condition.get_config() for condition in asked.conditions]))
            if key not in known:
                known[key] = asked
                _check_hyperparameter(file, asked)
                todo += [{**chosen, asked.name: value} for value in _corners(asked) if value != asked.default]
    return CustomHead(file, features, classes, tuple(known.values()))


def _value_or_default(chosen: Mapping[str, Value], asked: Any) -> Any:
    return chosen.get(asked.name, asked.default)


def ask_values(head: CustomHead, ask: Ask) -> dict[str, Value | None]:
    """The head's part of a configuration: `head`, and each value that its function asks for.

    `ask` is called once for each hyperparameter that is active and not `Fixed`.
    """
    hp = asked_hyperparameters()(ask)
    _call(head.file, hp, _features(head.features), head.classes)
    return {"head": head.file.name, **{HEAD_PREFIX + name: value for name, value in hp.values.items()}}


def build_custom_head(file: HeadFile, features: Any, config: TrialConfig, classes: int) -> Any:
    """Logits (n, classes) from pooled vectors (n, c), by the function of the file with the configuration's values."""

    def stored(asked: Any) -> Value:
        if asked.name not in config.head_params:
            raise UserError(f"{file.name} asks for {asked.name!r} now, and did not when the trial was proposed")
        return config.head_params[asked.name]

    return _call(file, asked_hyperparameters()(stored), features, classes)


@cache
def asked_hyperparameters() -> Callable[[Ask], Any]:
    """KerasTuner's HyperParameters that ask for a value when it is wanted, instead of having all before."""
    import keras_tuner

    class AskedHyperParameters(keras_tuner.HyperParameters):  # type: ignore[misc]
        def __init__(self, ask: Ask) -> None:
            super().__init__()
            self._ask = ask

        def _retrieve(self, hp: Any) -> Any:
            if hp.name not in self.values and self.is_active(hp):
                self.values[hp.name] = hp.default if is_fixed(hp) else self._ask(hp)
            return super()._retrieve(hp)

    return AskedHyperParameters


def is_fixed(asked: Any) -> bool:
    """Whether a keras_tuner HyperParameter has one value, which nothing draws."""
    return type(asked).__name__ == "Fixed"


def _features(count: int) -> Any:
    import keras

    return keras.Input((count,), name="features")


def _call(file: HeadFile, hp: Any, features: Any, classes: int) -> Any:
    try:
        return file.function(hp, features, classes)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{file.function.__name__} raised {_render(error, file.path)}"
        raise UserError(f"{file.path}: {what}{_with(hp)}") from error


def _check_output(file: HeadFile, hp: Any, features: Any, output: Any, classes: int) -> None:
    """UserError unless it is a Keras tensor of logits (n, classes) that a saved model can have."""
    import keras

    where = f"{file.path}: {file.function.__name__}"
    if not keras.utils.is_keras_tensor(output):
        what = "nothing" if output is None else f"a {type(output).__name__}"
        raise UserError(f"{where} returned {what}; return the Keras tensor of the last layer, its logits{_with(hp)}")
    if tuple(output.shape) != (None, classes):
        raise UserError(
            f"{where} returned a tensor of shape {tuple(output.shape)}; for {classes} classes it must be "
            f"(None, {classes}): let the last layer be Dense(classes){_with(hp)}"
        )
    try:
        model = keras.Model(features, output)
    except ValueError as error:
        raise UserError(f"{where} returned a tensor that is not made from `features`: {first_line(error)}") from error
    if found := next(foreign_code(keras.saving.serialize_keras_object(model)), None):
        raise UserError(
            f"{where} uses {found}, which a saved model could not be loaded with where this file is not; compose the "
            "head of Keras's own layers, functions and operations"
        )
    noise = np.abs(np.random.default_rng(0).normal(0, 1, (_ROWS, features.shape[1]))).astype(np.float32)
    given = np.asarray(model(noise, training=False))
    if np.allclose(given.sum(axis=1), 1, atol=1e-3) or ((given > 0) & (given < 1)).all():
        raise UserError(
            f"{where} returned probabilities, but training, calibration and the mean of several heads need logits: "
            f"leave the softmax or sigmoid of the last layer out{_with(hp)}"
        )


def _check_hyperparameter(file: HeadFile, asked: Any) -> None:
    if not _NAME.fullmatch(asked.name):
        raise UserError(
            f"{file.path}: the name {asked.name!r} of a hyperparameter must have letters, digits, blanks and ._-/: only"
        )


def _corners(asked: Any) -> tuple[Value, ...]:
    """Values that show whether the function works with all: every option, and both bounds of a range."""
    if hasattr(asked, "min_value"):
        values = [] if asked.step is None else list(asked.values)  # KerasTuner's last step may end below the bound
        low, high = (values[0], values[-1]) if values else (asked.min_value, asked.max_value)
        kind = type(asked.min_value)
        return (kind(low), kind(high))
    return tuple(asked.values)


def _with(hp: Any) -> str:
    values: Mapping[str, Value] = hp.values
    return f" (with {', '.join(f'{name} = {value}' for name, value in values.items())})" if values else ""


def _render(error: BaseException, path: Path) -> str:
    """The error and the line of the file where it arose."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    place = f"line {lines[-1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {first_line(error, most=300)}"
