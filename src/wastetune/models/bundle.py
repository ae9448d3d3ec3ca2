"""A trained model as a folder that Keras alone, or ONNX Runtime, can load: pixels in, probabilities out."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wastetune.backbones.own.keras_file import read_keras
from wastetune.backbones.own.onnx_trunk import OnnxModel
from wastetune.errors import UserError
from wastetune.evaluation.conformal import SetThreshold
from wastetune.evaluation.scores import Scores
from wastetune.evaluation.selective import Threshold
from wastetune.files import remove, write_whole
from wastetune.record import Record

MODEL_FILE = "model.keras"
ONNX_FILE = "model.onnx"  # instead, where the backbone is an ONNX file
DESCRIPTION_FILE = "bundle.json"
CENTRES_FILE = "centres.npy"


class BundleDescription(Record):
    """What a model is: bundle.json, and the same inside every exported file."""

    study: str | None = None
    backbone: str | None = None
    dataset: str | None = None
    classes: tuple[str, ...]  # in the order of the outputs
    fingerprint: str | None = None  # of the study
    versions: dict[str, str] = Field(default_factory=dict)  # package -> version
    test: Scores | None = None
    input_size: int  # pixels a side
    config: dict[str, Any] = Field(default_factory=dict)  # of the best trial
    members: tuple[int, ...] = ()  # the trials that are averaged, or the only one
    temperature: float = 1.0  # by which the logits are divided, inside the model
    thresholds: tuple[Threshold, ...] = ()  # below which an answer is "unsure"
    set_thresholds: tuple[SetThreshold, ...] = ()  # of prediction sets
    unlike_below: float | None = None  # the likeness below which a picture is unlike the training pictures


def save_model(folder: Path, model: Any) -> None:
    """Writes the whole model into a bundle's folder; ``keras.saving.load_model(folder / "model.keras")`` reads it.

    Where the backbone is an ONNX file, it is written to model.onnx instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, other = (ONNX_FILE, MODEL_FILE) if isinstance(model, OnnxModel) else (MODEL_FILE, ONNX_FILE)
    write_whole(folder / written, model.save)
    remove(folder / other)


def model_file(folder: Path) -> Path:
    """The file of a bundle's model, which need not be there."""
    return folder / (ONNX_FILE if (folder / ONNX_FILE).exists() else MODEL_FILE)


def save_centres(folder: Path, centres: NDArray[np.float32]) -> None:
    """Writes the centres (k, f) of the training pictures' features, to which other pictures are compared."""
    write_whole(folder / CENTRES_FILE, lambda part: part.write_bytes(centres_as_bytes(centres)))


def load_centres(folder: Path) -> NDArray[np.float32] | None:
    """The centres of a bundle; None where it has none, as of an earlier version."""
    file = folder / CENTRES_FILE
    return np.load(file) if file.exists() else None


def centres_as_bytes(centres: NDArray[np.float32]) -> bytes:
    """The content of centres.npy."""
    content = io.BytesIO()
    np.save(content, centres)
    return content.getvalue()


def split_at_trunk(model: Any) -> tuple[Any, Any]:
    """A bundle's model in two: pixels to activations at its cuts, and activations to probabilities.

    Activations are a list, from the lowest cut to the highest, where members are cut at several places.
    """
    import keras

    trunk = model.get_layer("trunk")
    inputs = [keras.Input(each.shape[1:]) for each in trunk.outputs]
    first = inputs if len(inputs) > 1 else inputs[0]
    layers = model.layers
    probabilities = first
    for layer in layers[layers.index(trunk) + 1 :]:
        probabilities = layer(probabilities)
    return trunk, keras.Model(first, probabilities)


def highest(activations: Any) -> Any:
    """Of activations at several cuts, those at the highest, whose mean over all places is compared to the centres."""
    return activations[-1] if isinstance(activations, list | tuple) else activations


def load_model(folder: Path) -> Any:
    """The whole model of a bundle, as Keras reads it. UserError where its trunk is an ONNX file."""
    if (file := model_file(folder)).name == ONNX_FILE:
        raise UserError(
            f"the backbone of {folder} is an ONNX file, so its model is one, too ({file.name}), and Keras cannot read "
            "it: predict, evaluate, serve and export --format onnx can"
        )
    return read_keras(file)


def save_description(folder: Path, description: BundleDescription) -> None:
    """Writes bundle.json, unless it says the same already."""
    file = folder / DESCRIPTION_FILE
    text = json.dumps(description.to_dict(), indent=2, ensure_ascii=False)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))


def load_description(folder: Path) -> BundleDescription:
    """What the model of a bundle is. UserError where the folder is no bundle."""
    file = folder / DESCRIPTION_FILE
    try:
        return BundleDescription.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(
            f"{folder} is no bundle ({error.strerror}: {file}); name the folder `bundle` in a study's results"
        ) from None
    except ValueError:
        raise UserError(f"{file} is damaged; delete {folder} and run the study again, which writes it anew") from None
