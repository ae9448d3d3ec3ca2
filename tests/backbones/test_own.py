"""Backbones of one's own: Keras and ONNX files and presets of KerasHub, cut, scaled, and refused in a sentence."""

from dataclasses import replace

import numpy as np
import pytest

from support.own_backbones import features_of, save_dinov2, save_onnx, small_model
from wastetune.backbones.backbone import activation_shape, build_trunk, load_backbone, split
from wastetune.backbones.cuts import PIXELS, TOP
from wastetune.backbones.keras_applications import build_preprocessing
from wastetune.backbones.own.scaling import SCALINGS, build_scaling
from wastetune.backbones.runtime import open_trunk
from wastetune.errors import UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("own")
    small_model().save(made / "own.keras")
    return made


@pytest.fixture(scope="module")
def own(folder):
    return load_backbone("own.keras", near=folder)


def test_a_model_in_a_model_is_cut_where_one_tensor_carries_everything(own, folder):
    import keras

    assert [cut.name for cut in own.cuts] == ["pixels", "stem_relu", "block_out", "top"]
    assert [cut.frozen_depth for cut in own.cuts] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert own.left_off == ("predictions",)
    saved = keras.saving.load_model(folder / "own.keras")
    whole = np.asarray(features_of(saved)(PICTURES.astype(np.float32)))
    assert np.ptp(whole) > 0
    trunk = build_trunk(own, own.cuts)
    for cut, activations in zip(own.cuts, trunk(PICTURES.astype(np.float32)), strict=True):
        assert activations.shape[1:] == activation_shape(own, cut)
        np.testing.assert_allclose(split(own, cut)[1](activations), whole, rtol=1e-4, atol=1e-6)


def test_what_was_frozen_in_the_file_is_trained_but_for_normalisation(own):
    _, tail = split(own, PIXELS)
    trained = {weight.path.split("/")[0] for weight in tail.trainable_weights}
    assert trained == {"stem", "first", "last"}


def test_a_layer_that_is_named_is_the_top(folder):
    lower = load_backbone("own.keras", near=folder, layer="block_out")
    assert [cut.name for cut in lower.cuts] == ["pixels", "stem_relu", "top"]
    assert activation_shape(lower, TOP) == (8,)  # the mean of the map
    with pytest.raises(UserError, match="has no layer 'block_in'; did you mean block_out"):
        load_backbone("own.keras", near=folder, layer="block_in")


def test_the_bytes_the_preprocessing_and_the_layer_make_another_backbone(own, folder, tmp_path):
    assert load_backbone("own.keras", near=folder).digest == own.digest
    small_model(seed=1).save(tmp_path / "own.keras")
    others = [
        load_backbone("own.keras", near=tmp_path),
        load_backbone("own.keras", near=folder, preprocessing="torch"),
        load_backbone("own.keras", near=folder, layer="block_out"),
    ]
    assert len({own.digest, *(each.digest for each in others)}) == 4


def test_a_sequential_model_and_names_that_are_no_folders(tmp_path):
    import keras

    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(4, 3, name=".."), layers.ReLU(name="pixels")])
    for each in (layers.Conv2D(4, 3, name="top"), layers.Flatten(), layers.Dense(7, "relu"), layers.Dense(2)):
        model.add(each)
    model.save(tmp_path / "plain.keras")
    backbone = load_backbone("plain.keras", near=tmp_path, preprocessing="unit")
    assert [cut.name for cut in backbone.cuts] == ["pixels", "pixels_1", "flatten", "top"]
    assert activation_shape(backbone, TOP) == (7,)


@pytest.mark.parametrize("kind", SCALINGS)
def test_pixels_are_scaled_as_for_backbones_of_the_catalog(kind):
    pixels = PICTURES.astype(np.float32)
    scaled = np.asarray(build_scaling(SCALINGS[kind], 32)(pixels))
    expected = pixels / 255 if kind == "unit" else np.asarray(build_preprocessing(kind, 32)(pixels))
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-4)


def with_two_inputs(file):
    import keras

    a, b = keras.Input((32, 32, 3)), keras.Input((3,))
    pooled = keras.layers.GlobalAveragePooling2D()(a)
    keras.Model([a, b], keras.layers.Add()([pooled, b])).save(file)


def with_a_lambda(file):
    import keras

    pixels = keras.Input((32, 32, 3))
    keras.Model(pixels, keras.layers.Lambda(lambda x: x[:, 0, 0])(pixels)).save(file)


def not_square(file):
    import keras

    pixels = keras.Input((32, 48, 3))
    keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels)).save(file)


def of_any_size(file):
    import keras

    pixels = keras.Input((None, None, 3))
    keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels))).save(file)


def damaged(file):
    file.write_bytes(b"PK no archive")


@pytest.mark.parametrize(
    ("write", "keys", "sentence"),
    [
        (with_two_inputs, {}, "a backbone takes one picture"),
        (with_a_lambda, {}, "has code of its own"),
        (not_square, {}, "32 x 48; wastetune's are square"),
        (of_any_size, {"preprocessing": "unit"}, "add image_size"),
        (of_any_size, {"size": 32}, 'add preprocessing = "inside"'),
        (damaged, {}, "cannot be read as a Keras model"),
        (lambda file: small_model(rescale=False).save(file), {}, 'add preprocessing = "inside"'),
        (lambda file: small_model().save(file), {"weights": "none"}, "its weights are in its file"),
        (lambda file: None, {}, r"there is no file .*x\.keras; a relative path starts at the folder of the study's"),
    ],
)
def test_a_keras_file_that_does_not_fit_is_told_in_a_sentence(write, keys, sentence, tmp_path):
    write(tmp_path / "x.keras")
    with pytest.raises(UserError, match=sentence) as told:
        load_backbone("x.keras", near=tmp_path, **keys)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "keys", "sentence"),
    [
        ("resnet50", {"preprocessing": "caffe"}, "preprocessing is for files of one's own"),
        ("resnet50", {"layer": "conv1"}, "layer is for files of one's own"),
        ("mine.h5", {}, r"is a \.keras or \.onnx file, not \.h5"),
        ("model.pt", {}, r"torch\.onnx\.export writes"),
        ("resnet5", {}, "did you mean resnet50"),
        ("x.onnx", {}, "there is no file"),
    ],
)
def test_a_name_that_does_not_fit_is_told_in_a_sentence(name, keys, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        load_backbone(name, near=tmp_path, **keys)


def expected_features(weights, scaled):
    """What the graph of `save_onnx` gives below its dense layer, by Keras."""
    import keras

    kernel = weights["w"].transpose(2, 3, 1, 0)
    return np.maximum(np.asarray(keras.ops.conv(scaled, kernel, padding="same")), 0).mean(axis=(1, 2))


@pytest.mark.parametrize("runtime", ["openvino", "keras"])
@pytest.mark.parametrize("form", [{}, {"channels_first": False, "dense": False, "pool": False}, {"opset": 11}])
@pytest.mark.parametrize("kind", ["torch", "caffe"])
def test_an_onnx_trunk_gives_its_features_below_its_head(runtime, form, kind, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx")
    monkeypatch.setenv("WASTETUNE_RUNTIME", runtime)
    weights = save_onnx(tmp_path / "own.onnx", **form)
    backbone = load_backbone("own.onnx", near=tmp_path, preprocessing=kind)
    assert (backbone.cuts, backbone.size, activation_shape(backbone, TOP)) == ((TOP,), 8, (6,))
    assert backbone.left_off == (() if "dense" in form else ("logits",))
    runner = open_trunk(backbone, (TOP,))
    assert runner.runtime == ("openvino" if runtime == "openvino" else "onnxruntime")
    pixels = PICTURES[:, :8, :8]
    made = np.concatenate([each for (each,) in runner.run([pixels[:2], pixels[2:]])])
    expected = expected_features(weights, np.asarray(build_scaling(SCALINGS[kind], 8)(pixels.astype(np.float32))))
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def test_a_tensor_or_node_of_an_onnx_file_that_is_named_is_the_top(tmp_path):
    weights = save_onnx(tmp_path / "own.onnx")
    tops = {
        name: load_backbone("own.onnx", near=tmp_path, preprocessing="unit", layer=name) for name in ("relu", "flat")
    }
    assert all(activation_shape(each, TOP) == (6,) and not each.left_off for each in tops.values())
    logits = load_backbone("own.onnx", near=tmp_path, preprocessing="unit", layer="logits")
    assert activation_shape(logits, TOP) == (weights["g"].shape[1],)
    with pytest.raises(UserError, match="no tensor or node 'rely'; did you mean relu"):
        load_backbone("own.onnx", near=tmp_path, preprocessing="unit", layer="rely")


def with_data_beside(file):
    import onnx

    save_onnx(file)
    onnx.save_model(
        onnx.load(str(file)), str(file), save_as_external_data=True, location="beside.data", size_threshold=0
    )


def for_two_pictures(file):
    import onnx

    save_onnx(file, batch=2, dense=False)
    model = onnx.load(str(file))
    flatten = model.graph.node[-1]
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 6], np.int64), "shape"))
    onnx.save(model, str(file))


def normalised_over_the_batch(file):
    import onnx

    save_onnx(file, dense=False)
    model = onnx.load(str(file))
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0]),
            onnx.helper.make_node("Sub", ["flat", "mean"], ["centred"]),
        ]
    )
    model.graph.output[0].name = "centred"
    onnx.save(model, str(file))


@pytest.mark.parametrize(
    ("write", "keys", "sentence"),
    [
        (save_onnx, {"preprocessing": None}, 'add preprocessing = "inside"'),
        (save_onnx, {"size": 16}, "is for pictures of 8 px, and image_size is 16"),
        (lambda file: save_onnx(file, size="s"), {}, "add image_size"),
        (with_data_beside, {}, "lie in other files"),
        (for_two_pictures, {}, "so many pictures at a time as it was exported with"),
        (normalised_over_the_batch, {}, "depend on the other pictures"),
        (damaged, {}, "cannot be read"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_told_in_a_sentence(write, keys, sentence, tmp_path):
    write(tmp_path / "x.onnx")
    with pytest.raises(UserError, match=sentence) as told:
        load_backbone("x.onnx", near=tmp_path, **{"preprocessing": "unit", **keys})
    assert "\n" not in str(told.value)


def test_dinov2_is_cut_at_its_encoder_layers(tmp_path):
    pytest.importorskip("keras_hub", reason="needs pip install 'wastetune[hub]'")
    whole = save_dinov2(tmp_path / "dino")
    backbone = load_backbone("keras_hub:dino", near=tmp_path)
    assert [cut.name for cut in backbone.cuts][2:] == ["layers_0", "layers_1", "top"]
    pixels = PICTURES.astype(np.float32)
    tokens = np.asarray(whole({"images": pixels / 127.5 - 1}))
    for cut, activations in zip(backbone.cuts, build_trunk(backbone, backbone.cuts)(pixels), strict=True):
        np.testing.assert_allclose(split(backbone, cut)[1](activations), tokens[:, 0], rtol=1e-3, atol=1e-4)
    assert load_backbone("keras_hub:dino", near=tmp_path, preprocessing="torch").digest != backbone.digest
    assert replace(backbone, size=1) != backbone
    for name, sentence in {"keras_hub:nowhere/..": "has no config.json", "keras_hub:./x": "there is no folder"}.items():
        (tmp_path / "nowhere").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=sentence):
            load_backbone(name, near=tmp_path)


def test_without_keras_hub_the_command_that_installs_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("wastetune.backbones.schemes.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"KerasHub is not installed; pip install 'wastetune\[hub\]'"):
        load_backbone("keras_hub:dinov2_small", near=tmp_path)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(UserError, match=r"needs onnx, onnxruntime, tf2onnx: pip install 'wastetune\[onnx\]'"):
        load_backbone("x.onnx", near=tmp_path, preprocessing="unit")
