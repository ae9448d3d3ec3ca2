"""Exports a study's model to another format: a file or folder from uint8 pixels to probabilities.

All formats take `pixels` (n, size, size, 3) uint8 and return `probabilities` (n, classes) float32, for any n. All but
.keras, which keeps the centres as a file inside, return the `likeness` (n,) to the training pictures, too. They
contain the description of the model (bundle.json): in the metadata of ONNX, in `assets.extra` of a SavedModel, in the
zip archive that a .keras file is, and in a zip archive at the end of a .tflite file, as TensorFlow Lite's metadata
library does it.
"""

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.backbones.own.onnx_trunk import FEATURES, convert_function
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line, install_command
from wastetune.files import remove, write_whole
from wastetune.models.bundle import (
    CENTRES_FILE,
    ONNX_FILE,
    BundleDescription,
    centres_as_bytes,
    highest,
    load_centres,
    load_description,
    load_model,
    model_file,
    split_at_trunk,
)
from wastetune.models.loading import INPUT, INSIDE, KEY, LIKENESS, OUTPUT, SIGNATURE

OPSET = 18
LABELS = "labels.txt"
_BETWEEN = "features"  # the tensor at the top of the trunk


@dataclass(frozen=True)
class Format:
    """A format: the name of its file or folder, and the function that writes it."""

    file: str
    title: str
    write: "Callable[[Source, Path], None]"
    exact: bool = True  # within float32 rounding; False for quantized weights


@dataclass(frozen=True)
class Source:
    """The model to export and its description."""

    model: Any  # Keras: (n, size, size, 3) in 0..255 -> (n, classes)
    about: BundleDescription
    centres: NDArray[np.float32] | None = None  # of the training pictures' features


def write_export(bundle: Path, format: str, folder: Path) -> Path:
    """Writes the model of a bundle to `folder` in one of FORMATS, complete or not at all. Returns its path.

    Raises UserError if a library is missing.
    """
    check_formats(bundle, [format])
    kind, about = FORMATS[format], load_description(bundle)
    target = folder / kind.file
    folder.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        if (original := model_file(bundle)).name == ONNX_FILE:
            _complete_onnx(original, about, load_centres(bundle), part)
        else:
            kind.write(Source(load_model(bundle), about, load_centres(bundle)), part)
        remove(target)  # a SavedModel is a folder, and a folder replaces an empty one only

    try:
        write_whole(target, write)
    except ImportError as error:
        raise UserError(
            f"export to {kind.title} needs more packages ({error}); install them: "
            f"{install_command(format.partition('-')[0])}"
        ) from error
    return target


def check_formats(bundle: Path, formats: Sequence[str]) -> None:
    """UserError where a format is none that the model of a bundle can have."""
    others = [each for each in formats if each != "onnx"]
    if others and model_file(bundle).name == ONNX_FILE:
        raise UserError(
            f"the backbone of {bundle} is an ONNX file, which cannot be converted to {FORMATS[others[0]].title}; "
            "export it with --format onnx"
        )


def _complete_onnx(original: Path, about: BundleDescription, centres: NDArray[np.float32] | None, file: Path) -> None:
    """Writes a bundle's ONNX model with the likeness in the place of its features, and with its description inside."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(original))
    graph = model.graph
    del graph.output[[each.name for each in graph.output].index(FEATURES)]
    if centres is not None:
        shape = np.array([-1, 1, len(centres)], np.int64)
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.ascontiguousarray(centres.T), "centres"),
                numpy_helper.from_array(shape, "one_row"),
                numpy_helper.from_array(np.array([-1], np.int64), "flat"),
            ]
        )
        graph.node.extend(
            [
                helper.make_node("LpNormalization", [FEATURES], ["direction"], axis=-1, p=2),
                helper.make_node("MatMul", ["direction", "centres"], ["cosines"]),
                helper.make_node("Reshape", ["cosines", "one_row"], ["cosine_rows"]),
                helper.make_node("GlobalMaxPool", ["cosine_rows"], ["highest"]),
                helper.make_node("Reshape", ["highest", "flat"], [LIKENESS]),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(LIKENESS, onnx.TensorProto.FLOAT, ["n"]))
    helper.set_model_props(model, {KEY: _described(about)})
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _write_keras(source: Source, file: Path) -> None:
    import keras

    size = source.about.input_size
    pixels = keras.Input((size, size, 3), dtype="uint8", name=INPUT)
    whole = keras.Model(pixels, source.model(keras.ops.cast(pixels, "float32")), name="wastetune")
    whole.save(file)
    _put_inside(file, source.about)
    if source.centres is not None:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(CENTRES_FILE, centres_as_bytes(source.centres))


def _write_saved_model(source: Source, folder: Path) -> None:
    import tensorflow as tf

    # The variables, not the model: LiteRT's converter leaves out the variables of a whole model as not constant.
    module = tf.Module()
    module.weights = [weight.value for weight in source.model.variables]
    with suppressed_stderr():
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: _function(source)})
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / INSIDE).write_text(_described(source.about), encoding="utf-8")
    (extra / LABELS).write_text(_labels(source.about), encoding="utf-8")


def _write_onnx(source: Source, file: Path) -> None:
    import onnx

    _make_constant(source.model)
    converted = convert_function(_function(source), OPSET)
    onnx.helper.set_model_props(converted, {KEY: _described(source.about)})
    try:
        onnx.checker.check_model(converted)
    except onnx.checker.ValidationError as error:  # an operation of a head of the user's own
        raise UserError(f"ONNX cannot have this model: {first_line(error)}; choose another --format") from error
    onnx.save(converted, str(file))


def trunk_as_onnx(trunk: Any) -> Any:
    """A trunk to the top as an ONNX model: `pixels` in, `features` out, as in an export."""
    return _pixels_to(_BETWEEN, trunk)


def whole_as_onnx(model: Any) -> Any:
    """A whole model as ONNX, as in an export, but without a description and the likeness."""
    return _pixels_to(OUTPUT, model)


def _pixels_to(output: str, model: Any) -> Any:
    import tensorflow as tf

    _make_constant(model)
    pixels = tf.TensorSpec((None, *model.input.shape[1:]), tf.uint8, name=INPUT)
    run = tf.function(
        lambda given: {output: model(tf.cast(given, tf.float32), training=False)},
        input_signature=[pixels],
        autograph=False,
    )
    return convert_function(run, OPSET)


def join_head(trunk: Any, head: Any) -> Any:
    """A trunk of `trunk_as_onnx` and a Keras model from its features to probabilities as one ONNX model.

    It is the graph that `_write_onnx` makes of both, but the part above the features alone is converted.
    """
    import onnx
    import tensorflow as tf

    _make_constant(head)
    features = tf.TensorSpec((None, *head.input.shape[1:]), tf.float32, name=_BETWEEN)
    run = tf.function(lambda given: {OUTPUT: head(given, training=False)}, input_signature=[features], autograph=False)
    above = onnx.compose.add_prefix(convert_function(run, OPSET), prefix="above_")
    return onnx.compose.merge_models(trunk, above, io_map=[(_BETWEEN, f"above_{_BETWEEN}")])


def _write_litert(source: Source, file: Path) -> None:
    _convert(source, file, lambda converter: None)


def _write_litert_int8(source: Source, file: Path) -> None:
    import tensorflow as tf

    # Weights in 8 bits, activations in floats. Integer activations destroy the accuracy of a MobileNetV3: docs/log.md.
    def quantize(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    _convert(source, file, quantize)


def _convert(source: Source, file: Path, configure: Callable[[Any], None]) -> None:
    """Writes a .tflite file, converted from a SavedModel to keep its tensor names; `configure` gets the converter."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved_model"
        _write_saved_model(source, saved)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=[SIGNATURE])
        configure(converter)
        with suppressed_stderr():
            file.write_bytes(converter.convert())
    _put_inside(file, source.about)


def _function(source: Source) -> Any:
    """The model as a TensorFlow function for the converters."""
    import tensorflow as tf

    size = source.about.input_size

    def run(pixels: Any) -> dict[str, Any]:
        floats = tf.cast(pixels, tf.float32)
        if centres is None:
            return {OUTPUT: source.model(floats, training=False)}
        trunk, rest = parts
        activations = trunk(floats, training=False)
        grid = highest(activations)
        features = tf.reduce_mean(grid, axis=list(range(1, len(grid.shape) - 1)))
        cosines = tf.matmul(tf.math.l2_normalize(features, axis=-1), centres.T)
        return {OUTPUT: rest(activations, training=False), LIKENESS: tf.reduce_max(cosines, axis=-1)}

    centres = source.centres
    parts: tuple[Any, Any] = (None, None) if centres is None else split_at_trunk(source.model)
    signature = [tf.TensorSpec((None, size, size, 3), tf.uint8, name=INPUT)]
    return tf.function(run, input_signature=signature, autograph=False)


def _make_constant(model: Any) -> None:
    """Turns tensors that some layers keep beside their weights into arrays; tf2onnx would make them inputs."""
    import keras

    for layer in getattr(model, "layers", ()):
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
        _make_constant(layer)


def _put_inside(file: Path, about: BundleDescription) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(INSIDE, _described(about))
        archive.writestr(LABELS, _labels(about))


def _described(about: BundleDescription) -> str:
    return json.dumps(about.to_dict(), ensure_ascii=False)


def _labels(about: BundleDescription) -> str:
    return "".join(f"{name}\n" for name in about.classes)


FORMATS = {
    "keras": Format("model.keras", "Keras", _write_keras),
    "savedmodel": Format("saved_model", "TensorFlow's SavedModel", _write_saved_model),
    "onnx": Format("model.onnx", "ONNX", _write_onnx),
    "litert": Format("model.tflite", "LiteRT", _write_litert),
    "litert-int8": Format("model-int8.tflite", "LiteRT with weights in 8 bits", _write_litert_int8, exact=False),
}
