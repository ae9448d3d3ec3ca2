"""A time for the whole study: which trials may still begin, so that the final model is ready when it is over.

What a trial takes is known from the trials before it that were cut at the same block. Before there is one, an epoch is
presumed to take as long as a few passes of all pictures through the layers that are trained. All figures are seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from wastetune.backbones.cuts import PIXELS, TOP, Cut
from wastetune.backbones.runtime import time_pictures
from wastetune.storage.budget import only_finished
from wastetune.storage.records import TrialRecord, read_attrs
from wastetune.study.members import TAILS, Candidates, find_candidates
from wastetune.training.config import BACKBONE, TrialConfig
from wastetune.tuning.prepare import TrialContext

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_PASSES = 3.5  # forwards, back for the inputs and for the weights, and what else an epoch takes
_FEWEST = 12  # epochs of a configuration that there is no time for in full; or half of them, if these are fewer
_HEADS_FIRST = 20  # heads, which take seconds: a good one is there soon, and it is known what a tail has to beat
REPORT_SECONDS = 25.0  # to measure the final model and to write the report


@dataclass(frozen=True)
class Pace:
    """What the seconds of trials depend on: the pictures that they and the final model are fitted on."""

    train: int
    everything: int  # training and validation pictures
    views: int
    forward: Callable[[str | None], float]  # a backbone's name -> seconds of one picture through all of it

    @property
    def more(self) -> float:
        """How much longer the final model is fitted than a trial."""
        return self.everything / self.train


def open_pace(context: TrialContext) -> Pace:
    """The pace of a study; a backbone is timed when that is asked for."""
    train, val = len(context.data.train), len(context.data.val)

    @cache
    def forward(backbone: str | None) -> float:
        return time_pictures(context.of(backbone).backbone)

    return Pace(train, train + val, context.spec.views, forward)


def affordable(
    config: TrialConfig, cut: Cut, trials: Sequence[TrialRecord], left: float, pace: Pace
) -> TrialConfig | None:
    """The configuration, if there is time for it and then for a final model with it; perhaps with fewer epochs.

    A part of the backbone is trained for at least half of its epochs, or 12, with a schedule of that length. None where
    there is no time.
    """
    epoch, begin = _expect(trials, cut, config, pace)
    left -= REPORT_SECONDS + begin
    if cut == TOP:  # fitted twice more if it is selected
        others = retraining_seconds(_candidates(trials, pace), pace)
        return config if epoch * config.epochs * (2 + pace.more) + others <= left else None
    others = retraining_seconds(_beside_a_tail(trials, pace), pace)
    epochs = min(config.epochs, int((left - others) / (epoch * (1 + pace.more))))
    return None if epochs < min(_FEWEST, config.epochs / 2) else config.model_copy(update={"epochs": epochs})


def is_later(cut: Cut, trials: "Sequence[FrozenTrial]") -> bool:
    """Whether a trial with this cut waits for some heads."""
    return cut != TOP and sum(read_attrs(each).cut == TOP.name for each in only_finished(trials)) < _HEADS_FIRST


def trim_candidates(candidates: Candidates, pace: Pace, left: float) -> Candidates:
    """The candidates, without the last of those to be averaged that there is no time for.

    The winner stays, and so does the default, which is fitted in any case.
    """
    winner, *others = candidates.together
    while retraining_seconds(candidates.trials, pace) > left - REPORT_SECONDS:
        optional = [trial for trial in others if trial != candidates.default]
        if not optional:
            break
        others.remove(optional[-1])
        candidates = replace(candidates, together=(winner, *others))
    return candidates


def retraining_seconds(trials: Sequence[TrialRecord], pace: Pace) -> float:
    """Fits the trials for the whole schedule on training and validation pictures.

    To be compared, heads and what was stopped early are fitted once more.
    """
    seconds = 0.0
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
    """What is averaged with one more trial with a tail, if it is the best: the best of the others, and the default."""
    default = [trial for trial in trials if trial.default and trial.state == "complete"]
    tails = [trial for trial in _candidates(trials, pace) if trial.cut != TOP.name and not trial.default]
    return [*tails[: TAILS - 1], *default]


def _seconds_per_epoch(trial: TrialRecord) -> float:
    return sum(epoch["seconds"] for epoch in trial.epochs) / max(len(trial.epochs), 1)


def _expect(trials: Sequence[TrialRecord], cut: Cut, config: TrialConfig, pace: Pace) -> tuple[float, float]:
    """What an epoch will take, and what comes before the first one, where it is not known to be done."""
    same = [
        trial
        for trial in trials
        if trial.cut == cut.name and trial.epochs and trial.config.get(BACKBONE) == config.backbone
    ]
    if same:
        return max(map(_seconds_per_epoch, same[-3:])), 0.0  # of the last ones: a machine may be busier than before
    if cut == TOP:
        return 0.0, 0.0
    forward = pace.forward(config.backbone)
    activations = 0.0 if cut == PIXELS else forward * (pace.train * pace.views + pace.everything - pace.train)
    return _PASSES * (1 - config.frozen_depth) * forward * pace.train, activations


def time_left(end: float) -> float:
    """Seconds until a moment of `time.monotonic`."""
    return end - time.monotonic()
