"""The learning rate over a fit: up in a short warm-up, then down along half a cosine to nothing."""

import math

_WARMUP = 0.05  # of all steps: a fresh head's first gradients would spoil a trained tail
_START = 0.01  # of the learning rate, at the first step


def warmup_steps(horizon: int) -> int:
    """How many of a fit's steps the warm-up takes; at least one."""
    return max(1, round(horizon * _WARMUP))


def first_rate(learning_rate: float) -> float:
    """The learning rate of the first step."""
    return learning_rate * _START


def rate_at(step: int, learning_rate: float, horizon: int) -> float:
    """The learning rate of a step, counted from 0, in a fit of `horizon` steps: that of Keras's `CosineDecay`."""
    warmup = warmup_steps(horizon)
    if step < warmup:
        start = first_rate(learning_rate)
        return start + (learning_rate - start) * step / warmup
    decay = max(1, horizon - warmup)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(step - warmup, decay) / decay))
