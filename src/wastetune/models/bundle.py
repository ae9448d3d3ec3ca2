"""A trained model as a folder that Keras alone can load: pixels in, probabilities out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wastetune.console import suppressed_stderr
from wastetune.errors import UserError

MODEL_FILE = "model.keras"
DESCRIPTION_FILE = "bundle.json"


def save_model(folder: Path, model: Any) -> None:
    """Writes the whole model into a bundle's folder; ``keras.saving.load_model(folder / "model.keras")`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"new-{MODEL_FILE}"
    model.save(temporary)
    temporary.replace(folder / MODEL_FILE)


def load_model(folder: Path) -> Any:
    """The whole model of a bundle, as Keras reads it."""
    return read_keras(folder / MODEL_FILE)


def read_keras(file: Path) -> Any:
    """The model in a .keras file."""
    with suppressed_stderr():
        import keras

    return keras.saving.load_model(file, compile=False)


def save_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes what the model is: classes in the order of its outputs, input size, configuration, scores."""
    temporary = folder / f"new-{DESCRIPTION_FILE}"
    temporary.write_text(json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8")
    temporary.replace(folder / DESCRIPTION_FILE)


def load_description(folder: Path) -> dict[str, Any]:
    """What the model of a bundle is. UserError where the folder is no bundle."""
    file = folder / DESCRIPTION_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{folder} is no bundle ({error.strerror}: {file}); name the folder `bundle` in a study's results"
        ) from None
    except ValueError:
        description = None
    if not isinstance(description, dict) or not description.keys() >= {"classes", "input_size"}:
        raise UserError(f"{file} is damaged; delete {folder} and run the study again, which writes it anew")
    return description
