"""The head in NumPy, trained on pooled vectors: the arithmetic of Keras without its cost per step and per model.

A trial whose whole backbone is frozen trains only the head. Tracing a Keras model takes 0.4 s, as long as 18 epochs of
this one, and every Keras model leaks memory (`docs/log.md`). So this module repeats the layers of `head.build_head` and
the loss and optimizers of `learner.compile_model`; a test trains both side by side and compares the weights.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wastetune.training.config import TrialConfig
from wastetune.training.head import NORM_EPSILON, NORM_MOMENTUM
from wastetune.training.lr_schedule import rate_at

FloatArray = npt.NDArray[np.float32]

# Weights updated at a time: an optimizer makes a dozen passes over them, so they should fit in the processor's cache.
_BLOCK = 16384
_BETA_1, _BETA_2, _EPSILON, _MOMENTUM = 0.9, 0.999, 1e-7, 0.9  # Keras's
_TRUNCATED = 0.87962566103423978  # the standard deviation of a normal distribution cut off at 2


class NumpyMLP:
    """Normalization if configured, `head_layers` times dropout and a dense layer with ReLU, dropout, a dense layer.

    It has the two methods of a Keras model that training needs: `train_on_batch` and `predict_on_batch`.
    """

    def __init__(self, features: int, config: TrialConfig, classes: int, *, horizon: int, seed: int) -> None:
        self.config = config
        self._horizon = horizon
        self._rng = np.random.default_rng(seed)
        self._step = 0
        widths = [features, *[int(config.head_units or 0)] * config.head_layers, classes]
        shapes: list[tuple[int, ...]] = []
        for below, above in itertools.pairwise(widths):
            shapes += [(below, above), (above,)]
        self._weights = _Flat.of(shapes)
        self._gradients = _Flat.of(shapes)
        self._first, self._second = np.zeros_like(self._weights.flat), np.zeros_like(self._weights.flat)  # moments
        self._moving = (np.zeros(features, np.float32), np.ones(features, np.float32))
        self._initialize()

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return self._weights.flat.size

    def weights(self) -> list[FloatArray]:
        """The weights in the order of `get_weights` of the Keras head."""
        return [*(self._moving if self.config.head_norm else ()), *self._weights.arrays]

    def set_weights(self, weights: list[FloatArray]) -> None:
        """Sets the weights, in the same order."""
        for mine, theirs in zip(self.weights(), weights, strict=True):
            mine[...] = theirs

    def predict_on_batch(self, inputs: FloatArray) -> FloatArray:
        """Logits (n, classes) of pooled vectors (n, features)."""
        x = inputs
        if self.config.head_norm:
            mean, variance = self._moving
            x = (x - mean) / np.sqrt(variance + np.float32(NORM_EPSILON))
        *hidden, last = self._dense()
        for kernel, bias in hidden:
            x = np.maximum(x @ kernel + bias, 0)
        return np.asarray(x @ last[0] + last[1], np.float32)

    def train_on_batch(self, inputs: FloatArray, targets: FloatArray, sample_weight: FloatArray) -> float:
        """One optimizer step on inputs (n, features) and one-hot targets (n, classes). Returns the loss before it."""
        x = self._normalize(inputs) if self.config.head_norm else inputs
        *hidden, last = self._dense()
        layers: list[_LayerPass] = []
        for kernel, bias in hidden:
            x, mask = self._drop(x)
            z = x @ kernel
            z += bias
            np.maximum(z, 0, out=z)
            layers.append(_LayerPass(x, mask, z))
            x = z
        x, mask = self._drop(x)
        logits = x @ last[0]
        logits += last[1]
        layers.append(_LayerPass(x, mask, logits))
        loss, gradient = self._loss(logits, targets, sample_weight)
        self._backward(layers, gradient)
        self._update()
        return loss

    def _initialize(self) -> None:
        """Initializes as Keras does: He normal for hidden layers, Glorot uniform for the logits."""
        *hidden, (kernel, _) = self._dense()
        for weights, _ in hidden:
            weights[...] = _truncated_normal(self._rng, weights.shape) * math.sqrt(2 / weights.shape[0]) / _TRUNCATED
        limit = math.sqrt(6 / sum(kernel.shape))
        kernel[...] = self._rng.uniform(-limit, limit, kernel.shape)

    def _dense(self, gradients: bool = False) -> list[tuple[FloatArray, FloatArray]]:
        """Kernel and bias of each dense layer, or the arrays of their gradients."""
        arrays = (self._gradients if gradients else self._weights).arrays
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def _normalize(self, inputs: FloatArray) -> FloatArray:
        mean = inputs.mean(axis=0)
        centred: FloatArray = inputs - mean
        variance = np.einsum("nf,nf->f", centred, centred) / np.float32(len(inputs))
        for moving, now in zip(self._moving, (mean, variance), strict=True):
            moving += (now - moving) * np.float32(1 - NORM_MOMENTUM)
        centred /= np.sqrt(variance + np.float32(NORM_EPSILON))
        return centred

    def _drop(self, x: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        rate = np.float32(self.config.dropout)
        if rate == 0:
            return x, None
        mask = (self._rng.random(x.shape, np.float32) >= rate).astype(np.float32)
        mask *= 1 / (1 - rate)
        return x * mask, mask

    def _loss(self, logits: FloatArray, targets: FloatArray, sample_weight: FloatArray) -> tuple[float, FloatArray]:
        """The mean weighted cross-entropy with smoothed labels, and its gradient with respect to the logits."""
        smoothing = np.float32(self.config.label_smoothing)
        smoothed = targets * (1 - smoothing) + smoothing / targets.shape[1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponent = np.exp(shifted)
        total = exponent.sum(axis=1, keepdims=True)
        each = (smoothed * (np.log(total) - shifted)).sum(axis=1)
        share = (sample_weight / np.float32(len(logits)))[:, None]
        return float((each[:, None] * share).sum()), (exponent / total - smoothed) * share

    def _backward(self, layers: "list[_LayerPass]", gradient: FloatArray) -> None:
        """Backpropagates the gradient with respect to the logits."""
        steps = list(zip(self._dense(), self._dense(gradients=True), layers, strict=True))
        for number, ((kernel, _), (kernel_gradient, bias_gradient), layer) in reversed(list(enumerate(steps))):
            if number < len(steps) - 1:
                gradient *= layer.output > 0
            np.matmul(layer.inputs.T, gradient, out=kernel_gradient)
            np.sum(gradient, axis=0, out=bias_gradient)
            if number:
                gradient = gradient @ kernel.T
                if layer.mask is not None:
                    gradient *= layer.mask

    def _update(self) -> None:
        rate = rate_at(self._step, self.config.learning_rate, self._horizon)
        self._step += 1
        step = _sgd_step if self.config.optimizer == "sgd" else _adam_step
        decay = rate * self.config.weight_decay if self.config.optimizer == "adamw" else 0.0
        corrected = rate * math.sqrt(1 - _BETA_2**self._step) / (1 - _BETA_1**self._step)
        for start in range(0, self._weights.flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            weights, gradients = self._weights.flat[block], self._gradients.flat[block]
            if decay:
                weights *= np.float32(1 - decay)
            step(
                weights,
                gradients,
                self._first[block],
                self._second[block],
                np.float32(rate if step is _sgd_step else corrected),
            )


def _adam_step(
    weights: FloatArray, gradients: FloatArray, first: FloatArray, second: FloatArray, rate: np.float32
) -> None:
    """Adam, in the form of the last remark of section 2 in Kingma and Ba 2015. Overwrites the gradients."""
    first *= np.float32(_BETA_1)
    first += gradients * np.float32(1 - _BETA_1)
    second *= np.float32(_BETA_2)
    np.square(gradients, out=gradients)
    gradients *= np.float32(1 - _BETA_2)
    second += gradients
    np.sqrt(second, out=gradients)
    gradients += np.float32(_EPSILON)
    np.divide(first, gradients, out=gradients)
    gradients *= rate
    weights -= gradients


def _sgd_step(
    weights: FloatArray, gradients: FloatArray, first: FloatArray, second: FloatArray, rate: np.float32
) -> None:
    """SGD with Nesterov momentum in the form of Keras. Overwrites the gradients."""
    gradients *= rate
    first *= np.float32(_MOMENTUM)
    first -= gradients
    weights += first * np.float32(_MOMENTUM)
    weights -= gradients


@dataclass(frozen=True)
class _LayerPass:
    """What the backward pass needs of a layer: its inputs, their dropout mask, its output."""

    inputs: FloatArray
    mask: FloatArray | None
    output: FloatArray


@dataclass(frozen=True)
class _Flat:
    """Arrays that follow each other in one block of memory."""

    flat: FloatArray
    arrays: tuple[FloatArray, ...]

    @classmethod
    def of(cls, shapes: list[tuple[int, ...]]) -> "_Flat":
        sizes = [math.prod(shape) for shape in shapes]
        flat = np.zeros(sum(sizes), np.float32)
        ends = np.cumsum(sizes)
        return cls(flat, tuple(flat[e - s : e].reshape(shape) for s, e, shape in zip(sizes, ends, shapes, strict=True)))


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return values
