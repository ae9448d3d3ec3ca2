"""Opens a trained model of any format as a function from pixels to probabilities.

Only the runtime of the format is imported: an .onnx file does not need TensorFlow.
"""

import io
import json
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.backbones.own.keras_file import read_keras
from wastetune.backbones.own.onnx_trunk import FEATURES, open_session
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line, install_command
from wastetune.evaluation.novelty import likeness
from wastetune.models.bundle import (
    CENTRES_FILE,
    DESCRIPTION_FILE,
    ONNX_FILE,
    BundleDescription,
    highest,
    load_centres,
    load_description,
    load_model,
    model_file,
    split_at_trunk,
)

Outputs = tuple[NDArray[np.float32], NDArray[np.float32] | None]  # probabilities (n, classes); likeness (n,), if known
Run = Callable[[NDArray[np.uint8]], Outputs]

# The description of the model in an exported file: the name of its entry in an archive, its key in ONNX's metadata.
INSIDE = "wastetune.json"
KEY = "wastetune"
SIGNATURE = "serving_default"
INPUT, OUTPUT, LIKENESS = "pixels", "probabilities", "likeness"


@dataclass(frozen=True)
class Model:
    """A trained model, ready to run."""

    classes: tuple[str, ...]
    size: int  # pixels a side
    about: BundleDescription
    outputs: Run  # of (n, size, size, 3) in 0..255; any n from 1 on

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities (n, classes) of pictures (n, size, size, 3) in 0..255; any n from 1 on."""
        return self.outputs(pixels)[0]

    def predict(self, pixels: NDArray[np.uint8]) -> list[tuple[NDArray[np.float32], float | None]]:
        """For each picture of (n, size, size, 3) the probabilities (classes,) and its likeness, None if unknown."""
        probabilities, likeness = self.outputs(pixels)
        known = [None] * len(probabilities) if likeness is None else likeness.tolist()
        return list(zip(probabilities, known, strict=True))


def open_model(path: Path, *, threads: int | None = None) -> Model:
    """The model in a bundle's folder, or in an exported .keras, .onnx or .tflite file or SavedModel folder.

    `threads` limits the threads of one run; TensorFlow ignores it once it has run in this process.
    Raises UserError if there is no model, it cannot be read, or its runtime is not installed.
    """
    if (path / DESCRIPTION_FILE).exists():
        opened, kind = _open_bundle, "bundle"
    elif (path / "saved_model.pb").exists():
        opened, kind = _open_saved_model, "SavedModel"
    elif path.suffix in _READERS and path.is_file():
        opened, kind = _READERS[path.suffix], path.suffix
    elif not path.exists():
        raise UserError(f"{path} does not exist; name a study's bundle, or what `wastetune export` made")
    else:
        raise UserError(
            f"{path} is no model: neither a study's bundle, nor a SavedModel, nor a file {', '.join(_READERS)}"
        )
    try:
        about, outputs = opened(path, threads)
        return Model(about.classes, about.input_size, about, outputs)
    except UserError:
        raise
    except ImportError as error:
        library, extra = _NEEDS.get(kind, ("TensorFlow", None))
        raise UserError(f"{path} needs {library} ({error}); install it: {install_command(extra)}") from error
    except Exception as error:  # runtimes raise anything over a broken file
        again = "delete it and run the study" if kind == "bundle" else "export it"
        raise UserError(f"the model in {path} cannot be read: {first_line(error, 300)}; {again} again") from error


def _open_bundle(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    if (file := model_file(path)).name == ONNX_FILE:
        return _open_onnx(file, threads)
    _limit_tensorflow(threads)
    return load_description(path), keras_outputs(load_model(path), load_centres(path))


def _open_keras(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    _limit_tensorflow(threads)
    about, model, centres = _inside(path), read_keras(path), None
    with zipfile.ZipFile(path) as archive:
        if CENTRES_FILE in archive.namelist():
            centres = np.load(io.BytesIO(archive.read(CENTRES_FILE)))
    # The export is a bundle's model behind a conversion of bytes, so the bundle's model is its last layer.
    return about, keras_outputs(model if centres is None else model.layers[-1], centres)


def _open_saved_model(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    import tensorflow as tf

    _limit_tensorflow(threads)
    about = _parse((path / "assets.extra" / INSIDE).read_bytes())
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[SIGNATURE]

    # The signature does not keep the loaded object, and so its variables, alive.
    def run(pixels: NDArray[np.uint8], _kept: Any = loaded) -> Outputs:
        made = signature(**{INPUT: tf.constant(pixels)})
        return np.asarray(made[OUTPUT]), np.asarray(made[LIKENESS]) if LIKENESS in made else None

    return about, run


def _open_onnx(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    session = open_session(str(path), threads)
    metadata = session.get_modelmeta().custom_metadata_map
    in_bundle = KEY not in metadata and (path.parent / DESCRIPTION_FILE).exists()
    if KEY not in metadata and not in_bundle:
        raise ValueError(f"it was not exported by wastetune (no metadata {KEY!r})")

    about = load_description(path.parent) if in_bundle else _parse(metadata[KEY])
    centres = load_centres(path.parent) if in_bundle else None
    names = {OUTPUT, LIKENESS, FEATURES} & {each.name for each in session.get_outputs()}

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        made = dict(zip(names, session.run(list(names), {INPUT: pixels}), strict=True))
        alike = made.get(LIKENESS) if centres is None else likeness(made[FEATURES], centres)
        return np.asarray(made[OUTPUT]), alike

    return about, run


def _open_litert(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    from ai_edge_litert.interpreter import Interpreter

    with suppressed_stderr():  # LiteRT prints the names of its kernels
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    # The names of tensors are lost, but a likeness is one number a picture and probabilities are several.
    places = sorted(interpreter.get_output_details(), key=lambda each: -len(each["shape"]))
    lock = threading.Lock()  # an interpreter has one set of tensors

    def run_one(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        interpreter.set_tensor(input_index, pixels[None])
        interpreter.invoke()
        return [np.array(interpreter.get_tensor(each["index"])[0]) for each in places]

    # One by one, because the fast kernels for 8-bit weights accept one picture only.
    def run(pixels: NDArray[np.uint8]) -> Outputs:
        with lock:
            probabilities, *rest = map(np.stack, zip(*map(run_one, pixels), strict=True))
        return probabilities, rest[0] if rest else None

    return _inside(path), run


def keras_outputs(model: Any, centres: NDArray[np.float32] | None) -> Run:
    """A bundle's model as a function, which knows the likeness where there are centres."""
    if centres is None:
        return lambda pixels: (np.asarray(model.predict_on_batch(pixels.astype(np.float32))), None)
    trunk, rest = split_at_trunk(model)

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        activations = trunk.predict_on_batch(pixels.astype(np.float32))
        grid = np.asarray(highest(activations))
        features = grid.mean(axis=tuple(range(1, grid.ndim - 1)))
        return np.asarray(rest.predict_on_batch(activations)), likeness(features, centres)

    return run


def _limit_tensorflow(threads: int | None) -> None:
    if threads:
        import tensorflow as tf

        with suppress(RuntimeError):  # TensorFlow has run already
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)


def _parse(text: str | bytes) -> BundleDescription:
    return BundleDescription.from_dict(json.loads(text))


def _inside(path: Path) -> BundleDescription:
    """The description in a .keras file, which is a zip archive, or in the one at the end of a .tflite file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _parse(archive.read(INSIDE))
    except (KeyError, zipfile.BadZipFile):
        raise ValueError(f"it was not exported by wastetune (no {INSIDE} inside)") from None


_READERS = {".keras": _open_keras, ".onnx": _open_onnx, ".tflite": _open_litert}
_NEEDS = {".onnx": ("ONNX Runtime", "onnx"), ".tflite": ("LiteRT", "litert")}
