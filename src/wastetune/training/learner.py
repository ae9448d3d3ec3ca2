"""A model to train: a NumPy MLP if only wastetune's head is trained, else a compiled Keras model of tail and head."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from wastetune.backbones.backbone import Backbone, activation_shape, build_tail, gains_from_xla
from wastetune.backbones.cuts import TOP, Cut
from wastetune.training.config import TrialConfig
from wastetune.training.head import BuildHead, build_head
from wastetune.training.lr_schedule import rate_at
from wastetune.training.numpy_mlp import NumpyMLP

FloatArray = npt.NDArray[np.float32]


class Learner(Protocol):
    """A model from activations at a cut to logits (n, classes): a compiled Keras model or a NumpyMLP."""

    def train_on_batch(self, inputs: FloatArray, targets: FloatArray, sample_weight: FloatArray) -> Any:
        """One optimizer step. Returns the loss."""

    def predict_on_batch(self, inputs: FloatArray) -> Any:
        """Logits (n, classes)."""


@contextmanager
def open_learner(
    backbone: Backbone,
    cut: Cut,
    config: TrialConfig,
    classes: int,
    *,
    horizon: int,
    seed: int,
    build: BuildHead = build_head,
) -> Iterator[Learner]:
    """Tail and head, ready to be trained for `horizon` steps; a NumpyMLP for a head of wastetune's alone.

    The seed determines the head's initial weights and the dropout. `build` is what makes a head of the user's own.
    """
    if is_head_alone(cut, config):
        (features,) = activation_shape(backbone, cut)
        with open_head(features, config, classes, horizon=horizon, seed=seed) as head:
            yield head
        return
    import keras

    xla = gains_from_xla(backbone, cut)
    # XLA would run the halves one after the other.
    halves = keras.backend.backend() == "tensorflow" and not xla
    with open_keras_model(backbone, cut, config, classes, seed, build, halves=halves) as model:
        compile_model(model, config, horizon=horizon, xla=xla)
        yield model


def is_head_alone(cut: Cut, config: TrialConfig) -> bool:
    """Whether a head of wastetune's is all that is trained: NumPy does that, and Keras everything else."""
    return cut == TOP and config.head is None


@contextmanager
def open_head(features: int, config: TrialConfig, classes: int, *, horizon: int, seed: int) -> Iterator[NumpyMLP]:
    """A head alone, for pooled vectors (n, features), ready to be trained for `horizon` steps."""
    # One thread: matrices this small gain little from more, and on a busy machine, where threads wait for each
    # other, training takes ten times as long.
    with _thread_pools().limit(limits=1, user_api="blas"):
        yield NumpyMLP(features, config, classes, horizon=horizon, seed=seed)


@cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of the loaded libraries. Finding them takes longer than limiting them."""
    return ThreadpoolController()


@contextmanager
def open_keras_model(
    backbone: Backbone,
    cut: Cut,
    config: TrialConfig,
    classes: int,
    seed: int,
    build: BuildHead = build_head,
    *,
    halves: bool = False,
) -> Iterator[Any]:
    """Tail and head as one Keras model from activations at the cut to logits (n, classes).

    With `halves` its tail takes each batch in two halves, side by side. It is trained in the configuration's precision.

    The tail's layers belong to the backbone, so their weights are restored at the end.
    """
    import keras

    keras.utils.set_random_seed(seed)
    tail = build_tail(backbone, cut)
    before = tail.get_weights()
    inputs = keras.Input(tail.inputs[0].shape[1:], name="activations")
    features = tail(inputs)
    logits = build(features, config, classes)
    plain = cut == TOP or (not halves and config.precision == "float32")
    try:
        yield keras.Model(inputs, logits) if plain else _fast_to_train(tail, inputs, features, logits, config, halves)
    finally:
        tail.set_weights(before)


@contextmanager
def as_keras(learner: Learner, backbone: Backbone, cut: Cut, config: TrialConfig, classes: int) -> Iterator[Any]:
    """The trained learner as a Keras model, which has its weights inside the `with` block only."""
    if not isinstance(learner, NumpyMLP):
        yield learner
        return
    with open_keras_model(backbone, cut, config, classes, seed=0) as model:
        model.set_weights(learner.weights())
        yield model


def _fast_to_train(tail: Any, inputs: Any, features: Any, logits: Any, config: TrialConfig, halves: bool) -> Any:
    """The Keras model from inputs of the tail to logits, trained in the configuration's precision, perhaps in halves.

    In halves the tail takes each batch as two, side by side. The result is that of the whole batch, since batch norm
    is frozen. Half a batch stays in the processor's caches, and much of a tail is operations that one core does as
    fast as two (images/s in docs/log.md).

    Weights are float32 whatever the precision, and so are all predictions: a trial is scored as what is saved of it.
    """
    import keras

    head = keras.Model(features, logits)
    apply = _join_halves if halves else _as_it_is

    class FastToTrain(keras.Model):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if not training:
                return super().call(inputs, training=training, mask=mask)
            with _computing_in(config.precision, tail):
                features = apply(lambda part: tail(part, training=True), inputs)
            return head(features, training=True)

        def predict_step(self, data: Any) -> Any:
            inputs, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            return apply(super().predict_step, inputs)

    return FastToTrain(inputs, logits)


@contextmanager
def _computing_in(precision: str, model: Any) -> Iterator[None]:
    """What Keras traces meanwhile of the model computes in this precision; its weights stay float32."""
    if precision == "float32":
        yield
        return
    layers = list(model._flatten_layers())  # also those inside of layers
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = f"mixed_{precision}"
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def _as_it_is(compute: Callable[[Any], Any], inputs: Any) -> Any:
    return compute(inputs)


def _join_halves(compute: Callable[[Any], Any], inputs: Any) -> Any:
    import keras

    middle = (keras.ops.shape(inputs)[0] + 1) // 2
    return keras.ops.concatenate([compute(inputs[:middle]), compute(inputs[middle:])])


def count_parameters(learner: Any) -> int:
    """The number of trainable parameters."""
    if isinstance(learner, NumpyMLP):
        return learner.parameters
    return sum(math.prod(weights.shape) for weights in learner.trainable_weights)


def get_weights(model: Any) -> FloatArray:
    """The weights of a Keras model, one after the other."""
    return np.concatenate([np.ravel(each) for each in model.get_weights()])


def set_weights(model: Any, weights: FloatArray) -> None:
    """Gives a Keras model these weights, as `get_weights` gave them."""
    shapes = [each.shape for each in model.get_weights()]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(weights, ends[:-1])
    model.set_weights([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])


def compile_model(model: Any, config: TrialConfig, *, horizon: int, xla: bool) -> None:
    """Compiles a model with the configuration's optimizer, its learning rate over `horizon` steps, and the loss."""
    import keras

    # A table, because Keras asks for the rate once for each weight, and would build the schedule's graph each time.
    rates = np.array([rate_at(step, config.learning_rate, horizon) for step in range(horizon + 2)], np.float32)

    def rate() -> Any:  # stays at the last one, which is 0, after the horizon
        return keras.ops.take(rates, keras.ops.minimum(optimizer.iterations, len(rates) - 1))

    optimizers = {
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=config.weight_decay),
        "adam": lambda: keras.optimizers.Adam(rate),
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    }
    optimizer = optimizers[config.optimizer]()
    # Built before the first step, which TensorFlow would otherwise trace twice, as it creates variables.
    optimizer.build(model.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)
    # TensorFlow trains well without XLA; for the other backends Keras decides.
    jit = xla if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit)
