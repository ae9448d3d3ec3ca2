"""Selects the trials that the final model is made of.

The highest of many nearly equal validation scores is the luckiest one. So the final model is the mean of the best
trials and the default. It is not taken back where the default alone scores higher on held-out pictures: they are too
few to tell, and that was wrong more often than right. A head that is surely below the best one makes the mean worse,
and after a few trials such heads are among the best five, so these are left out. Measured in docs/results.md.

Where a trial that trained a part of the backbone is among the best, others that did are averaged with it if they are
within one standard error of it (Breiman's rule). The mean of it and heads is better than either, even where one of
them is two or three standard errors below the other. The tails together have half of the weight, however many heads
there are (figures in docs/log.md).

A whole network counts as the winner also where it is below a head by no more than one standard error: the best of a
hundred heads was luckier than the best of a few networks (docs/log.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from wastetune.backbones.cuts import PIXELS, TOP
from wastetune.evaluation.metrics import metric_value
from wastetune.evaluation.objectives import SCORE_ALONE, Goals
from wastetune.report.results import Kind
from wastetune.storage.records import TrialRecord
from wastetune.training.assembly import average_probabilities
from wastetune.training.config import BACKBONE

HEADS = 5  # averaged, besides the default's: behind a shared trunk they cost next to nothing
_SURELY_BELOW = 3  # standard errors, of a head, or of the best tail, below the winner
TAILS = 3  # averaged, besides the default's: each tail is a pass of its own


@dataclass(frozen=True)
class Candidates:
    """The trials that the final model may be made of."""

    together: tuple[TrialRecord, ...]  # to be averaged, the winner first
    default: TrialRecord
    is_default_allowed: bool = True  # whether the default is within the limits of costs
    epochs: Mapping[int, int] = field(default_factory=dict)  # of a trial's last fit, where there is no time for all

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """All of them, each once."""
        return self.together if self.default in self.together else (*self.together, self.default)


@dataclass(frozen=True)
class Selection:
    """What the final model is made of: trials by number, and what they said of held-out pictures."""

    kind: Kind
    members: tuple[int, ...]
    weights: tuple[float, ...]  # of the members in the mean; none: all alike
    probabilities: NDArray[Any]  # (n, c), the mean
    score: float
    default_score: float


def find_candidates(
    trials: Sequence[TrialRecord], *, validated: int, alone: bool = False, goals: Goals = SCORE_ALONE
) -> Candidates:
    """The winner and the next best trials, with the default, among the trials of a study.

    `validated` is the number of pictures that each score is of.

    Where costs have limits, only trials within them; the default is then a candidate only if it is.

    Of several backbones only trials of the winner's are averaged, and its default is the one to compare with: the final
    model has one trunk. Heads, and the best tail, are averaged within three standard errors of the winner's score, and
    other tails within one of the best tail's. Where the winner is a head, the default is, too, if it is one. A whole
    network within one standard error of the highest score is the winner. `alone`: the one with the highest score is,
    and it is not averaged with others. Of equal scores, lower costs are better, then the earlier trial.
    ValueError where the default trial is not complete, or no trial is within the limits.
    """
    complete = sorted((each for each in trials if each.state == "complete"), key=_rank)
    complete = [trial for trial in complete if trial.config.get(BACKBONE) == complete[0].config.get(BACKBONE)]
    default = next((trial for trial in complete if trial.default), None)
    if default is None:
        raise ValueError("the default trial is not complete")
    complete, is_allowed = [trial for trial in complete if goals.allow(trial.costs)], goals.allow(default.costs)
    if not complete:
        raise ValueError("no trial is within the limits")
    if alone:
        return Candidates((complete[0],), default, is_allowed)
    best = next((each for each in _near(complete, complete[0], validated) if each.cut == PIXELS.name), complete[0])
    heads = [trial for trial in complete if trial.cut == TOP.name]
    tails = [trial for trial in complete if trial not in heads]
    near_heads = _near(heads, best, validated, errors=_SURELY_BELOW)
    first = best if best in tails else next(iter(_near(tails, best, validated, errors=_SURELY_BELOW)), None)
    near_tails = [] if first is None else [first, *(each for each in _near(tails, first, validated) if each != first)]
    chosen = (near_heads[:HEADS], near_tails[:TAILS])
    together = [trial for kind in (chosen if best in heads else reversed(chosen)) for trial in kind]
    is_averaged = default in (*near_heads, *near_tails) or (best in heads and default in heads)
    if is_averaged and default not in together:
        together = [*together, default]
    return Candidates(tuple(together), default, is_allowed)


def select_members(
    labels: NDArray[Any], held_out: Mapping[int, NDArray[Any]], candidates: Candidates, metric: str
) -> Selection:
    """All of the candidates that can be averaged. Where the default is none of them, it is selected instead if it has
    the higher held-out score and is within the limits.

    labels: (n,); held_out: trial number -> probabilities (n, c) of the same pictures, for each candidate.
    """
    default, members = candidates.default.number, tuple(each.number for each in candidates.together)
    weights = _weights(candidates.together)
    mean = average_probabilities([held_out[number] for number in members], weights)
    score, default_score = metric_value(metric, labels, mean), metric_value(metric, labels, held_out[default])
    is_better = candidates.is_default_allowed and default not in members and score < default_score
    if members == (default,) or is_better:
        return Selection("default", (default,), (), held_out[default], default_score, default_score)
    return Selection("ensemble" if len(members) > 1 else "best", members, weights, mean, score, default_score)


def _weights(trials: Sequence[TrialRecord]) -> tuple[float, ...]:
    """Half for all tails together and half for all heads; none where there are only heads or only tails."""
    kinds = [trial.cut == TOP.name for trial in trials]
    return tuple(0.5 / kinds.count(kind) for kind in kinds) if len(set(kinds)) > 1 else ()


def _rank(trial: TrialRecord) -> tuple[float, ...]:
    return (-_score(trial), *trial.costs.values(), trial.number)


def _score(trial: TrialRecord) -> float:
    assert trial.score is not None
    return trial.score


def _near(trials: Sequence[TrialRecord], best: TrialRecord, pictures: int, errors: int = 1) -> list[TrialRecord]:
    """Those that are not below the best one by more than so many standard errors."""
    return [trial for trial in trials if _score(trial) >= _score(best) - errors * _standard_error(best, pictures)]


def _standard_error(trial: TrialRecord, pictures: int) -> float:
    """Of a score in 0..1 that is a share of so many pictures, which an F1 is nearly."""
    score = min(max(_score(trial), 0.0), 1.0)
    return math.sqrt(score * (1 - score) / pictures)
