"""Every backbone can be cut anywhere, and trunk and tail together are the whole."""

import numpy as np
import pytest

from wastetune.backbones.backbone import (
    activation_shape,
    build_trunk,
    load_backbone,
    nearest_cut,
    reachable_cuts,
    split,
)
from wastetune.backbones.catalog import BACKBONES, weights_file_name
from wastetune.backbones.cuts import PIXELS, TOP, Cut
from wastetune.backbones.keras_applications import build_preprocessing, find_weights, weights_digest
from wastetune.errors import UserError

SIZE = {"inception_v3": 75, "xception": 71}  # the smallest they take
BLOCKS = {
    "inception_v3": 11,
    "resnet152": 50,
    "resnet50": 16,
    "mobilenet_v3_large": 16,
    "mobilenet_v3_small": 12,
    "efficientnet_v2_b0": 22,
    "convnext_tiny": 18,
    "densenet121": 58,
    "xception": 13,
}


# Other widths of a network that is there have the same blocks.
# NASNet, slow to build, has no cut between the pixels and the top.
KINDS = [name for name in BACKBONES if name in BLOCKS or name == "mobilenet_v3_small_minimalistic"]


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return load_backbone(request.param, "none", size=SIZE.get(request.param, 32))


def test_tail_of_trunk_is_the_whole_backbone_at_its_cuts(backbone):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, backbone.size, backbone.size, 3)).astype(np.float32)
    whole = np.asarray(backbone.body(backbone.preprocess(pixels)))
    assert np.ptp(whole) > 0
    # Blocks of a stage repeat one another: every third cut reaches each stage. ResNet152 is ResNet50 with more.
    lower = backbone.cuts[:-1][:: 25 if len(backbone.cuts) > 30 else 3]
    for cut, activations in zip(lower, build_trunk(backbone, lower)(pixels), strict=True):
        _, tail = split(backbone, cut)
        assert activations.shape[1:] == activation_shape(backbone, cut)
        np.testing.assert_allclose(tail(activations), whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    trunk, tail = split(backbone, TOP)
    np.testing.assert_allclose(tail(trunk(pixels)), whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())


def test_cuts_go_from_the_lowest_block_to_the_top(backbone):
    depths = [cut.frozen_depth for cut in backbone.cuts]
    assert depths == sorted(set(depths))
    assert (backbone.cuts[0], backbone.cuts[-1]) == (PIXELS, TOP)
    if backbone.name in BLOCKS:
        assert len(backbone.cuts) == 1 + BLOCKS[backbone.name]


def test_no_normalisation_layer_learns(backbone):
    import keras

    frozen = [layer for layer in backbone.body.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert not any(layer.trainable for layer in frozen)
    assert frozen or backbone.name == "convnext_tiny"


@pytest.fixture(scope="module")
def resnet():
    return load_backbone("resnet50", "none", size=32)


def test_frozen_depth_snaps_to_the_nearest_cut(resnet):
    assert nearest_cut(resnet, 0.8) == Cut("conv4_block6", 0.8125)
    assert nearest_cut(resnet, 0.99) == TOP
    assert nearest_cut(resnet, 0.04).name == "conv2_block1"
    assert nearest_cut(resnet, 0.01) == PIXELS
    assert [cut.name for cut in reachable_cuts(resnet, 0.8, 1.0)] == [
        "conv4_block6",
        "conv5_block1",
        "conv5_block2",
        "top",
    ]


def test_random_weights_are_the_same_every_time(resnet):
    assert load_backbone("resnet50", "none", size=32).digest == resnet.digest


MODULES = {
    "ResNet": "resnet",
    "InceptionV3": "inception_v3",
    "MobileNetV3": "mobilenet_v3",
    "EfficientNetV2": "efficientnet_v2",
    "ConvNeXt": "convnext",
    "DenseNet": "densenet",
    "NASNet": "nasnet",
    "Xception": "xception",
}


@pytest.mark.parametrize("name", BACKBONES)
def test_preprocessing_is_that_of_keras(name):
    import keras

    row = BACKBONES[name]
    family = next(each for each in MODULES if row.builder.startswith(each))
    module = "resnet_v2" if family == "ResNet" and row.builder.endswith("V2") else MODULES[family]
    assert hasattr(keras.applications, row.builder)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    expected = getattr(keras.applications, module).preprocess_input(pixels.copy())
    np.testing.assert_allclose(build_preprocessing(row.preprocessing, 8)(pixels), expected, rtol=1e-5, atol=1e-4)


def test_weights_are_looked_for_in_a_folder_first(tmp_path):
    file = tmp_path / weights_file_name("resnet50")
    file.touch()
    assert find_weights("resnet50", "imagenet", tmp_path) == file
    assert find_weights("resnet50", str(tmp_path), None) == file
    assert find_weights("resnet50", str(file), None) == file
    assert find_weights("resnet152", "imagenet", tmp_path) == "imagenet"
    assert find_weights("resnet50", "none", tmp_path) is None
    with pytest.raises(UserError, match="resnet152_notop"):
        find_weights("resnet152", str(tmp_path), None)


def test_weights_of_another_backbone_are_refused_in_a_sentence(tmp_path):
    import keras

    keras.applications.MobileNetV3Small(weights=None, include_top=False, minimalistic=True).save_weights(
        tmp_path / "wrong.weights.h5"
    )
    with pytest.raises(UserError, match=r"wrong\.weights\.h5 do not fit resnet50"):
        load_backbone("resnet50", str(tmp_path / "wrong.weights.h5"), size=32)


def test_without_a_network_the_file_to_get_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"resnet50_notop\.weights\.h5 into weights and pass --weights"):
        load_backbone("resnet50", size=32)


def test_real_weights_see_what_is_in_a_picture(real_data, real_weights):
    """ImageNet features tell glass from paper; random ones or wrong preprocessing would not."""
    from sklearn.linear_model import LogisticRegression

    from wastetune.data.image import read_picture, resize_picture

    backbone = load_backbone("mobilenet_v3_small_075", folder=real_weights, size=160)
    files = [path for name in ("glass", "paper") for path in sorted((real_data / "trashnet" / name).iterdir())[:80]]
    pixels = np.stack([resize_picture(read_picture(path), 160) for path in files]).astype(np.float32)
    trunk, _ = split(backbone, TOP)
    features = np.asarray(trunk(pixels))
    labels = np.repeat([0, 1], 80)
    model = LogisticRegression(max_iter=1000).fit(features[::2], labels[::2])
    assert model.score(features[1::2], labels[1::2]) > 0.9


SMALL = "mobilenet_v3_small_minimalistic"


@pytest.mark.parametrize("renamed", ["mobilenet_v3_small_minimalistic_notop.weights.h5", "as_published_notop.h5"])
def test_a_weights_file_of_keras_2_loads_under_either_name(renamed, tmp_path):
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    source = load_backbone(SMALL, "none", size=32)
    before, drawn = source.digest, np.random.default_rng(3)
    source.body.set_weights([drawn.normal(1, 0.1, each.shape) for each in source.body.get_weights()])
    with h5py.File(tmp_path / renamed, "w") as file:
        save_weights_to_hdf5_group(file, source.body)
    loaded = load_backbone(SMALL, str(tmp_path / renamed), size=32)
    assert before != loaded.digest == weights_digest(source.body)
    if renamed.endswith(".weights.h5"):
        assert load_backbone(SMALL, size=32, folder=tmp_path).digest == loaded.digest


def test_a_weights_file_of_keras_3_loads_under_another_name(tmp_path):
    source = load_backbone(SMALL, "none", size=32)
    source.body.save_weights(tmp_path / "made.weights.h5")
    (tmp_path / "made.weights.h5").rename(tmp_path / "mine.h5")
    assert load_backbone(SMALL, str(tmp_path / "mine.h5"), size=32).digest == source.digest
