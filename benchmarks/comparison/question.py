"""What KerasTuner, Optuna and wastetune are all asked: the same pictures, split, weights, space and epochs."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import folders, options, prepare, write_small_study, write_study

from wastetune.backbones import augmentation
from wastetune.backbones.backbone import load_backbone, nearest_cut, split
from wastetune.backbones.cuts import TOP
from wastetune.data.pixels import PictureSet
from wastetune.search.distributions import Value
from wastetune.search.space import SearchSpace, bounds, load_space, sample
from wastetune.seeding import seed_for
from wastetune.training.config import TrialConfig
from wastetune.training.head import build_head
from wastetune.training.learner import compile_model
from wastetune.tuning.spec import StudySpec, load_study

OBJECTIVE = "val_f1_score"
KEYS = ("dataset", "backbone", "space", "views", "seed", "weights")
LIMITS = ("seconds", "epochs", "all_epochs", "epochs_per_trial")


@dataclass(frozen=True)
class Question:
    """The study that all are asked, and its pictures in wastetune's split."""

    spec: StudySpec
    space: SearchSpace
    classes: tuple[str, ...]
    train: PictureSet
    val: PictureSet
    test: PictureSet

    @property
    def epochs(self) -> int:
        """The epochs of a trial that nothing stops."""
        return int(bounds(self.space, "epochs")[1])


def question_options(script: str) -> argparse.ArgumentParser:
    """The options that say what is asked, and what stops a search of KerasTuner or Optuna early."""
    parser = options(script)
    parser.add_argument("--dataset", default="trashnet", help="a known data set, or a folder of pictures")
    parser.add_argument("--backbone", default="mobilenet_v3_small_075")
    parser.add_argument("--space", default="head", help="head or transfer, or another space's name or path")
    parser.add_argument("--views", type=int, default=4, help="wastetune's bank of views; the others augment anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="imagenet", help="imagenet or none, as in a study's file")
    parser.add_argument("--trials", type=int, default=2, help="trials of KerasTuner and of Optuna")
    parser.add_argument("--seconds", type=float, help="stop KerasTuner and Optuna so long after their start")
    parser.add_argument("--epochs", type=int, help="train no more epochs of one of their trials than this")
    parser.add_argument("--all-epochs", type=int, help="stop them after so many epochs of all trials together")
    parser.add_argument("--epochs-per-trial", type=int, help="with --epochs: the assumed epochs of a whole trial")
    return parser


def small_question() -> dict[str, Any]:
    """The values of the options for --quick; its pictures are in the working directory."""
    spec = load_study(str(write_small_study("small")))
    return {key: getattr(spec, key) for key in KEYS} | {"trials": 1}


def to_words(asked: argparse.Namespace) -> list[str]:
    """The options as words of a command line that runs in another folder."""
    values = {key: getattr(asked, key) for key in (*KEYS, "trials", *LIMITS)} | absolute_paths(asked)
    pairs = [(f"--{key.replace('_', '-')}", str(value)) for key, value in values.items() if value is not None]
    return [word for pair in pairs for word in pair]


def absolute_paths(asked: argparse.Namespace) -> dict[str, str]:
    dataset = str(Path(asked.dataset).resolve()) if os.sep in asked.dataset else asked.dataset
    return {"dataset": dataset, "space": str(Path(load_space(asked.space).source).resolve())}


def write_question(asked: argparse.Namespace, trials: int) -> Path:
    """The question as a study's file in the working directory."""
    values = {key: getattr(asked, key) for key in KEYS} | absolute_paths(asked)
    return write_study("compare", **values, metric="macro_f1", trials=trials)


def load_question(study: Path) -> Question:
    """The study's pictures, decoded and split by wastetune itself."""
    prepared = prepare(study)
    context = prepared.context
    return Question(context.spec, context.space, context.classes, context.data.train, context.data.val, prepared.test)


class HyperParametersAsTrial:
    """KerasTuner's `hp` with the three methods of an Optuna trial that a wastetune space samples with."""

    def __init__(self, hp: Any, space: SearchSpace) -> None:
        self._hp, self._params = hp, dict(space.params)

    def _default(self, key: str) -> Value:
        return self._params[key].default

    def suggest_int(self, key: str, low: int, high: int, *, log: bool) -> int:
        return int(self._hp.Int(key, low, high, sampling="log" if log else "linear", default=self._default(key)))

    def suggest_float(self, key: str, low: float, high: float, *, log: bool) -> float:
        return float(self._hp.Float(key, low, high, sampling="log" if log else "linear", default=self._default(key)))

    def suggest_categorical(self, key: str, options: tuple[Value, ...]) -> Value:
        return self._hp.Choice(key, list(options), default=self._default(key))


def sample_with_keras_tuner(space: SearchSpace, hp: Any) -> TrialConfig:
    """The configuration that KerasTuner's `hp` gets from the space, by the code that samples for Optuna."""
    return sample(space, HyperParametersAsTrial(hp, space))  # type: ignore[arg-type]


def build_everyday_model(question: Question, config: TrialConfig, trial: int = 0) -> Any:
    """A configuration as it is usually put into Keras, compiled: augmentation, backbone and head in one model.

    The backbone is frozen below the cut and in its normalisation layers, as in wastetune. It is built and
    loaded again for every trial, since trials must not share weights.
    """
    import keras

    spec = question.spec
    backbone = load_backbone(spec.backbone, spec.weights, size=spec.image_size, folder=folders()[1])
    keras.utils.set_random_seed(seed_for("everyday trial", spec.seed, trial))
    cut = nearest_cut(backbone, config.frozen_depth)
    above = set() if cut == TOP else {layer.name for layer in split(backbone, cut)[1].layers}
    for layer in backbone.body.layers:
        layer.trainable = layer.name in above and not isinstance(layer, keras.layers.BatchNormalization)
    pixels = keras.Input((backbone.size, backbone.size, 3), name="pixels")
    x = pixels
    for layer in augmentation_layers(config.augmentation):
        x = layer(x)
    pooled = backbone.body(backbone.preprocess(x))
    model = keras.Model(pixels, build_head(pooled, config, len(question.classes)))
    # Keras itself would not choose XLA here either: RandomZoom and RandomTranslation do not support it.
    compile_model(model, config, horizon=config.epochs * steps_per_epoch(question, config), xla=False)
    # The same optimiser and loss once more, with the metric that these libraries maximise.
    f1 = keras.metrics.F1Score(average="macro", name="f1_score")
    model.compile(optimizer=model.optimizer, loss=model.loss, metrics=[f1], jit_compile=False)
    return model


def augmentation_layers(strength: float) -> list[Any]:
    """Keras's layers for wastetune's augmentation, in the same ranges; none for strength 0.

    The cheapest layers that serve: brightness and contrast apart instead of RandomColorJitter, whose saturation
    costs as much as both geometry layers around it and is grey at 0 and nothing at 0.5; one grey for erased areas,
    because Keras would otherwise draw a normal number for every value of every picture.
    """
    import keras

    if strength == 0:
        return []
    layers, pixels = keras.layers, (0, 255)
    return [
        layers.RandomFlip("horizontal"),
        layers.RandomTranslation(strength * augmentation._SHIFT, strength * augmentation._SHIFT),
        layers.RandomRotation(strength * augmentation._ROTATION_DEGREES / 360),
        layers.RandomZoom(strength * augmentation._ZOOM),
        layers.RandomBrightness(strength * augmentation._BRIGHTNESS / 255, value_range=pixels),
        layers.RandomContrast(strength * augmentation._CONTRAST, value_range=pixels),
        # Keras draws areas: the square root of `scale` is the largest side.
        layers.RandomErasing(
            scale=(0.0, (strength * augmentation._ERASED_SIDE) ** 2), fill_value=127.5, value_range=pixels
        ),
    ]


def steps_per_epoch(question: Question, config: TrialConfig) -> int:
    """Batches in one pass as `model.fit` counts them, the last one smaller."""
    return -(-len(question.train) // config.batch_size)


def class_weight(question: Question, config: TrialConfig) -> dict[int, float] | None:
    """The `class_weight` of `model.fit` that balances the classes."""
    import numpy as np

    if config.class_weighting == "none":
        return None
    counts = np.bincount(question.train.labels, minlength=len(question.classes))
    return {label: len(question.train) / (len(counts) * max(int(n), 1)) for label, n in enumerate(counts)}
