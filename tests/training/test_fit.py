"""Fitting tail and head on stored activations."""

import keras
import numpy as np
import pytest

from support.activations import separable_set
from wastetune.backbones.activation_store import Activations
from wastetune.backbones.backbone import activation_shape, load_backbone, nearest_cut
from wastetune.backbones.cuts import TOP
from wastetune.backbones.live_views import LiveViews, pixel_activations
from wastetune.data.pixels import PictureSet
from wastetune.training.config import TrialConfig
from wastetune.training.fit import (
    TrainingFailed,
    TrainingSet,
    ValidationSet,
    _gather,
    fit,
    fit_final,
    predict_probabilities,
    steps_per_epoch,
)
from wastetune.training.head_start import fit_head_first
from wastetune.training.learner import as_keras, compile_model, count_parameters, open_keras_model, open_learner

CLASSES = 3


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("mobilenet_v3_small_minimalistic", "none", size=32)


def config(**changes):
    given = {"head_layers": 0, "dropout": 0.0, "learning_rate": 0.02, "batch_size": 16, "epochs": 8, "patience": 8}
    return TrialConfig(**{**given, **changes})


def vectors(count, seed, size):
    """Three overlapping clouds, and which one each vector is from."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    centres = np.random.default_rng(0).normal(0, 1, (CLASSES, size)) * 0.4
    return (centres[labels] + draw.normal(0, 1, (count, size))).astype(np.float32), labels


@pytest.fixture(scope="module")
def sets(backbone):
    size = backbone.body.output.shape[1]
    train, val = vectors(120, 1, size), vectors(60, 2, size)
    return TrainingSet((Activations((train[0],)),), train[1], CLASSES), ValidationSet(Activations((val[0],)), val[1])


def fitted(backbone, sets, config, seed=0, cut=TOP, **options):
    horizon = config.epochs * steps_per_epoch(len(sets[0].labels), config)
    with open_learner(backbone, cut, config, CLASSES, horizon=horizon, seed=seed) as learner:
        return fit(learner, *sets, config=config, metric="accuracy", seed=seed, **options)


def test_it_learns_and_tells_every_epoch(backbone, sets):
    told = []
    result = fitted(backbone, sets, config(), on_epoch=told.append)
    assert tuple(told) == result.history
    assert [epoch.number for epoch in told] == list(range(1, 9))
    assert result.best.score == max(epoch.score for epoch in told) > 0.8
    assert told[-1].loss < told[0].loss
    assert (result.probabilities.argmax(axis=1) == sets[1].labels).mean() == pytest.approx(result.best.score)


def test_the_same_seed_gives_the_same_fit_and_another_seed_another(backbone, sets):
    first, same, other = (fitted(backbone, sets, config(dropout=0.3), seed) for seed in (5, 5, 6))
    assert [epoch.loss for epoch in first.history] == [epoch.loss for epoch in same.history]
    assert [epoch.loss for epoch in first.history] != [epoch.loss for epoch in other.history]


def test_it_stops_early(backbone, sets):
    result = fitted(backbone, sets, config(epochs=100, patience=3))
    assert len(result.history) == result.best.number + 3 < 100


def test_a_loss_that_is_not_finite_is_a_failure_not_a_score(backbone, sets):
    broken = TrainingSet((Activations((np.full_like(sets[0].views[0].chunks[0], np.nan),)),), sets[0].labels, CLASSES)
    with pytest.raises(TrainingFailed, match="loss became nan"):
        fitted(backbone, (broken, sets[1]), config())


def test_balanced_weights_help_the_rare_class(backbone, sets):
    train, val = sets
    rows = np.concatenate([np.flatnonzero(train.labels != 0), np.flatnonzero(train.labels == 0)[:4]])
    rare = TrainingSet((Activations((train.views[0].chunks[0][rows],)),), train.labels[rows], CLASSES)
    recall = {}
    for weighting in ("none", "balanced"):
        result = fitted(backbone, (rare, val), config(class_weighting=weighting, epochs=3, learning_rate=0.003))
        recall[weighting] = (result.probabilities.argmax(axis=1) == 0)[val.labels == 0].mean()
    assert recall["balanced"] > recall["none"]


def test_every_view_is_trained_on(backbone, sets):
    """Two views of which one is noise: a fit that saw only the first would not be disturbed by it."""
    train, val = sets
    noise = Activations((np.random.default_rng(3).normal(0, 50, train.views[0].chunks[0].shape).astype(np.float32),))
    result = fitted(backbone, (TrainingSet((train.views[0], noise), train.labels, CLASSES), val), config())
    assert result.history[-1].loss > 2 * fitted(backbone, sets, config()).history[-1].loss


def test_a_tail_learns_keeps_its_statistics_and_is_put_back(backbone):
    cut = nearest_cut(backbone, 0.9)
    draw = np.random.default_rng(0)
    inputs = draw.normal(0, 1, (32, 1, 1, 96)).astype(np.float32)
    labels = draw.integers(0, CLASSES, 32)
    train = TrainingSet((Activations((inputs,)),), labels, CLASSES)
    before = backbone.body.get_weights()
    with open_learner(backbone, cut, config(), CLASSES, horizon=6, seed=0) as model:
        moving = [w for w in model.weights if "moving" in w.path and "head" not in w.path]
        kernels = [w for w in model.trainable_weights if "conv" in w.path]
        statistics, start = [w.numpy() for w in moving], [w.numpy() for w in kernels]
        fit_final(model, train, config=config(), steps=6, seed=0)
        assert moving
        assert all(np.array_equal(w.numpy(), old) for w, old in zip(moving, statistics, strict=True))
        assert kernels
        assert all(not np.array_equal(w.numpy(), old) for w, old in zip(kernels, start, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(backbone.body.get_weights(), before, strict=True))


def test_training_and_prediction_see_the_same_network(backbone):
    """The trap of Keras 3.15: a tail that trains on batch statistics learns what prediction never sees."""
    cut = nearest_cut(backbone, 0.9)
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(CLASSES), 16)
    inputs = (draw.normal(0, 1, (48, 1, 1, 96)) + 2 * np.eye(96)[labels][:, None, None]).astype(np.float32)
    with open_learner(backbone, cut, config(learning_rate=0.003), CLASSES, horizon=90, seed=0) as model:
        stored = Activations((inputs,))
        fit_final(model, TrainingSet((stored,), labels, CLASSES), config=config(learning_rate=0.003), steps=90, seed=0)
        assert (predict_probabilities(model, stored).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize("pictures", [16, 15, 2])
def test_the_two_halves_of_a_batch_train_the_same_tail_as_the_whole_batch(backbone, pictures):
    cut = nearest_cut(backbone, 0.9)
    inputs = np.random.default_rng(3).normal(0, 1, (pictures, 1, 1, 96)).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(pictures) % CLASSES]
    weights = np.linspace(0.5, 1.5, pictures, dtype=np.float32)
    chosen = config(dropout=0.3, learning_rate=0.001)
    after = []
    for whole in (False, True):
        with open_keras_model(backbone, cut, chosen, CLASSES, seed=0, halves=not whole) as learner:
            assert (type(learner) is type(keras.Model(learner.input, learner.output))) is whole
            compile_model(learner, chosen, horizon=4, xla=False)
            losses = [float(learner.train_on_batch(inputs, targets, sample_weight=weights)) for _ in range(4)]
            after.append((losses, learner.get_weights(), learner.predict_on_batch(inputs)))
    np.testing.assert_allclose(after[0][0], after[1][0], rtol=1e-4)
    assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(after[0][1], after[1][1], strict=True))
    np.testing.assert_allclose(after[0][2], after[1][2], atol=1e-3)


@pytest.mark.parametrize("halves", [True, False])
def test_a_tail_trained_in_bfloat16_is_nearly_that_of_float32_and_predicts_in_float32(backbone, halves):
    cut = nearest_cut(backbone, 0.9)
    inputs = np.random.default_rng(3).normal(0, 1, (16, 1, 1, 96)).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(16) % CLASSES]
    policies = [layer.dtype_policy.name for layer in backbone.body.layers]
    losses = []
    for precision in ("float32", "bfloat16"):
        chosen = config(learning_rate=0.001, precision=precision)
        with open_keras_model(backbone, cut, chosen, CLASSES, seed=0, halves=halves) as learner:
            compile_model(learner, chosen, horizon=4, xla=False)
            losses.append([float(learner.train_on_batch(inputs, targets)) for _ in range(4)])
            assert {weights.dtype for weights in learner.weights} == {"float32"}
            whole = keras.Model(learner.input, learner.output)  # as it is saved
            np.testing.assert_allclose(learner.predict(inputs, verbose=0), whole.predict(inputs, verbose=0), atol=1e-5)
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)
    assert losses[1] != pytest.approx(losses[0], rel=1e-5)
    assert [layer.dtype_policy.name for layer in backbone.body.layers] == policies


@pytest.mark.parametrize("depth", [0.9, 1.0])
def test_what_was_trained_becomes_a_keras_model_that_says_the_same(backbone, depth):
    cut = nearest_cut(backbone, depth)
    chosen = config(head_layers=1, head_units=6)
    shape = activation_shape(backbone, cut)
    inputs = np.random.default_rng(2).normal(0, 1, (48, *shape)).astype(np.float32)
    stored, labels = Activations((inputs,)), np.arange(48) % CLASSES
    with open_learner(backbone, cut, chosen, CLASSES, horizon=6, seed=0) as learner:
        fit_final(learner, TrainingSet((stored,), labels, CLASSES), config=chosen, steps=6, seed=0)
        with as_keras(learner, backbone, cut, chosen, CLASSES) as model:
            assert count_parameters(learner) == count_parameters(model)
            np.testing.assert_allclose(model.predict(inputs, verbose=0), learner.predict_on_batch(inputs), atol=1e-4)


def test_pictures_are_read_in_their_views_whatever_their_order():
    views = tuple(Activations((np.arange(10.0).reshape(5, 2) + 100 * view,)) for view in range(3))
    train = TrainingSet(views, np.zeros(5, np.int64), 1)
    gathered = _gather(train, np.array([4, 0, 3]), np.array([2, 0, 0, 1, 0]))
    assert gathered.tolist() == [[8, 9], [200, 201], [106, 107]]


def test_an_epoch_in_chunks_is_the_same_epoch(backbone, sets, monkeypatch):
    whole = fitted(backbone, sets, config(epochs=2))
    monkeypatch.setattr("wastetune.training.fit._CHUNK", 1)
    assert [e.loss for e in fitted(backbone, sets, config(epochs=2)).history] == [e.loss for e in whole.history]


def test_a_fitted_head_knows_the_classes_before_the_tail_is_trained(backbone):
    cut = nearest_cut(backbone, 0.9)
    train = separable_set(CLASSES)
    right = {}
    for start in ("random", "fitted"):
        chosen = config(head_start=start, learning_rate=0.003)
        with open_learner(backbone, cut, chosen, CLASSES, horizon=9, seed=0) as model:
            before = backbone.body.get_weights()
            fit_head_first(model, train, chosen, seed=0)
            right[start] = (predict_probabilities(model, train.views[0]).argmax(axis=1) == train.labels).mean()
            assert all(np.array_equal(a, b) for a, b in zip(backbone.body.get_weights(), before, strict=True))
    assert right["fitted"] > 0.8 > right["random"]


def test_live_views_are_new_in_every_epoch_and_the_same_again_with_the_same_seed():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)

    def part(rows):
        def read(at):
            return pixels[rows][list(at)]

        return PictureSet(read, tuple("abcdefg")[rows], np.zeros(len(pixels[rows])), (), decode=read)

    rows = pixel_activations(part(slice(0, 3)), 16) + pixel_activations(part(slice(3, 7)), 16)
    assert len(rows) == 7
    np.testing.assert_array_equal(rows.take(np.array([6, 0, 3])), pixels[[6, 0, 3]])
    np.testing.assert_array_equal(rows.select(np.array([5, 2])).take(np.array([1, 0])), pixels[[2, 5]])
    labels = np.arange(7) % 2

    def epochs(live, count=2):
        seen = []

        class Watcher:
            def train_on_batch(self, inputs, targets, sample_weight):
                seen.append(inputs)
                return 0.0

        train = TrainingSet((rows,), labels, 2, live and LiveViews(rows, live))
        fit_final(Watcher(), train, config=config(batch_size=7), steps=count, seed=4)
        return seen

    first, second = epochs(1.0)
    plain, _ = epochs(None)
    assert {each.tobytes() for each in plain} == {each.astype(np.float32).tobytes() for each in pixels}
    assert not {each.tobytes() for each in first} & {each.tobytes() for each in [*second, *plain]}
    np.testing.assert_array_equal(epochs(1.0)[1], second)
