"""Reads .keras files of layers that are known, and tells what in a model is none of them."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, optional_import
from wastetune.formatting import shortened

HUB = "keras_hub"  # the module of KerasHub, whose layers a file may have, too


def read_keras(file: Path) -> Any:
    """The model in a .keras file. UserError where it has code of its own, none of which is run."""
    config = _read_config(file)
    if found := next(foreign_code(config, known=("keras", HUB)), None):
        raise UserError(
            f"{file} has code of its own ({shortened(found, 60)}), which is not run: "
            "wastetune reads models of Keras's own layers alone"
        )
    if _names_hub(config):
        with optional_import(f"{file} has layers of KerasHub, which", "hub"):
            import keras_hub  # noqa: F401  (registers its layers, by which Keras finds them)
    with suppressed_stderr():
        import keras

    return keras.saving.load_model(file, compile=False)


def foreign_code(config: Any, known: tuple[str, ...] = ("keras",)) -> Iterator[str]:
    """What in a serialized model is a lambda, a function of its own, or a class of a module that is not known."""
    if isinstance(config, list | tuple):
        for each in config:
            yield from foreign_code(each, known)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), str(config.get("module") or "")
        if name in ("__lambda__", "Lambda"):
            yield "a lambda"
        elif module == "builtins" and name == "function":
            yield f"the function {config.get('config')}"
        elif name and module and module.partition(".")[0] not in (*known, "builtins"):
            yield f"the class {name}"
        for each in config.values():
            yield from foreign_code(each, known)


def needs_hub(file: Path) -> bool:
    """Whether the model in a .keras file has layers of KerasHub."""
    return _names_hub(_read_config(file))


def _read_config(file: Path) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("config.json"))
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile):  # Keras tells what is wrong
        return {}


def _names_hub(config: Any) -> bool:
    if isinstance(config, list | tuple):
        return any(map(_names_hub, config))
    if not isinstance(config, dict):
        return False
    return str(config.get("module")).partition(".")[0] == HUB or any(map(_names_hub, config.values()))
