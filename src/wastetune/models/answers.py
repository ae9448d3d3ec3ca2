"""What a model says of a picture: a class, "unsure" where it could not keep a promise, or a set of classes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wastetune.errors import UserError
from wastetune.evaluation.conformal import SetThreshold, prediction_sets
from wastetune.evaluation.selective import UNSURE
from wastetune.models.bundle import BundleDescription


@dataclass(frozen=True)
class Rule:
    """When a model answers, and whether it names a set of classes."""

    confidence: float = 0.0  # with a lower probability of the predicted class, the model is unsure
    sets: SetThreshold | None = None
    unlike_below: float | None = None  # with a lower likeness, the picture is unlike the training pictures


ALWAYS = Rule()


@dataclass(frozen=True)
class Answer:
    """What a model says of one picture."""

    name: str  # the predicted class, or "unsure"
    probability: float  # of the most probable class
    top: tuple[tuple[str, float], ...]  # the most probable classes and their probabilities, in descending order
    among: tuple[str, ...] | None  # the prediction set, the most probable first; None where none was asked for
    unlike: bool  # whether the picture is unlike the training pictures, so that it may show none of the classes

    @property
    def unsure(self) -> bool:
        """Whether the model gives no class."""
        return self.name == UNSURE


def choose_rule(about: BundleDescription, *, precision: float | None = None, coverage: float | None = None) -> Rule:
    """The rule of a model that keeps these promises, by its thresholds; both in percent, None for no promise.

    precision: how many of its answers have to be right; coverage: how many prediction sets have to hold the true class.
    UserError where the model cannot promise it.
    """
    rule = Rule(unlike_below=about.unlike_below)
    if precision is not None:
        confidences = {each.precision: each.confidence for each in about.thresholds}
        rule = replace(rule, confidence=confidences[_find("precision", precision, confidences, about)])
        if UNSURE in about.classes:
            raise UserError(f"a class of this model is called {UNSURE!r}, so that answer would have two meanings")
    if coverage is not None:
        sets = {each.coverage: each for each in about.set_thresholds}
        rule = replace(rule, sets=sets[_find("coverage", coverage, sets, about)])
    return rule


def _find(what: str, percent: float, known: Collection[float], about: BundleDescription) -> float:
    """The promise that is meant by a number of percent."""
    for each in known:
        if abs(100 * each - percent) < 1e-6:
            return each
    if about.unlike_below is None:
        raise UserError(f"this model is of an earlier version, which promises no {what}; run its study again")
    if not known:
        raise UserError(
            f"this model promises no {what}: there were too few validation pictures, or too many mistakes among them; "
            f"leave --{what} out, or run the study with more pictures"
        )
    promises = ", ".join(f"{100 * each:g}" for each in known)
    raise UserError(f"this model does not promise a {what} of {percent:g} %; it can promise {promises}")


def decide(
    classes: Sequence[str],
    probabilities: NDArray[np.float32],
    rule: Rule = ALWAYS,
    likeness: float | None = None,
    *,
    count: int = 3,
) -> Answer:
    """The answer for the probabilities (classes,) of one picture and its likeness to the training pictures.

    It has the `count` most probable classes.
    """
    order = np.argsort(-probabilities, kind="stable")
    top = tuple((classes[label], float(probabilities[label])) for label in order[:count])
    among = None
    if rule.sets is not None:
        inside = prediction_sets(probabilities[None], rule.sets)[0]
        among = tuple(classes[label] for label in order if inside[label])
    name, probability = top[0]
    unlike = likeness is not None and rule.unlike_below is not None and likeness < rule.unlike_below
    return Answer(UNSURE if probability < rule.confidence else name, probability, top, among, unlike)
