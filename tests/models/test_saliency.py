"""Where a model looked: the model that is asked is the one that answers, and the heat lies on what spoke for it."""

import keras
import numpy as np
import pytest
from PIL import Image

from wastetune.backbones.backbone import load_backbone, nearest_cut, split
from wastetune.backbones.cuts import TOP
from wastetune.data.image import read_picture, resize_picture
from wastetune.datasets.synthetic import write_sample
from wastetune.errors import UserError
from wastetune.models.bundle import BundleDescription, load_model, save_description, save_model
from wastetune.models.saliency import open_saliency_model, split_at_pooling
from wastetune.training.assembly import Branch, assemble_model

RNG = np.random.default_rng(0)


def whole_model(backbone, cut):
    """As a trial leaves it: trunk, then tail and head, whose answers differ although the weights are random."""
    _, tail = split(backbone, cut)
    keras.utils.set_random_seed(0)
    layers, large = keras.layers, keras.initializers.RandomNormal(stddev=3.0, seed=0)
    inputs = keras.Input(tail.input_shape[1:])
    vector = layers.UnitNormalization()(layers.Rescaling(1e9)(tail(inputs)))  # there may be next to nothing left
    vector = layers.Dense(5, activation="relu", kernel_initializer=large)(vector)
    vector = layers.Dropout(0.5)(layers.BatchNormalization()(vector))
    return assemble_model(backbone, [Branch(cut, keras.Model(inputs, layers.Dense(3)(vector)))])


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("mobilenet_v3_small_minimalistic", 1.0),
        ("mobilenet_v3_small", 0.6),
        ("convnext_tiny", 1.0),
    ],
)
def test_features_and_head_are_together_the_model(name, depth, tmp_path):
    backbone = load_backbone(name, "none", size=64)
    made = whole_model(backbone, nearest_cut(backbone, depth))
    save_model(tmp_path, made)
    (part,), scale = split_at_pooling(load_model(tmp_path))
    pixels = RNG.integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    features = part.features_of(pixels)
    assert len(features.shape) == 4
    (logits,) = part.logits_of(np.mean(features, axis=(1, 2)))
    said = keras.ops.softmax(logits * scale)
    wanted = keras.ops.convert_to_numpy(made(pixels))
    assert np.ptp(wanted, axis=1).min() > 0.01  # not the same for every class, whatever comes
    np.testing.assert_allclose(said, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def colours(finished):
    return open_saliency_model(finished / "results" / "colours" / "bundle")


def on_grey(*squares):
    """A grey picture with squares of 16 pixels: (row, column, colour)."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    for row, column, colour in squares:
        pixels[row : row + 16, column : column + 16] = colour
    return pixels


RED, GREEN = (220, 40, 40), (40, 150, 40)


def test_the_heat_lies_where_the_answer_comes_from_and_nowhere_else(colours):
    look = colours.explain(on_grey((8, 32, RED)))
    assert colours.classes[look.probabilities.argmax()] == "leaf"
    wanted = np.zeros((8, 8))
    wanted[1:3, 4:6] = 1  # a place is 8 pixels
    np.testing.assert_allclose(look.heatmap, wanted, atol=1e-3)


def test_what_speaks_for_another_class_stays_cold(colours):
    look = colours.explain(on_grey((0, 0, RED), (0, 48, RED), (48, 0, GREEN)))
    assert colours.classes[look.probabilities.argmax()] == "leaf"
    assert look.heatmap[:2, :2].min() > 0.9
    assert look.heatmap[:2, 6:].min() > 0.9
    assert look.heatmap[6:, :2].max() < 1e-3


def test_a_model_that_is_sure_still_tells_where_it_looked(colours):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = (255, 0, 0)
    look = colours.explain(pixels)
    assert look.probabilities.max() == 1.0  # a gradient of this is nothing
    assert look.heatmap[:, 4:].min() > 0.9
    assert look.heatmap[:, :4].max() < 1e-3


def test_it_answers_as_the_model_does_and_its_vectors_are_those_of_one_at_a_time(colours, finished):
    pixels = RNG.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    model = load_model(finished / "results" / "colours" / "bundle")
    wanted = np.asarray(model.predict_on_batch(pixels.astype(np.float32)))
    looks = [colours.explain(each) for each in pixels]
    np.testing.assert_allclose([look.probabilities for look in looks], wanted, atol=1e-6)
    np.testing.assert_allclose(colours.embed(pixels), [look.embedding for look in looks], atol=1e-6)


def test_on_two_things_it_looks_at_the_one_it_names(real_weights, tmp_path):
    """A head on MobileNetV3's own features, taught on pictures of one thing, asked about pictures of two."""
    drawn = write_sample(tmp_path / "drawn", classes=("bottle", "leaf"), per_class=25, odd_files=False)
    things = [[read_picture(path) for path in sorted((drawn / name).iterdir())] for name in ("bottle", "leaf")]
    backbone = load_backbone("mobilenet_v3_small_075", folder=real_weights)
    inputs = keras.Input(backbone.body.output.shape[1:])
    head = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    bundle = tmp_path / "bundle"
    save_model(bundle, assemble_model(backbone, [Branch(TOP, head)]))
    save_description(bundle, BundleDescription(classes=("bottle", "leaf"), input_size=224))
    pixels = np.stack([resize_picture(each, 224) for kind in things for each in kind[:20]])
    vectors = open_saliency_model(bundle).embed(pixels)
    middle, wanted = vectors.mean(axis=0), np.repeat([[5, -5], [-5, 5]], 20, axis=0)
    weights = np.linalg.solve((vectors - middle).T @ (vectors - middle) + np.eye(432), (vectors - middle).T @ wanted)
    head.layers[-1].set_weights([weights, -middle @ weights])
    save_model(bundle, assemble_model(backbone, [Branch(TOP, head)]))
    onlooker = open_saliency_model(bundle)
    for bottle, leaf in zip(things[0][20:], things[1][20:], strict=True):
        for left, right, named in ((bottle, leaf, 0), (leaf, bottle, 1)):
            both = Image.new("RGB", (256, 128))
            both.paste(left, (0, 0))
            both.paste(right, (128, 0))
            look = onlooker.explain(resize_picture(both, 224))
            on_left = look.heatmap[:, :3].sum() / (look.heatmap[:, :3].sum() + look.heatmap[:, 4:].sum())
            assert (on_left > 0.5) == (look.probabilities.argmax() == named)


def test_parts_of_the_same_name_at_different_depths_are_told_apart(tmp_path):
    pixels, shown, whole = (keras.Input((16, 16, 3)) for _ in range(3))
    body = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(keras.layers.AveragePooling2D(4)(pixels)))
    head = keras.Model(shown, keras.layers.Dense(4, name="same")(body(shown)))
    made = keras.Model(whole, keras.layers.Softmax()(keras.layers.Dense(2, name="same")(head(whole))))
    save_model(tmp_path, made)
    save_description(tmp_path, BundleDescription(classes=("a", "b"), input_size=16))
    shown = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    look = open_saliency_model(tmp_path).explain(shown)
    np.testing.assert_allclose(look.probabilities, made.predict_on_batch(shown[None].astype(np.float32))[0], atol=1e-6)
    assert look.heatmap.shape == (4, 4)


def test_no_bundle_is_told(tmp_path):
    with pytest.raises(UserError, match="is no bundle"):
        open_saliency_model(tmp_path)
