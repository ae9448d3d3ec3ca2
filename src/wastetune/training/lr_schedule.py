"""The learning rate over a fit: a short linear warm-up, then cosine decay to 0."""

import math

_WARMUP = 0.05  # of all steps: the first gradients of a new head would damage a pretrained tail
_START = 0.01  # of the learning rate, at the first step


def rate_at(step: int, learning_rate: float, horizon: int) -> float:
    """The learning rate of a step, counted from 0, in a fit of `horizon` steps: equal to Keras's `CosineDecay`."""
    warmup = max(1, round(horizon * _WARMUP))
    if step < warmup:
        start = learning_rate * _START
        return start + (learning_rate - start) * step / warmup
    decay = max(1, horizon - warmup)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(step - warmup, decay) / decay))
