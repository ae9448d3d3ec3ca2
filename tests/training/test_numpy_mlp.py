"""The head in NumPy against the same head in Keras: the same weights after the same steps."""

import keras
import numpy as np
import pytest

from wastetune.training.config import TrialConfig
from wastetune.training.head import build_head
from wastetune.training.learner import compile_model
from wastetune.training.lr_schedule import rate_at
from wastetune.training.numpy_mlp import NumpyMLP

FEATURES, CLASSES, BATCH, STEPS = 24, 5, 16, 30


def config(**changes):
    given = {
        "head_layers": 1,
        "head_units": 12,
        "dropout": 0.0,
        "learning_rate": 0.01,
        "batch_size": BATCH,
        "epochs": 1,
    }
    return TrialConfig(**{**given, **changes})


def both(config):
    """A Keras head and a perceptron with the same weights."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, build_head(inputs, config, CLASSES))
    compile_model(model, config, horizon=STEPS, xla=False)
    perceptron = NumpyMLP(FEATURES, config, CLASSES, horizon=STEPS, seed=0)
    perceptron.set_weights(model.get_weights())
    return model, perceptron


def batches():
    draw = np.random.default_rng(4)
    for _ in range(STEPS):
        inputs = draw.normal(0.5, 2, (BATCH, FEATURES)).astype(np.float32)
        targets = np.eye(CLASSES, dtype=np.float32)[draw.integers(0, CLASSES, BATCH)]
        yield inputs, targets, draw.uniform(0.5, 2, BATCH).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_layers": 0, "head_units": None},
        {"head_layers": 0, "head_units": None, "head_norm": False},
        {"weight_decay": 0.1},
        {"head_layers": 3, "optimizer": "adam", "label_smoothing": 0.2},
        {"head_layers": 2, "optimizer": "sgd", "label_smoothing": 0.1, "head_norm": False},
    ],
    ids=str,
)
def test_training_takes_the_steps_that_keras_takes(changes):
    model, perceptron = both(config(**changes))
    for inputs, targets, weights in batches():
        theirs = float(model.train_on_batch(inputs, targets, sample_weight=weights))
        assert perceptron.train_on_batch(inputs, targets, weights) == pytest.approx(theirs, rel=1e-4)
    for mine, theirs in zip(perceptron.weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-4)
    inputs = next(batches())[0]
    np.testing.assert_allclose(perceptron.predict_on_batch(inputs), model.predict_on_batch(inputs), atol=2e-3)


def test_it_begins_where_keras_begins():
    wide = config(head_layers=2, head_units=400)
    model, _ = both(wide)
    fresh = NumpyMLP(FEATURES, wide, CLASSES, horizon=STEPS, seed=1)
    assert fresh.parameters == sum(w.numpy().size for w in model.trainable_weights)
    for mine, theirs in zip(fresh.weights(), model.get_weights(), strict=True):
        assert (mine.shape, mine.mean()) == (theirs.shape, pytest.approx(theirs.mean(), abs=0.02))
        assert mine.std() == pytest.approx(theirs.std(), rel=0.05)
        assert abs(mine).max() == pytest.approx(abs(theirs).max(), rel=0.05)


def test_dropout_keeps_the_mean_and_is_off_in_prediction():
    draws = [NumpyMLP(FEATURES, config(dropout=0.5), CLASSES, horizon=STEPS, seed=seed) for seed in (0, 0, 1)]
    ones = np.ones((2000, FEATURES), np.float32)
    dropped, mask = draws[0]._drop(ones)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    assert np.array_equal(mask, dropped)
    losses = []
    for perceptron in draws:
        first = next(batches())
        assert np.array_equal(perceptron.predict_on_batch(first[0]), perceptron.predict_on_batch(first[0]))
        losses.append([perceptron.train_on_batch(*batch) for batch in batches()])
    assert losses[1] != losses[2]


def test_one_seed_gives_one_head():
    def trained(seed):
        perceptron = NumpyMLP(FEATURES, config(dropout=0.3), CLASSES, horizon=STEPS, seed=seed)
        return [perceptron.train_on_batch(*batch) for batch in batches()]

    assert trained(7) == trained(7) != trained(8)


@pytest.mark.parametrize("horizon", [1, 2, 7, 400])
def test_the_learning_rate_is_that_of_keras(horizon):
    model, _ = both(config())
    compile_model(model, config(), horizon=horizon, xla=False)
    warmup = max(1, round(horizon / 20))
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, decay_steps=max(1, horizon - warmup), warmup_target=0.01, warmup_steps=warmup
    )
    for step in range(horizon + 2):
        assert rate_at(step, 0.01, horizon) == pytest.approx(float(schedule(step)), abs=1e-8)
        model.optimizer.iterations.assign(step)
        assert float(model.optimizer.learning_rate) == pytest.approx(float(schedule(step)), abs=1e-8)
