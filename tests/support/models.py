"""Trained models that are made without training."""

import json
from dataclasses import asdict

import pytest

from support.reports import a_report
from wastetune.datasets.synthetic import write_sample

# A model that is sure enough of most pictures, and of no grey one.
PROMISES = {
    "thresholds": [{"precision": 0.95, "confidence": 0.9, "coverage": 0.7}],
    "set_thresholds": [{"coverage": 0.9, "probability": 0.2}],
    "unlike_below": 0.9,
}


@pytest.fixture(scope="session")
def brightness(tmp_path_factory):
    """An .onnx file that knows dark pictures from bright ones, as `wastetune export` would write it."""
    onnx = pytest.importorskip("onnx", reason="needs pip install '.[dev]'")
    from onnx import TensorProto, helper

    weights = [[-0.01, 0.0, 0.01], [-0.01, 0.0, 0.01], [-0.01, 0.0, 0.01]]
    flat = [value for row in weights for value in row]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [None, 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("weights", TensorProto.FLOAT, [3, 3], flat),
            helper.make_tensor("bias", TensorProto.FLOAT, [3], [3.8, 0.0, -3.8]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    about = {"classes": ["dark", "grey", "bright"], "input_size": 8, **PROMISES}
    helper.set_model_props(made, {"wastetune": json.dumps(about)})
    onnx.checker.check_model(made)
    file = tmp_path_factory.mktemp("brightness") / "model.onnx"
    onnx.save(made, str(file))
    return file


@pytest.fixture(scope="session")
def finished(once):
    """Data and results of a finished study, whose model tells red leaves from green bottles by the mean colour.

    Its features are the mean colours of 8 x 8 places. The data set is `drawn` in the folder `data`. To be read alone.
    """
    return once("finished", write_finished)


def write_finished(folder):
    import keras
    import numpy as np

    from wastetune.data.image import read_picture, resize_picture
    from wastetune.data.index import index_folder
    from wastetune.data.splits import split_index, write_split_table
    from wastetune.evaluation.novelty import fit_centres
    from wastetune.evaluation.scores import score_predictions
    from wastetune.models.bundle import BundleDescription, save_centres, save_description, save_model
    from wastetune.report.html import write_page
    from wastetune.report.predictions import Predictions, write_predictions
    from wastetune.search.history import History

    results, data = folder / "results" / "colours", folder / "data"
    pictures = write_sample(data / "drawn", classes=("bottle", "leaf"), per_class=30, size=64)
    layers = keras.layers
    pixels, places = keras.Input((64, 64, 3)), keras.Input((8, 8, 3))
    trunk = keras.Model(pixels, layers.AveragePooling2D(8)(layers.Rescaling(1 / 255)(pixels)), name="trunk")
    head = keras.Model(places, layers.Dense(2)(layers.GlobalAveragePooling2D()(places)))
    head.layers[-1].set_weights([np.array([[-40.0, 40.0], [40.0, -40.0], [0.0, 0.0]]), np.zeros(2)])
    model = keras.Model(pixels, layers.Softmax()(head(trunk(pixels))))
    save_model(results / "bundle", model)

    index = index_folder(pictures)
    splits = split_index(index, seed=0)
    write_split_table(index, splits, results / "split.csv")
    shown = [index.pictures[position] for position in splits.test]
    seen = np.stack([resize_picture(read_picture(pictures / each.path), 64) for each in shown]).astype(np.float32)
    said = np.asarray(model.predict_on_batch(seen))
    labels = np.array([each.label for each in shown])
    paths = tuple(each.path for each in shown)
    write_predictions(Predictions(index.classes, paths, labels, said, said.argmax(axis=1)), results)
    scores = asdict(score_predictions(labels, said, index.classes))
    learnt = [index.pictures[position] for position in (*splits.train, *splits.val)]
    colours = np.stack([resize_picture(read_picture(pictures / each.path), 64).mean(axis=(0, 1)) for each in learnt])
    save_centres(results / "bundle", fit_centres(colours, np.array([each.label for each in learnt]), seed=0))
    about = {"study": "colours", "backbone": "mean_colour", "dataset": "drawn", "input_size": 64}
    about |= {"classes": index.classes, "test": scores, **PROMISES}
    save_description(results / "bundle", BundleDescription.from_dict(about))
    write_page(a_report(), History((), {}, {}), None, pictures, results)
