"""How pixels of 0..255 are scaled before a backbone sees them, for each preprocessing that a study can name."""

from dataclasses import dataclass
from typing import Any

Triple = tuple[float, float, float]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, of pixels in 0..1


@dataclass(frozen=True)
class Scaling:
    """Pixels in 0..255 times `scale` plus `offset`, for each channel; `bgr`: with the channels in that order."""

    scale: Triple = (1.0, 1.0, 1.0)
    offset: Triple = (0.0, 0.0, 0.0)
    bgr: bool = False


def _alike(scale: float, offset: float = 0.0) -> Scaling:
    return Scaling((scale, scale, scale), (offset, offset, offset))


SCALINGS = {
    "inside": Scaling(),  # the model scales them itself
    "unit": _alike(1 / 255),
    "signed": _alike(1 / 127.5, -1.0),
    "torch": Scaling(
        (1 / 255 / _DEVIATION[0], 1 / 255 / _DEVIATION[1], 1 / 255 / _DEVIATION[2]),
        (-_MEAN[0] / _DEVIATION[0], -_MEAN[1] / _DEVIATION[1], -_MEAN[2] / _DEVIATION[2]),
    ),
    "caffe": Scaling(offset=(-103.939, -116.779, -123.68), bgr=True),
}


def build_scaling(scaling: Scaling, size: int) -> Any:
    """A Keras model from pixels (n, size, size, 3) in 0..255 to what a backbone was trained on."""
    import keras

    pixels = keras.Input((size, size, 3))
    ordered = keras.ops.flip(pixels, axis=-1) if scaling.bgr else pixels
    scaled = keras.layers.Rescaling(list(scaling.scale), list(scaling.offset))(ordered)
    return keras.Model(pixels, scaled, name="preprocess")
