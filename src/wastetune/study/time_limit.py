"""A time for the whole study: which trials may still begin, so that the final model is ready when it is over.

What a trial takes is known from the trials before it that were cut at the same block. Before there is one, some steps
are timed. All figures are seconds.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.backbone import activation_shape, nearest_cut
from wastetune.backbones.cuts import PIXELS, TOP, Cut
from wastetune.backbones.runtime import time_pictures
from wastetune.storage.budget import only_finished
from wastetune.storage.records import TrialRecord, read_attrs
from wastetune.study.members import TAILS, Candidates, find_candidates
from wastetune.training.config import BACKBONE, TrialConfig, has_live_views
from wastetune.training.fit import TrainingSet, fit_final, steps_per_epoch
from wastetune.tuning.objective import live_views, open_configured
from wastetune.tuning.prepare import TrialContext
from wastetune.tuning.workers.worker import NotTimed

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_FORWARDS = 2  # that a step takes at least; where there is no time even for these, no step is timed
_STEPS_TIMED = 8
_SLOWER = 1.06  # a step in a fit than those that are timed
_FEWEST = 12  # epochs of a configuration that there is no time for in full; or half of them, if these are fewer
_HEADS_FIRST = 20  # heads, which take seconds: a good one is there soon, and it is known what a tail has to beat
REPORT_SECONDS = 25.0  # to measure the final model and to write the report


@dataclass(frozen=True)
class Pace:
    """What the seconds of trials depend on: the pictures that they and the final model are fitted on.

    What is not known yet raises NotTimed.
    """

    train: int
    everything: int  # training and validation pictures
    views: int
    forward: Callable[[str | None], float]  # a backbone's name -> seconds of one picture through all of it
    epoch: Callable[[TrialConfig], float]  # of a tail that was not tried yet

    @property
    def more(self) -> float:
        """How much longer the final model is fitted than a trial."""
        return self.everything / self.train


def open_pace(context: TrialContext) -> Pace:
    """The pace of a study, of which each backbone, and the training of each tail, is timed once."""
    train, val = len(context.data.train), len(context.data.val)
    known: dict[tuple[object, ...], float] = {}

    def timed(key: tuple[object, ...], measure: Callable[[], float]) -> float:
        if key not in known:
            raise NotTimed(lambda: known.update({key: measure()}))
        return known[key]

    def forward(backbone: str | None) -> float:
        return timed((backbone,), lambda: time_pictures(context.of(backbone).backbone))

    def epoch(config: TrialConfig) -> float:
        kind = (config.backbone, config.frozen_depth, config.has_live_views, config.batch_size, config.precision)
        step = timed(kind, lambda: _time_step(context.of(config.backbone), config))
        scoring = (1 - config.frozen_depth) * forward(config.backbone) * val
        return step * _SLOWER * steps_per_epoch(train, config) + scoring

    return Pace(train, train + val, context.spec.views, forward, epoch)


def _time_step(context: TrialContext, config: TrialConfig) -> float:
    """Seconds of a step of a tail, after the first ones, which compile it."""
    cut, count = nearest_cut(context.backbone, config.frozen_depth), 2 * config.batch_size
    # What the stored ones are does not matter, and they are not computed yet.
    inputs = np.zeros((count, *activation_shape(context.backbone, cut)), np.float32)
    live = live_views(context, context.data.train, config)
    if live is not None:
        live = live.select(np.resize(np.arange(len(context.data.train)), count))
    train = TrainingSet((Activations((inputs,)),), np.zeros(count, np.int64), len(context.classes), live)
    with open_configured(context, config, horizon=1, seed=0) as learner:
        fit_final(learner, train, config=config, steps=2, seed=0)
        started = time.perf_counter()
        fit_final(learner, train, config=config, steps=_STEPS_TIMED, seed=0)
        return (time.perf_counter() - started) / _STEPS_TIMED


def affordable(
    config: TrialConfig, cut: Cut, trials: Sequence[TrialRecord], left: float, pace: Pace
) -> TrialConfig | None:
    """The configuration, if there is time for it and then for a final model with it; perhaps with fewer epochs.

    A part of the backbone is trained for at least half of its epochs, or 12, with a schedule of that length, and not
    stopped by its patience: it would be fitted again to be compared. None where there is no time. NotTimed where that
    depends on what has to be timed first.
    """
    left -= REPORT_SECONDS
    known = [trial for trial in trials if trial.cut == cut.name and trial.epochs and _is_like(config, trial)]
    # Of the last ones: a machine may be busier than before.
    epoch = max(map(_seconds_per_epoch, known[-3:]), default=0.0)
    if cut == TOP:  # fitted twice more if it is selected
        others = retraining_seconds(_candidates(trials, pace), pace)
        return config if epoch * config.epochs * (2 + pace.more) + others <= left else None
    left -= retraining_seconds(_beside_a_tail(trials, pace), pace)
    fewest, times = min(_FEWEST, math.ceil(config.epochs / 2)), 1 + pace.more
    if not known:
        forward = pace.forward(config.backbone)
        views = 1 if config.has_live_views else pace.views
        # All views of what it is fitted on, and the test pictures, presumably as many as validate it.
        left -= 0.0 if cut == PIXELS else forward * (pace.everything * views + pace.everything - pace.train)
        if left < _FORWARDS * (1 - config.frozen_depth) * forward * pace.train * fewest * times:
            return None
        epoch = pace.epoch(config)
    epochs = min(config.epochs, int(left / (epoch * times)))
    if epochs < fewest:
        return None
    return config.model_copy(update={"epochs": epochs, "patience": max(config.patience, epochs)})


def _is_like(config: TrialConfig, trial: TrialRecord) -> bool:
    """Whether an epoch of a trial of the same cut takes as long."""
    tried = trial.config
    kind = (tried.get(BACKBONE), tried.get("precision", "float32"), has_live_views(tried))
    return kind == (config.backbone, config.precision, config.has_live_views)


def is_later(cut: Cut, trials: "Sequence[FrozenTrial]") -> bool:
    """Whether a trial with this cut waits for some heads."""
    return cut != TOP and sum(read_attrs(each).cut == TOP.name for each in only_finished(trials)) < _HEADS_FIRST


def trim_candidates(candidates: Candidates, pace: Pace, left: float) -> Candidates:
    """The candidates, without the last of those to be averaged that there is no time for.

    The winner stays, and so does the default, which is fitted in any case. A whole network, whose last fit goes on from
    its trial's, is rather fitted for fewer epochs, at least half.
    """
    winner, *others = candidates.together
    left -= REPORT_SECONDS
    while (excess := retraining_seconds(candidates.trials, pace) - left) > 0:
        if shorter := _shortened(candidates, excess, pace):
            return replace(candidates, epochs=shorter)
        optional = [trial for trial in others if trial != candidates.default]
        if not optional:
            break
        others.remove(optional[-1])
        candidates = replace(candidates, together=(winner, *others))
    return candidates


def _shortened(candidates: Candidates, excess: float, pace: Pace) -> dict[int, int]:
    """The epochs of the one whole network among those to be averaged that save so many seconds; none: too many."""
    networks = [trial for trial in candidates.together if trial.cut == PIXELS.name and trial != candidates.default]
    if len(networks) != 1:
        return {}
    (network,) = networks
    planned = int(network.config["epochs"])
    epochs = planned - math.ceil(excess / (_seconds_per_epoch(network) * pace.more))
    return {network.number: epochs} if epochs >= planned / 2 else {}


def retraining_seconds(trials: Sequence[TrialRecord], pace: Pace) -> float:
    """Fits the trials for the whole schedule on training and validation pictures.

    To be compared, heads and what was stopped early are fitted once more. At each cut, views of the validation
    pictures and the test pictures, presumably as many, have to go through the trunk first.
    """
    cuts = {(trial.config.get(BACKBONE), trial.cut) for trial in trials if trial.cut != PIXELS.name}
    seconds = len(cuts) * (pace.more - 1) * sum(trial.activation_seconds for trial in trials)
    for trial in trials:
        epochs = int(trial.config["epochs"])
        again = trial.cut == TOP.name or len(trial.epochs) < epochs
        seconds += _seconds_per_epoch(trial) * epochs * (pace.more + again)
    return seconds


def _candidates(trials: Sequence[TrialRecord], pace: Pace) -> Sequence[TrialRecord]:
    try:
        return find_candidates(trials, validated=pace.everything - pace.train).trials
    except ValueError:  # no trial is complete yet
        return ()


def _beside_a_tail(trials: Sequence[TrialRecord], pace: Pace) -> Sequence[TrialRecord]:
    """What is fitted with one more trial with a tail, if it is the best: the best of the others, and the default."""
    candidates = _candidates(trials, pace)
    tails = [trial for trial in candidates if trial.cut != TOP.name and not trial.default]
    return [trial for trial in candidates if trial not in tails[TAILS - 1 :]]


def _seconds_per_epoch(trial: TrialRecord) -> float:
    return sum(epoch["seconds"] for epoch in trial.epochs) / max(len(trial.epochs), 1)


def time_left(end: float) -> float:
    """Seconds until a moment of `time.monotonic`."""
    return end - time.monotonic()
