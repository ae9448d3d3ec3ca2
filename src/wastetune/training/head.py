"""The classifier on top of the pooled vectors."""

from collections.abc import Callable
from typing import Any

from wastetune.training.config import TrialConfig

# With Keras's 0.99 the moving averages span several epochs of a small data set, too old for validation.
NORM_MOMENTUM = 0.9
NORM_EPSILON = 1e-3


BuildHead = Callable[[Any, TrialConfig, int], Any]  # pooled vectors (n, c), configuration, classes -> logits


def build_head(features: Any, config: TrialConfig, classes: int) -> Any:
    """Logits (n, classes) from pooled vectors (n, c).

    Normalization if configured, `head_layers` times dropout and a dense layer with ReLU, dropout, a dense layer.
    """
    import keras

    layers = keras.layers
    x = features
    if config.head_norm:
        # Without scale and shift, because the dense layer that follows has both.
        x = layers.BatchNormalization(
            momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON, scale=False, center=False, name="head_norm"
        )(x)
    for number in range(config.head_layers):
        x = layers.Dropout(config.dropout, name=f"head_dropout_{number}")(x)
        x = layers.Dense(
            config.head_units, activation="relu", kernel_initializer="he_normal", name=f"head_dense_{number}"
        )(x)
    x = layers.Dropout(config.dropout, name="head_dropout")(x)
    return layers.Dense(classes, name="logits")(x)
