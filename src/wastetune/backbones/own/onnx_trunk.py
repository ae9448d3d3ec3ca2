"""A frozen trunk in an .onnx file, and the whole model that it makes with a head.

The file's graph gets what it lacks on both sides: pixels (n, size, size, 3) uint8 are scaled and ordered before it, and
its map, if it gives one, is averaged over its places after it. A head, made in Keras, is converted and appended.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.backbones.own.scaling import Scaling
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line, suggest

PIXELS, FEATURES, PROBABILITIES = "pixels", "features", "probabilities"  # the names of inputs and outputs
_PREFIX = "trunk/"  # of all names of the file
_HEAD_OPSET = 18  # the highest that tf2onnx writes
_AFTER_LOGITS = ("Softmax", "LogSoftmax", "Sigmoid", "Identity")
_IGNORED = ("Identity", "Dropout")
_TOLERANCE = 1e-3  # of the largest feature, between a picture alone and beside another


@dataclass(frozen=True)
class OnnxTrunk:
    """Pixels (n, size, size, 3) uint8 to features (n, f), as an ONNX model that has been run."""

    content: bytes
    features: int
    size: int
    parameters: int
    left_off: str  # the layer of the head that was left off; empty where there was none


@dataclass(frozen=True)
class OnnxModel:
    """Pixels to probabilities and features: a trunk and a head. It has those methods of a Keras model that are used."""

    content: bytes
    parameters: int

    def predict_on_batch(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """The probabilities (n, classes) of pixels in 0..255."""
        return np.asarray(open_session(self.content).run([PROBABILITIES], {PIXELS: pixels.astype(np.uint8)})[0])

    def count_params(self) -> int:
        """The number of weights, trained or not."""
        return self.parameters

    def save(self, file: Path) -> None:
        """Writes the file."""
        file.write_bytes(self.content)


@lru_cache(maxsize=1)
def open_session(model: str | bytes, threads: int | None = None) -> Any:
    """ONNX Runtime with the model in a file, or with its content, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load_onnx(file: Path, size: int | None, scaling: Scaling, layer: str | None) -> OnnxTrunk:
    """The trunk in a file, for pictures of so many pixels a side; None: the size that the file says.

    `layer` names the tensor or node that is the top; without it, a dense layer at the end is left off.
    UserError where the file cannot be read, does not take one picture as its input, or gives no features.
    """
    import onnx

    with _telling(f"{file} cannot be read"):
        model = onnx.load(str(file), load_external_data=False)
        if any(onnx.external_data_helper.uses_external_data(each) for each in model.graph.initializer):
            raise UserError(f"the weights of {file} lie in other files; write all into one with onnx.save_model")
        onnx.checker.check_model(model)
    entry, channels_first, side = _read_input(model.graph, file)
    if side and size and side != size:
        raise UserError(f"{file} is for pictures of {side} px, and image_size is {size}; leave image_size out")
    if not (side := side or size):
        raise UserError(f"{file} does not say for what size of pictures it is; add image_size to the study")
    top, left_off = (_named(model.graph, layer, file), "") if layer else _without_head(model.graph)
    with _telling(f"{file} cannot be used as a trunk"):
        made = _surround(model, entry, top, scaling, channels_first, side)
        features = _rehearse(made, side)
    parameters = sum(int(np.prod(each.dims)) for each in made.graph.initializer)
    return OnnxTrunk(made.SerializeToString(), features, side, parameters, left_off)


def run_session(session: Any, batches: Iterable[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.float32]]]:
    """The features of each batch of pixels."""
    for pixels in batches:
        yield [np.asarray(session.run([FEATURES], {PIXELS: pixels})[0])]


def append_head(trunk: OnnxTrunk, head: Any) -> OnnxModel:
    """The whole model of a trunk and a Keras model from features (n, f) to probabilities (n, classes)."""
    import onnx

    model = onnx.load_from_string(trunk.content)
    opset = _opset(model)
    converted = convert_keras(head, min(opset, _HEAD_OPSET))
    if opset > _HEAD_OPSET:
        converted = onnx.version_converter.convert_version(converted, opset)
    converted = onnx.compose.add_prefix(converted, "head/")
    (given,), (made,) = converted.graph.input, converted.graph.output
    for each in converted.opset_import:
        if each.domain not in {known.domain for known in model.opset_import}:
            model.opset_import.append(each)
    model.graph.node.extend(
        [
            onnx.helper.make_node("Identity", [FEATURES], [given.name]),
            *converted.graph.node,
            onnx.helper.make_node("Identity", [made.name], [PROBABILITIES]),
        ]
    )
    model.graph.initializer.extend(converted.graph.initializer)
    model.graph.output.insert(0, _value(PROBABILITIES, onnx.TensorProto.FLOAT, ("n", int(head.output.shape[1]))))
    model.functions.extend(converted.functions)
    onnx.checker.check_model(model)
    return OnnxModel(model.SerializeToString(), trunk.parameters + int(head.count_params()))


def convert_function(function: Any, opset: int) -> Any:
    """A TensorFlow function with a signature as an ONNX model."""
    import logging

    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with suppressed_stderr():
        converted, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=opset)
    replace_erfc(converted.graph)
    return converted


def convert_keras(model: Any, opset: int) -> Any:
    """A Keras model of one input as an ONNX model. UserError where ONNX cannot have it."""
    import onnx
    import tensorflow

    signature = [tensorflow.TensorSpec(model.input.shape, tensorflow.float32, name=FEATURES)]
    function = tensorflow.function(
        lambda given: model(given, training=False), input_signature=signature, autograph=False
    )
    converted = convert_function(function, opset)
    try:
        onnx.checker.check_model(converted)
    except onnx.checker.ValidationError as error:  # an operation of a head of the user's own
        raise UserError(f"ONNX cannot have this head: {first_line(error)}") from error
    return converted


def replace_erfc(graph: Any) -> None:
    """Replaces Erfc, which tf2onnx takes over from the GELU of TensorFlow and ONNX does not have, by 1 - Erf."""
    import onnx

    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        erf, one = f"{node.output[0]}_erf", f"{node.output[0]}_one"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), one))
        nodes.append(onnx.helper.make_node("Erf", node.input, [erf]))
        nodes.append(onnx.helper.make_node("Sub", [one, erf], node.output, name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Any error inside as a UserError: runtimes and converters raise anything over a file from elsewhere."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {first_line(error, most=300)}") from error


def _read_input(graph: Any, file: Path) -> tuple[Any, bool, int | None]:
    """The input, whether channels come first in it, and the pixels a side, if it says them."""
    constant = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constant]
    if len(inputs) != 1:
        raise UserError(f"{file} takes {len(inputs)} inputs; a backbone takes one, the pictures")
    dims = [each.dim_value or None for each in inputs[0].type.tensor_type.shape.dim]
    channels_first = len(dims) == 4 and dims[1] == 3
    if len(dims) != 4 or not (channels_first or dims[3] == 3):
        raise UserError(f"the input of {file} has the shape {dims}; pictures have (n, 3, h, w) or (n, h, w, 3)")
    height, width = dims[2:] if channels_first else dims[1:3]
    if height != width:
        raise UserError(f"{file} takes pictures of {height} x {width}; wastetune's are square")
    return inputs[0], channels_first, height


def _named(graph: Any, name: str, file: Path) -> str:
    """The tensor of that name, or the first output of the node of that name."""
    tensors = {output for node in graph.node for output in node.output if output}
    nodes = {node.name: node.output[0] for node in graph.node if node.name and node.output}
    if name in tensors:
        return name
    if name in nodes:
        return str(nodes[name])
    raise UserError(f"{file} has no tensor or node {name!r}; {suggest(name, sorted(tensors | nodes.keys()))[:500]}")


def _without_head(graph: Any) -> tuple[str, str]:
    """The tensor that the dense layer at the end takes, and the name of what makes its output; else the output."""
    end = graph.output[0]
    makers = {output: node for node in graph.node for output in node.output}
    constant = {each.name for each in graph.initializer}
    constant |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    if len(end.type.tensor_type.shape.dim) != 2:
        return end.name, ""

    def skip(name: str, kinds: Sequence[str]) -> str:
        while (node := makers.get(name)) is not None and node.op_type in kinds:
            name = node.input[0]
        return name

    logits = skip(end.name, _AFTER_LOGITS)
    node = makers.get(logits)
    if node is not None and node.op_type == "Add" and any(each in constant for each in node.input):
        node = makers.get(next((each for each in node.input if each not in constant), ""))
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constant:
        return end.name, ""
    return skip(node.input[0], _IGNORED), logits


def _surround(model: Any, entry: Any, top: str, scaling: Scaling, channels_first: bool, size: int) -> Any:
    """The model with pixels as its input and vectors as its output."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = entry.type.tensor_type.elem_type
    rank = _rank(model, top)
    whole = onnx.compose.add_prefix(model, _PREFIX)
    graph, entry_name, top_name = whole.graph, _PREFIX + entry.name, _PREFIX + top
    scale, offset = (np.array(each, np.float32).reshape(1, 1, 1, 3) for each in (scaling.scale, scaling.offset))
    before, name = [helper.make_node("Cast", [PIXELS], ["floats"], to=TensorProto.FLOAT)], "floats"
    constants = [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(offset, "offset")]
    if scaling.bgr:
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr"))
        before.append(helper.make_node("Gather", [name, "bgr"], ["ordered"], axis=3))
        name = "ordered"
    if (scale != 1).any():
        before.append(helper.make_node("Mul", [name, "scale"], ["multiplied"]))
        name = "multiplied"
    if (offset != 0).any():
        before.append(helper.make_node("Add", [name, "offset"], ["scaled"]))
        name = "scaled"
    if channels_first:
        before.append(helper.make_node("Transpose", [name], ["planes"], perm=[0, 3, 1, 2]))
        name = "planes"
    before.append(helper.make_node("Cast", [name], [entry_name], to=kind))

    after, name = [helper.make_node("Cast", [top_name], ["found"], to=TensorProto.FLOAT)], "found"
    if rank in (3, 4):
        if rank == 3 or not channels_first:  # channels come last: tokens, or a map as TensorFlow has it
            order = [0, 2, 1] if rank == 3 else [0, 3, 1, 2]
            after.append(helper.make_node("Transpose", [name], ["turned"], perm=order))
            name = "turned"
        after.append(helper.make_node("GlobalAveragePool", [name], ["averaged"]))
        name = "averaged"
    elif rank != 2:
        raise UserError(f"{top!r} has {rank} dimensions; features have 2, maps 4")
    after.append(helper.make_node("Flatten", [name], [FEATURES], axis=1))

    nodes = _needed(graph.node, top_name)
    used = {each for node in nodes for each in _taken(node)}
    kept = [each for each in graph.initializer if each.name in used]
    made = helper.make_graph(
        [*before, *nodes, *after],
        "wastetune",
        [_value(PIXELS, TensorProto.UINT8, ("n", size, size, 3))],
        [_value(FEATURES, TensorProto.FLOAT, ("n", "f"))],
        [*constants, *kept],
        sparse_initializer=graph.sparse_initializer,
    )
    result = helper.make_model(
        made, opset_imports=whole.opset_import, ir_version=whole.ir_version, functions=whole.functions
    )
    result.producer_name = "wastetune"
    return result


def _value(name: str, kind: int, shape: tuple[Any, ...]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def _taken(node: Any) -> set[str]:
    """The names that a node takes, also inside its branches and loops."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            names |= {each for inner in graph.node for each in _taken(inner)}
            names |= {each.name for each in graph.output}
    return names


def _needed(nodes: Sequence[Any], end: str) -> list[Any]:
    """The nodes that lead to a tensor, in their order."""
    wanted, kept = {end}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= _taken(node)
            kept.append(node)
    return kept[::-1]


def _rank(model: Any, name: str) -> int:
    """The number of dimensions of a tensor, as ONNX infers it."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    for each in [*inferred.value_info, *inferred.output, *inferred.input]:
        if each.name == name and each.type.tensor_type.HasField("shape"):
            return len(each.type.tensor_type.shape.dim)
    raise UserError(f"the shape of {name!r} is not known; name another layer in the study")


def _rehearse(model: Any, size: int) -> int:
    """The length of the features, after noise has been run through.

    UserError where the file takes one picture at a time only, or a picture's features depend on its neighbours.
    """
    session = open_session(model.SerializeToString())
    noise = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    try:
        alone = np.asarray(session.run([FEATURES], {PIXELS: noise[:1]})[0])
        together = np.asarray(session.run([FEATURES], {PIXELS: noise})[0])
    except Exception as error:
        raise UserError(
            f"it takes so many pictures at a time as it was exported with ({first_line(error, most=200)}); export it "
            "with a batch of any size (dynamic_axes or dynamic_shapes in PyTorch)"
        ) from error
    if together.shape != (3, alone.shape[1]):
        raise UserError(f"it gives an output of shape {together.shape} for 3 pictures; export it with any batch size")
    if not np.isfinite(together).all():
        raise UserError("it gives numbers that are not finite for noise; see preprocessing")
    if np.abs(together[:1] - alone).max() > _TOLERANCE * np.abs(alone).max(initial=1e-6):
        raise UserError("a picture's features depend on the other pictures of a batch; export it for inference")
    return int(alone.shape[1])


def _opset(model: Any) -> int:
    return next(int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx"))
