"""The winner, trained on train and validation pictures; the only reader of the test set."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.backbone import nearest_cut
from wastetune.data.pixels import PictureSet
from wastetune.study.objective import plain_set, training_set
from wastetune.study.prepare import Bar, TrialContext, trial_seed
from wastetune.training.config import TrialConfig
from wastetune.training.evaluation import Scores, score_predictions
from wastetune.training.fit import TrainingFailed, TrainingSet, fit_final, predict_probabilities, steps_per_epoch
from wastetune.training.learner import as_keras, assemble_model, open_learner

# The assembled model and the stored activations (half precision) may differ by so much in a probability.
TOLERANCE = 0.1
_CHECKED = 32


@dataclass(frozen=True)
class RefitResult:
    """A configuration trained on all but the test set, and what it made of the test set."""

    config: TrialConfig
    epochs: int
    scores: Scores
    probabilities: npt.NDArray[np.float32]  # (n, classes)
    parameters: int  # of the whole model, trained or not
    largest_difference: float  # between assembled model and stored activations, in a probability
    seconds: float


def refit(
    context: TrialContext,
    test: PictureSet,
    *,
    number: int,
    attrs: Mapping[str, Any],
    bar: Bar,
    keep: Callable[[Any], None] = lambda model: None,
) -> RefitResult:
    """Trains a finished trial's stored configuration again and evaluates it on the test pictures.

    As many passes over train + validation as the trial's best epoch had over train, with the learning-rate
    schedule rescaled to end there: a model that is kept should have come to rest. `keep` gets the whole model,
    from pixels to probabilities, while it has its weights.
    TrainingFailed where that model does not agree with the stored activations.
    """
    started = time.perf_counter()
    config = TrialConfig.model_validate(attrs["config"])
    epochs = int(attrs["best_epoch"])
    cut = nearest_cut(context.backbone, config.frozen_depth)
    train = _join(
        *(training_set(context, part, config, bar, ahead=False) for part in (context.data.train, context.data.val))
    )
    sealed = plain_set(context, test, config, bar, ahead=False)
    seed = trial_seed(context, number)
    steps = epochs * steps_per_epoch(len(train.labels), config)
    with ExitStack() as stack:
        classes = len(context.classes)
        learner = stack.enter_context(open_learner(context.backbone, cut, config, classes, horizon=steps, seed=seed))
        fit_final(learner, train, config=config, steps=steps, seed=seed)
        probabilities = predict_probabilities(learner, sealed.activations)
        model = stack.enter_context(as_keras(learner, context.backbone, cut, config, classes))
        whole = assemble_model(context.backbone, cut, model)
        some = np.unique(np.linspace(0, len(test) - 1, _CHECKED).astype(int))  # of all classes
        pixels = np.concatenate([test.read(range(row, row + 1)) for row in some]).astype(np.float32)
        difference = float(np.abs(np.asarray(whole.predict_on_batch(pixels)) - probabilities[some]).max())
        if not difference <= TOLERANCE:
            raise TrainingFailed(
                f"the assembled model differs from the stored activations by {difference:.3g} in a probability"
            )
        parameters = int(whole.count_params())
        keep(whole)
    return RefitResult(
        config,
        epochs,
        score_predictions(sealed.labels, probabilities, context.classes),
        probabilities,
        parameters,
        difference,
        time.perf_counter() - started,
    )


def _join(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    views = tuple(a + b for a, b in zip(first.views, second.views, strict=True))
    return TrainingSet(views, np.concatenate([first.labels, second.labels]))
