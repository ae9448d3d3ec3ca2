"""How many images a second go through a frozen trunk, an augmentation, and the training of a tail?

trunk: pixels in memory to pooled vectors, under model.predict and under what wastetune runs
views: one view of a 224 px picture on one core, by Keras layers, Pillow and OpenCV (wastetune's), and the trunk
tails: training steps on what lies above a cut: whole batches, in halves side by side, with XLA, and in halves in
    bfloat16. TensorFlow gives an operation half of the cores, as in a study, unless TF_NUM_INTRAOP_THREADS says else
live: an epoch of a tail on stored activations, and on new views: the frozen trunk beside the optimizer, as wastetune
    has it, or inside of its step
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import numpy as np
from common import SMALL_BACKBONE, Row, compare_rates, folders, options, print_table
from PIL import Image, ImageEnhance

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.augmentation import build_views
from wastetune.backbones.backbone import Backbone, build_trunk, load_backbone, nearest_cut, split
from wastetune.backbones.cuts import PIXELS, TOP
from wastetune.backbones.live_views import open_live_views
from wastetune.backbones.runtime import TrunkRunner, choose_runtime, open_trunk
from wastetune.data.pixels import PictureSet
from wastetune.settings import RUNTIME
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingSet, fit_final
from wastetune.training.learner import compile_model, open_keras_model, open_learner

BATCH = 32
BACKBONES = ("mobilenet_v3_small_075", "resnet50", "inception_v3")
TAILS = (
    ("mobilenet_v3_small_075", 0.0),
    ("mobilenet_v3_small_075", 0.6667),
    ("resnet50", 0.8125),
    ("resnet50", 0.9375),
    ("inception_v3", 0.9),
)
LIVE = (("mobilenet_v3_small_075", 0.6667), ("resnet50", 0.5625), ("resnet50", 0.8125))


def main() -> None:
    parser = options(__doc__, "trunk", "views", "tails", "live")
    parser.add_argument("--backbone", action="append", help="for the part `trunk`; may be given several times")
    asked = parser.parse_args()
    parts = {"trunk": trunk, "views": views, "tails": tails, "live": live}
    print_table((row for name in parts if asked.part in (name, "all") for row in parts[name](asked)), asked.json)


def load(name: str) -> Backbone:
    """With ImageNet weights where they are; speed does not depend on them."""
    _, folder = folders()
    here = folder is not None and (folder / f"{name}_notop.weights.h5").exists()
    return load_backbone(name, "imagenet" if here else "none", folder=folder)


def draw_pixels(size: int, count: int = 4 * BATCH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def trunk(asked: argparse.Namespace) -> Iterator[Row]:
    for name in asked.backbone or ((SMALL_BACKBONE,) if asked.quick else BACKBONES):
        backbone = load(name)
        pixels = draw_pixels(backbone.size)
        yield from compare_rates(trunks(backbone, pixels), len(pixels), quick=asked.quick, backbone=name)


def trunks(backbone: Backbone, pixels: np.ndarray) -> dict[str, Callable[[], object]]:
    """Each action pushes all pictures through the trunk."""
    floats, model = pixels.astype(np.float32), build_trunk(backbone, (TOP,))
    actions = {"model.predict": lambda: model.predict(floats, batch_size=BATCH, verbose=0)}
    for name in dict.fromkeys(("keras", choose_runtime())):
        with patch.dict(os.environ, {RUNTIME.variable: name}):
            runner = open_trunk(backbone, (TOP,))

        def run(runner: TrunkRunner = runner) -> object:
            return list(runner.run(pixels[i : i + runner.batch] for i in range(0, len(pixels), runner.batch)))

        actions[f"wastetune ({name})"] = run
    return actions


def views(asked: argparse.Namespace) -> Iterator[Row]:
    import keras
    import tensorflow as tf

    backbone = load(SMALL_BACKBONE if asked.quick else BACKBONES[0])
    pixels = draw_pixels(backbone.size)
    floats, shape = pixels.astype(np.float32), pixels.shape[1:3]
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
    # `predict` would switch the layers off, with whatever `training` they were called.
    augment = tf.function(lambda batch: layers(batch, training=True))

    def pillow() -> None:
        for array in pixels:
            picture = Image.fromarray(array).transform(
                shape, Image.Transform.AFFINE, (1, 0.1, 3, 0.1, 1, 3), Image.Resampling.BILINEAR
            )
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                picture = enhance(picture).enhance(1.1)

    actions: dict[str, Callable[[], object]] = {
        "a view by Keras layers": lambda: [augment(floats[i : i + BATCH]) for i in range(0, len(floats), BATCH)],
        "Pillow, affine and colour only": pillow,
        "OpenCV, wastetune's views": lambda: build_views(pixels, [str(i) for i in range(len(pixels))], 1, 1.0),
    }
    trunk = trunks(backbone, pixels)
    actions["trunk, model.predict"] = trunk.pop("model.predict")
    yield from compare_rates(
        actions | {f"trunk, {how}": action for how, action in trunk.items()}, len(pixels), quick=asked.quick
    )


def tails(asked: argparse.Namespace) -> Iterator[Row]:
    config = TrialConfig(head_layers=0, dropout=0.2, learning_rate=1e-4, batch_size=BATCH, epochs=1)
    draw, classes = np.random.default_rng(0), 9
    targets = np.eye(classes, dtype=np.float32)[draw.integers(0, classes, BATCH)]
    for name, depth in [(SMALL_BACKBONE, 0.9)] if asked.quick else TAILS:
        backbone = load(name)
        cut = nearest_cut(backbone, depth)
        actions = {}
        with ExitStack() as stack:
            for how in ("whole", "in halves", "XLA", "bfloat16"):
                chosen = config.model_copy(update={"precision": "bfloat16" if how == "bfloat16" else "float32"})
                halves = how in ("in halves", "bfloat16")
                model = stack.enter_context(open_keras_model(backbone, cut, chosen, classes, seed=0, halves=halves))
                compile_model(model, chosen, horizon=100, xla=how == "XLA")
                inputs = draw.uniform(size=(BATCH, *model.inputs[0].shape[1:])).astype(np.float32)
                actions[how] = lambda model=model, inputs=inputs: model.train_on_batch(inputs, targets)
            yield from compare_rates(actions, BATCH, quick=asked.quick, backbone=name, cut=cut.name)


def live(asked: argparse.Namespace) -> Iterator[Row]:
    import keras

    classes, count = 9, 4 * BATCH
    labels = np.random.default_rng(0).integers(0, classes, count)
    for name, depth in [(SMALL_BACKBONE, 0.9)] if asked.quick else LIVE:
        for precision in ("float32", "bfloat16"):
            config = TrialConfig(
                **{"head_layers": 0, "dropout": 0.2, "learning_rate": 1e-4, "batch_size": BATCH, "epochs": 1},
                **{"frozen_depth": depth, "augmentation": 1.0, "precision": precision},
            )
            backbone = load(name)
            cut, pixels = nearest_cut(backbone, depth), draw_pixels(backbone.size, count)

            def read(rows: Sequence[int], pixels: np.ndarray = pixels) -> np.ndarray:
                return pixels[list(rows)]

            pictures = PictureSet(read, tuple(map(str, range(count))), labels, (), decode=read)
            views = {PIXELS: open_live_views(backbone, PIXELS, pictures, 1.0)}
            views[cut] = open_live_views(backbone, cut, pictures, 1.0)
            stored = Activations((views[cut].take(np.arange(count), range(count)),))
            with open_learner(backbone, cut, config, classes, horizon=100, seed=0) as learner:
                trunk, _ = split(backbone, cut)
                trunk.trainable = False
                inputs = keras.Input(pixels.shape[1:])
                inside = keras.Model(inputs, learner(trunk(inputs)))
                compile_model(inside, config, horizon=100, xla=False)
                epochs = {
                    "stored activations": (learner, TrainingSet((stored,), labels, classes)),
                    "the trunk beside the step": (learner, TrainingSet((stored,), labels, classes, views[cut])),
                    "the trunk inside the step": (
                        inside,
                        TrainingSet((views[PIXELS].pixels,), labels, classes, views[PIXELS]),
                    ),
                }
                actions = {
                    how: partial(fit_final, model, train, config=config, steps=count // BATCH, seed=0)
                    for how, (model, train) in epochs.items()
                }
                yield from compare_rates(
                    actions, count, quick=asked.quick, backbone=name, cut=cut.name, precision=precision
                )


if __name__ == "__main__":
    main()
