"""Opens a trained model of any format as a function from pixels to probabilities.

Only the runtime of the format is imported: an .onnx file does not need TensorFlow.
"""

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

from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line, install_command
from wastetune.models.bundle import DESCRIPTION_FILE, MODEL_FILE, BundleDescription, load_description, read_keras

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

# The description of the model in an exported file: the name of its entry in an archive, its key in ONNX's metadata.
INSIDE = "wastetune.json"
KEY = "wastetune"
SIGNATURE = "serving_default"
INPUT, OUTPUT = "pixels", "probabilities"


@dataclass(frozen=True)
class Model:
    """A trained model, ready to run."""

    classes: tuple[str, ...]
    size: int  # pixels a side
    about: BundleDescription
    run: Run  # (n, size, size, 3) in 0..255 -> (n, classes); any n from 1 on


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
        about, run = opened(path, threads)
        return Model(about.classes, about.input_size, about, run)
    except UserError:
        raise
    except ImportError as error:
        library, extra = _NEEDS.get(kind, ("TensorFlow", None))
        raise UserError(f"{path} needs {library} ({error}); install it: {install_command(extra)}") from error
    except Exception as error:  # runtimes raise anything over a broken file
        again = "delete it and run the study" if kind == "bundle" else "export it"
        raise UserError(f"the model in {path} cannot be read: {first_line(error)}; {again} again") from error


def _open_bundle(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    return load_description(path), _keras_run(path / MODEL_FILE, threads)


def _open_keras(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    return _inside(path), _keras_run(path, threads)


def _open_saved_model(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    import tensorflow as tf

    _limit_tensorflow(threads)
    about = _parse((path / "assets.extra" / INSIDE).read_bytes())
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[SIGNATURE]

    # The signature does not keep the loaded object, and so its variables, alive.
    def run(pixels: NDArray[np.uint8], _kept: Any = loaded) -> NDArray[np.float32]:
        return np.asarray(signature(**{INPUT: tf.constant(pixels)})[OUTPUT])

    return about, run


def _open_onnx(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    if KEY not in metadata:
        raise ValueError(f"it was not exported by wastetune (no metadata {KEY!r})")

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])

    return _parse(metadata[KEY]), run


def _open_litert(path: Path, threads: int | None) -> tuple[BundleDescription, Run]:
    from ai_edge_litert.interpreter import Interpreter

    with suppressed_stderr():  # LiteRT prints the names of its kernels
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]
    lock = threading.Lock()  # an interpreter has one set of tensors

    def run_one(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        interpreter.set_tensor(input_index, pixels[None])
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(output_index)[0])

    # One by one, because the fast kernels for 8-bit weights accept one picture only.
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with lock:
            return np.stack([run_one(each) for each in pixels])

    return _inside(path), run


def _keras_run(file: Path, threads: int | None) -> Run:
    _limit_tensorflow(threads)
    model = read_keras(file)

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(model.predict_on_batch(pixels.astype(np.float32)))

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
