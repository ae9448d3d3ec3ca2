"""The objective: trains one configuration and scores it. Search, data and training meet only here."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wastetune.backbones.activation_store import (
    Activations,
    activation_bytes,
    fill_activations,
    missing_pictures,
    open_activations,
)
from wastetune.backbones.augmentation import snap_strength, usable_views, view_magnitude
from wastetune.backbones.backbone import nearest_cut, reachable_cuts
from wastetune.backbones.cuts import PIXELS, Cut
from wastetune.backbones.live_views import LiveViews, open_live_views, pixel_activations
from wastetune.data.pixels import PictureSet
from wastetune.errors import UserError
from wastetune.evaluation.metrics import confusion_counts
from wastetune.formatting import render_bytes, render_count
from wastetune.search.distributions import Choice
from wastetune.search.space import bounds, sample
from wastetune.seeding import seed_for
from wastetune.training.config import TrialConfig
from wastetune.training.fit import (
    Epoch,
    FitResult,
    TrainingSet,
    ValidationSet,
    fit,
    fit_final,
    predict_probabilities,
    steps_per_epoch,
)
from wastetune.training.head_start import fit_head_first
from wastetune.training.learner import FloatArray, Learner, count_parameters, open_learner, set_weights
from wastetune.tuning.held_out import keep_fit
from wastetune.tuning.prepare import Bar, TrialContext, trial_seed

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


_ATTEMPTS = 3
_AHEAD = 20e9  # bytes of activations computed before a trial needs them


def choose_config(trial: "BaseTrial", context: TrialContext) -> TrialConfig:
    """The trial's configuration, with its depth snapped to a cut and its augmentation to a stored view.

    The depth up to which views are live becomes its own, or 0: what acts alike compares equal.
    """
    config = sample(context.space, trial)
    context = context.of(config.backbone)
    depth = nearest_cut(context.backbone, config.frozen_depth).frozen_depth
    config = config.model_copy(update={"frozen_depth": depth})
    if config.has_live_views and config.augmentation > 0:
        return config.model_copy(update={"live_depth": depth})
    strength = snap_strength(config.augmentation, context.spec.views)
    return config.model_copy(update={"live_depth": 0.0, "augmentation": strength})


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial, and what it cost."""

    fit: FitResult
    confusion_matrix: list[list[int]]
    activation_seconds: float
    trainable_parameters: int


def run_trial(
    config: TrialConfig, number: int, context: TrialContext, bar: Bar, on_epoch: Callable[[Epoch], object]
) -> TrialResult:
    """Trains one configuration; its score is that of its best epoch on the validation pictures.

    `on_epoch` gets each epoch; if it returns something true, that epoch is the last.
    TrainingFailed where no epoch had a finite score.
    """
    started, context = time.perf_counter(), context.of(config.backbone)
    train, val = tuning_sets(context, config, bar)
    activation_seconds = time.perf_counter() - started
    seed = trial_seed(context, number)
    horizon = config.epochs * steps_per_epoch(len(train.labels), config)
    with open_configured(context, config, horizon=horizon, seed=seed) as learner:
        fit_head_first(learner, train, config, seed=seed, build=context.build_head)
        fitted = fit(learner, train, val, config=config, metric=context.spec.metric, seed=seed, on_epoch=on_epoch)
        parameters = count_parameters(learner)
        if len(fitted.history) == config.epochs:
            keep_fit(context, config, seed, fitted.best.score, fitted.last, learner)
    confusion = confusion_counts(val.labels, fitted.probabilities).tolist()
    return TrialResult(fitted, confusion, activation_seconds, parameters)


def cross_predict(
    context: TrialContext, config: TrialConfig, folds: npt.NDArray[np.int64], *, number: int, epochs: int, bar: Bar
) -> FloatArray:
    """Class probabilities (n, classes) of the training and then the validation pictures, each out of fold.

    folds: (n,), the fold of each picture, or -1 where it is only fitted on and its row stays 0. A picture is predicted
    by a model that was fitted on all pictures outside its fold, for so many epochs, as the final model is.
    TrainingFailed as in `run_trial`.
    """
    everything = fitting_set(context, config, bar)
    probabilities = np.zeros((len(folds), len(context.classes)), np.float32)
    for fold in np.unique(folds[folds >= 0]):
        held_out = np.flatnonzero(folds == fold)
        others = everything.select(np.flatnonzero(folds != fold))
        seed = seed_for("fold", trial_seed(context, number), int(fold))
        with fitted_learner(context, config, others, epochs=epochs, seed=seed) as learner:
            probabilities[held_out] = predict_probabilities(learner, everything.views[0].select(held_out))
    return probabilities


@contextlib.contextmanager
def fitted_learner(
    context: TrialContext,
    config: TrialConfig,
    data: TrainingSet,
    *,
    epochs: int,
    seed: int,
    start: FloatArray | None = None,
) -> Iterator[Learner]:
    """A learner of this configuration, fitted for so many passes over the data, where its schedule ends.

    It begins with the weights `start`, one after the other, or else as a trial does. TrainingFailed as in `run_trial`.
    """
    steps = epochs * steps_per_epoch(len(data.labels), config)
    with open_configured(context, config, horizon=steps, seed=seed) as learner:
        if start is None:
            fit_head_first(learner, data, config, seed=seed, build=context.build_head)
        else:
            set_weights(learner, start)
        fit_final(learner, data, config=config, steps=steps, seed=seed)
        yield learner


def open_configured(
    context: TrialContext, config: TrialConfig, *, horizon: int, seed: int
) -> contextlib.AbstractContextManager[Learner]:
    """A new learner of this configuration, ready to be trained for `horizon` steps."""
    cut = nearest_cut(context.backbone, config.frozen_depth)
    classes, build = len(context.classes), context.build_head
    return open_learner(context.backbone, cut, config, classes, horizon=horizon, seed=seed, build=build)


def tuning_sets(context: TrialContext, config: TrialConfig, bar: Bar) -> tuple[TrainingSet, ValidationSet]:
    """The training and validation activations of a configuration, computed where they are not stored yet."""
    cut = nearest_cut(context.backbone, config.frozen_depth)
    return training_set(context, context.data.train, config, bar), plain_set(context, context.data.val, cut, bar)


def fitting_set(context: TrialContext, config: TrialConfig, bar: Bar) -> TrainingSet:
    """The activations of the training and then the validation pictures, on which the final model is fitted."""
    train, val = (
        training_set(context, part, config, bar, ahead=False) for part in (context.data.train, context.data.val)
    )
    return train + val


def training_set(
    context: TrialContext, pictures: PictureSet, config: TrialConfig, bar: Bar, *, ahead: bool = True
) -> TrainingSet:
    """The activations of these pictures at the configuration's cut, in every view that its augmentation allows.

    Missing activations are computed; with `ahead`, also those at the other cuts that trials may need. Of live views,
    which are made while the learner is fitted, the plain one alone is stored, and at the pixels nothing is.
    """
    cut, classes = nearest_cut(context.backbone, config.frozen_depth), len(context.classes)
    if config.has_live_views:
        plain = plain_set(context, pictures, cut, bar, ahead=ahead).activations
        return TrainingSet((plain,), pictures.labels, classes, live=live_views(context, pictures, config))
    views = range(usable_views(config.augmentation, context.spec.views))
    stored = tuple(_activations(context, pictures, cut, view, bar, ahead) for view in views)
    return TrainingSet(stored, pictures.labels, classes)


def live_views(context: TrialContext, pictures: PictureSet, config: TrialConfig) -> LiveViews | None:
    """The views of these pictures that are made while the configuration is fitted; None where it has none."""
    if not config.has_live_views or config.augmentation == 0:
        return None
    cut = nearest_cut(context.backbone, config.frozen_depth)
    return open_live_views(context.backbone, cut, pictures, config.augmentation)


def plain_set(context: TrialContext, pictures: PictureSet, cut: Cut, bar: Bar, *, ahead: bool = True) -> ValidationSet:
    """The activations of these pictures at a cut, without augmentation; see `training_set`."""
    if cut == PIXELS:
        return ValidationSet(pixel_activations(pictures, context.backbone.size), pictures.labels)
    return ValidationSet(_activations(context, pictures, cut, 0, bar, ahead), pictures.labels)


def _activations(
    context: TrialContext, pictures: PictureSet, cut: Cut, view: int, bar: Bar, ahead: bool
) -> Activations:
    magnitude = view_magnitude(view, context.spec.views)
    where = (context.store, context.backbone, pictures)
    for _ in range(_ATTEMPTS):
        if missing_pictures(*where, [cut], view, magnitude):
            cuts = _worth_computing(context, cut, view) if ahead else [cut]
            to_do = missing_pictures(*where, cuts, view, magnitude)
            with bar(f"activations, {'plain' if view == 0 else f'view {view}'}", to_do) as done:
                fill_activations(*where, cuts, view, magnitude, done)
        with contextlib.suppress(FileNotFoundError):  # damaged, or another worker needed the disk space
            return open_activations(*where, cut, view, magnitude)
    raise UserError(
        f"{context.store.folder} is too small for what all workers need at once, or its disk is faulty: activations "
        "were lost as soon as they were made; raise WASTETUNE_CACHE_GB, start fewer workers, or set WASTETUNE_CACHE "
        "to a folder on another disk"
    )


def _worth_computing(context: TrialContext, cut: Cut, view: int) -> list[Cut]:
    """The cuts to store in this view while the trunk runs anyway: all that the space can reach, if not too large.

    Those whose views are live in every trial need the plain one alone.
    UserError where the store cannot hold even this one cut for a whole trial: every trial would compute it again.
    """
    depth = dict(context.space.params).get("frozen_depth")
    if isinstance(depth, Choice):
        cuts = {cut, *(nearest_cut(context.backbone, float(each)) for each in depth.options)} - {PIXELS}
    else:
        cuts = {cut, *reachable_cuts(context.backbone, *bounds(context.space, "frozen_depth"))} - {PIXELS}
    always_live, _ = bounds(context.space, "live_depth")

    def views(cut: Cut) -> int:
        return context.spec.views if cut.frozen_depth > always_live else 1

    cuts = {each for each in cuts if each == cut or view < views(each)}
    pictures = len(context.data.train) + len(context.data.val)
    needed = {each: activation_bytes(context.backbone, each, pictures * views(each)) for each in cuts}
    if needed[cut] > context.store.limit:
        raise UserError(
            f"the activations of {context.backbone.name} at {cut.name} need {render_bytes(needed[cut])} in "
            f"{render_count(views(cut), 'view')}, and {context.store.folder} may hold "
            f"{render_bytes(context.store.limit)}; "
            "raise WASTETUNE_CACHE_GB, lower views, or search higher values of frozen_depth"
        )
    if sum(needed.values()) > min(context.store.limit, _AHEAD):
        return [cut]
    return sorted(cuts, key=lambda each: each.frozen_depth)
