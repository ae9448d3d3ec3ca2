"""The head alone, trained on pooled vectors in NumPy: Keras's arithmetic without Keras's cost per step and model.

Where the whole trunk is frozen, a trial trains nothing but this. Tracing a Keras model would take half as long again
as training it, and every model leaves memory behind (`docs/log.md` has the figures). So the layers of
`head.build_head`, the loss and the optimisers of `training.compile_model` stand here a second time; a test trains
both side by side and compares the weights.
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

# Parameters updated at a time: an optimiser makes a dozen passes over them, which should stay in the cache.
_BLOCK = 16384
_BETA_1, _BETA_2, _EPSILON, _MOMENTUM = 0.9, 0.999, 1e-7, 0.9  # Keras's
_TRUNCATED = 0.87962566103423978  # the standard deviation of a normal distribution cut off at 2


class Perceptron:
    """Normalisation where asked for, `head_layers` times dropout and a dense layer with ReLU, dropout, a dense layer.

    Has of a Keras model what training asks for: `train_on_batch` and `predict_on_batch`.
    """

    def __init__(self, features: int, config: TrialConfig, classes: int, *, horizon: int, seed: int) -> None:
        self.config = config
        self._horizon = horizon
        self._draw = np.random.default_rng(seed)
        self._step = 0
        widths = [features, *[int(config.head_units or 0)] * config.head_layers, classes]
        shapes: list[tuple[int, ...]] = []
        for below, above in itertools.pairwise(widths):
            shapes += [(below, above), (above,)]
        self._all = _Flat.of(shapes)
        self._slopes = _Flat.of(shapes)
        self._first, self._second = np.zeros_like(self._all.flat), np.zeros_like(self._all.flat)
        self._moving = (np.zeros(features, np.float32), np.ones(features, np.float32))
        self._begin()

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return self._all.flat.size

    def weights(self) -> list[FloatArray]:
        """The weights in the order of `get_weights` of the Keras head."""
        return [*(self._moving if self.config.head_norm else ()), *self._all.arrays]

    def set_weights(self, weights: list[FloatArray]) -> None:
        """Takes over the weights of the Keras head, as its `get_weights` gives them."""
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
        """One step on inputs (n, features) and one-hot targets (n, classes); gives the loss before it."""
        x = self._normalise(inputs) if self.config.head_norm else inputs
        *hidden, last = self._dense()
        seen: list[tuple[FloatArray, FloatArray | None, FloatArray]] = []  # what each layer saw, its mask, what it gave
        for kernel, bias in hidden:
            x, mask = self._drop(x)
            z = x @ kernel
            z += bias
            np.maximum(z, 0, out=z)
            seen.append((x, mask, z))
            x = z
        x, mask = self._drop(x)
        logits = x @ last[0]
        logits += last[1]
        seen.append((x, mask, logits))
        loss, slope = self._loss(logits, targets, sample_weight)
        self._backward(seen, slope)
        self._update()
        return loss

    def _begin(self) -> None:
        """He's normal distribution for hidden layers, Glorot's uniform one for the logits, as Keras draws them."""
        *hidden, (kernel, _) = self._dense()
        for weights, _ in hidden:
            weights[...] = _truncated_normal(self._draw, weights.shape) * math.sqrt(2 / weights.shape[0]) / _TRUNCATED
        limit = math.sqrt(6 / sum(kernel.shape))
        kernel[...] = self._draw.uniform(-limit, limit, kernel.shape)

    def _dense(self, slopes: bool = False) -> list[tuple[FloatArray, FloatArray]]:
        """Kernel and bias of each dense layer, or where their gradients go."""
        arrays = (self._slopes if slopes else self._all).arrays
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def _normalise(self, inputs: FloatArray) -> FloatArray:
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
        mask = (self._draw.random(x.shape, np.float32) >= rate).astype(np.float32)
        mask *= 1 / (1 - rate)
        return x * mask, mask

    def _loss(self, logits: FloatArray, targets: FloatArray, importance: FloatArray) -> tuple[float, FloatArray]:
        """The mean weighted cross-entropy with smoothed labels, and its gradient by the logits."""
        smoothing = np.float32(self.config.label_smoothing)
        wanted = targets * (1 - smoothing) + smoothing / targets.shape[1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponent = np.exp(shifted)
        total = exponent.sum(axis=1, keepdims=True)
        each = (wanted * (np.log(total) - shifted)).sum(axis=1)
        share = (importance / np.float32(len(logits)))[:, None]
        return float((each[:, None] * share).sum()), (exponent / total - wanted) * share

    def _backward(self, seen: list[tuple[FloatArray, FloatArray | None, FloatArray]], slope: FloatArray) -> None:
        layers = list(zip(self._dense(), self._dense(slopes=True), seen, strict=True))
        for number, ((kernel, _), (kernel_slope, bias_slope), (x, mask, gave)) in reversed(list(enumerate(layers))):
            if number < len(layers) - 1:
                slope *= gave > 0
            np.matmul(x.T, slope, out=kernel_slope)
            np.sum(slope, axis=0, out=bias_slope)
            if number:
                slope = slope @ kernel.T
                if mask is not None:
                    slope *= mask

    def _update(self) -> None:
        rate = rate_at(self._step, self.config.learning_rate, self._horizon)
        self._step += 1
        step = _sgd_step if self.config.optimizer == "sgd" else _adam_step
        decay = rate * self.config.weight_decay if self.config.optimizer == "adamw" else 0.0
        corrected = rate * math.sqrt(1 - _BETA_2**self._step) / (1 - _BETA_1**self._step)
        for start in range(0, self._all.flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            weights, slopes = self._all.flat[block], self._slopes.flat[block]
            if decay:
                weights *= np.float32(1 - decay)
            step(
                weights,
                slopes,
                self._first[block],
                self._second[block],
                np.float32(rate if step is _sgd_step else corrected),
            )


def _adam_step(
    weights: FloatArray, slopes: FloatArray, first: FloatArray, second: FloatArray, rate: np.float32
) -> None:
    """Kingma and Ba 2015, section 2, last remark; overwrites the slopes."""
    first *= np.float32(_BETA_1)
    first += slopes * np.float32(1 - _BETA_1)
    second *= np.float32(_BETA_2)
    np.square(slopes, out=slopes)
    slopes *= np.float32(1 - _BETA_2)
    second += slopes
    np.sqrt(second, out=slopes)
    slopes += np.float32(_EPSILON)
    np.divide(first, slopes, out=slopes)
    slopes *= rate
    weights -= slopes


def _sgd_step(weights: FloatArray, slopes: FloatArray, first: FloatArray, second: FloatArray, rate: np.float32) -> None:
    """Nesterov's momentum as Keras writes it; overwrites the slopes."""
    slopes *= rate
    first *= np.float32(_MOMENTUM)
    first -= slopes
    weights += first * np.float32(_MOMENTUM)
    weights -= slopes


@dataclass(frozen=True)
class _Flat:
    """Arrays that lie one behind the other in one piece of memory."""

    flat: FloatArray
    arrays: tuple[FloatArray, ...]

    @classmethod
    def of(cls, shapes: list[tuple[int, ...]]) -> "_Flat":
        sizes = [math.prod(shape) for shape in shapes]
        flat = np.zeros(sum(sizes), np.float32)
        ends = np.cumsum(sizes)
        return cls(flat, tuple(flat[e - s : e].reshape(shape) for s, e, shape in zip(sizes, ends, shapes, strict=True)))


def _truncated_normal(draw: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    values = draw.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = draw.standard_normal(int(outside.sum()), np.float32)
    return values
