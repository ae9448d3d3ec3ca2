"""Images/s of one core's augmentation with OpenCV (ours), Pillow and Keras layers, and of the trunk it feeds."""

import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance

from wastetune.backbones.augmentation import build_views
from wastetune.backbones.backbone import build_trunk, load_backbone
from wastetune.data.image import read_picture, resize_picture

COUNT, SIZE, BATCH = 256, 224, 32


def rate(work: Callable[[], object]) -> float:
    work()  # compiles
    started = time.perf_counter()
    work()
    return COUNT / (time.perf_counter() - started)


def main() -> None:
    folder, weights = Path(os.environ["WASTETUNE_DATA"]), Path(os.environ["WASTETUNE_WEIGHTS"])
    files = sorted((folder / "trashnet" / "glass").iterdir())[:COUNT]
    pixels = np.stack([resize_picture(read_picture(path), SIZE) for path in files])
    floats = pixels.astype(np.float32)
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(0.15, 0.15),
            keras.layers.RandomRotation(0.07),
            keras.layers.RandomZoom(0.3),
            keras.layers.RandomColorJitter(
                (0, 255), brightness_factor=0.15, contrast_factor=0.4, saturation_factor=0.5
            ),
            keras.layers.RandomErasing(value_range=(0, 255)),
        ]
    )
    # `predict` would switch the layers off, whatever `training` they were called with.
    augment = tf.function(lambda batch: layers(batch, training=True))
    backbone = load_backbone("mobilenet_v3_small_075", folder=weights)
    trunk = build_trunk(backbone, (backbone.cuts[-1],))

    def pillow() -> None:
        for array in pixels:
            picture = Image.fromarray(array).transform(
                (SIZE, SIZE), Image.Transform.AFFINE, (1, 0.1, 3, 0.1, 1, 3), Image.Resampling.BILINEAR
            )
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                picture = enhance(picture).enhance(1.1)

    table: dict[str, Callable[[], object]] = {
        "OpenCV, wastetune's views": lambda: build_views(pixels, [str(path) for path in files], 1, 1.0),
        "Pillow, affine and colour only": pillow,
        "Keras layers": lambda: [augment(floats[i : i + BATCH]) for i in range(0, COUNT, BATCH)],
        "trunk MobileNetV3Small 0.75": lambda: trunk.predict(floats, batch_size=BATCH, verbose=0),
    }
    for name, work in table.items():
        print(f"{name:32} {rate(work):8.0f} images/s")


if __name__ == "__main__":
    main()
