"""Fits a trial or the final model of a finished study again, and compares the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wastetune.checks.differences import find_differences
from wastetune.console import Console
from wastetune.errors import UserError, first_line
from wastetune.evaluation.metrics import METRICS
from wastetune.formatting import render_count
from wastetune.report.predictions import read_predictions
from wastetune.report.results import Report, read_report
from wastetune.storage.records import TrialRecord, read_attrs
from wastetune.storage.study import read_records, read_trials
from wastetune.study.refit import refit
from wastetune.training.config import BACKBONE, TrialConfig
from wastetune.training.fit import Epoch, TrainingFailed
from wastetune.tuning.objective import run_trial
from wastetune.tuning.prepare import Prepared

if TYPE_CHECKING:
    import optuna


# Neither the processor nor the runtime that computed stored activations is recorded.
_UNEXPLAINED = (
    "NOT REPRODUCED, although nothing that is recorded differs: perhaps another processor, or activations that another "
    "runtime has stored; set WASTETUNE_CACHE to an empty folder to compute them again."
)


@dataclass(frozen=True)
class Reproduction:
    """The scores of a trial or of the final model, as they were and as they are when it is fitted again."""

    what: str
    scores: Mapping[str, tuple[float, float]]  # name -> then and now
    detail: str  # how far what lies behind the scores is the same
    differences: tuple[str, ...]  # what was not as it was then

    def is_same(self, tolerance: float = 0.0) -> bool:
        """Whether no score differs by more than the tolerance."""
        return all(abs(now - then) <= tolerance for then, now in self.scores.values())


def find_trial(study: "optuna.Study", number: int) -> TrialRecord:
    """The record of a trial that has a score. UserError where there is none."""
    records = {record.number: record for record in read_records(study)}
    if (record := records.get(number)) is None:
        ran = [trial.number for trial in read_trials(study)]
        what = (
            "has not ended yet" if number in ran else f"does not exist; the study has {render_count(len(ran), 'trial')}"
        )
        raise UserError(f"trial {number} of study {study.study_name!r} {what}")
    if record.state in ("failed", "interrupted"):
        scored = [each for each in records.values() if each.state in ("complete", "pruned")]
        again = [each.number for each in scored if each.config == record.config]
        instead = f"; trial {again[0]} is of the same configuration" if again else ""
        what = "was interrupted" if record.state == "interrupted" else "failed"
        raise UserError(
            f"trial {number} {what}, so it has no score to reproduce: {record.failure or 'no reason is known'}{instead}"
        )
    if record.state == "pruned" and not record.epochs:
        raise UserError(f"trial {number} was pruned and has no record of its epochs, so there is no score to compare")
    return record


def reproduce_trial(
    study: "optuna.Study", prepared: Prepared, number: int, folder: Path, console: Console
) -> Reproduction:
    """A trial fitted again with its own seed and configuration, without pruning; the study is not written to.

    A pruned trial is fitted up to the epoch where it was pruned. `folder` is the study's results folder.
    UserError where there is no such trial, or it has no score.
    """
    record = find_trial(study, number)
    last = len(record.epochs) if record.state == "pruned" else None
    try:
        result = run_trial(
            TrialConfig.model_validate(record.config),
            number,
            prepared.context,
            console.bar,
            lambda epoch: epoch.number == last,
        )
    except TrainingFailed as error:
        raise UserError(f"trial {number}, fitted again, has no score: {first_line(error)}") from error
    history, assumed = result.fit.history, f"validation {METRICS[prepared.context.spec.metric][0]}"
    if last is None:
        pair = (_score_of(record), result.fit.best.score)
    else:
        pair = (float(record.epochs[-1]["score"]), history[-1].score)
        assumed += f" of epoch {last}, where it was pruned"
    return Reproduction(
        what=f"trial {number}",
        scores={assumed: pair},
        detail=_compare_epochs(record.epochs, history),
        differences=tuple(find_differences(study, prepared, folder)),
    )


def reproduce_final(study: "optuna.Study", prepared: Prepared, folder: Path, console: Console) -> Reproduction:
    """The final model fitted again, and its scores on the test pictures beside those of the study's report.

    `folder` is the study's results folder; nothing is written to it. UserError where it has no report, or the trials
    of the report are not in the study.
    """
    report = read_report(folder)
    if report is None:
        raise UserError(f"there is no report in {folder}; run the study first, or name the folder with --results")
    numbers = report.final.members if report.final else (report.best.number,)
    attrs = {trial.number: read_attrs(trial) for trial in read_trials(study)}
    if gone := [number for number in numbers if number not in attrs or attrs[number].best_epoch is None]:
        raise UserError(
            f"the final model in {folder} was made of trials that the study does not have "
            f"({', '.join(map(str, gone))}); see --storage"
        )
    prepared = prepared.of(attrs[numbers[0]].config.get(BACKBONE))
    final, members = report.final, {number: attrs[number] for number in numbers}
    try:
        again = refit(
            prepared.context,
            prepared.test,
            members,
            bar=console.bar,
            temperature=final.temperature if final else 1.0,
            weights=final.weights if final else (),
            whole_schedule=final.whole_schedule if final else False,
            fewer_epochs=final.epochs if final else (),
            use_kept=False,
        )
    except TrainingFailed as error:
        raise UserError(f"the final model cannot be fitted again: {first_line(error)}") from error
    keys = dict.fromkeys([METRICS[report.metric], METRICS["macro_f1"], METRICS["accuracy"]])
    return Reproduction(
        what=f"the final model (trials {', '.join(map(str, numbers))})",
        scores={f"test {name}": (getattr(report.test, key), getattr(again.scores, key)) for name, key in keys},
        detail=_compare_probabilities(report, folder, prepared.test.paths, again.probabilities),
        differences=tuple(find_differences(study, prepared, folder, report.versions)),
    )


def render_reproduction(reproduction: Reproduction, tolerance: float = 0.0) -> str:
    """What differs from then, both scores, and whether they are the same, as lines."""
    differences = reproduction.differences
    head = "What differs from then:" if differences else "Pictures, split, settings, weights and versions are as then."
    lines = [head, *(f"  {each}" for each in differences), ""]
    for name, (then, now) in reproduction.scores.items():
        change = "the same" if then == now else f"{now - then:+.6f}"
        lines.append(f"{reproduction.what}, {name}: {then:.6f} then, {now:.6f} now ({change})")
    lines += [reproduction.detail, ""]
    if not reproduction.is_same(tolerance):
        lines.append("NOT REPRODUCED; the result is of what differs above." if differences else _UNEXPLAINED)
    elif reproduction.is_same():
        lines.append("Reproduced: the same score." if not differences else "Reproduced all the same: the same score.")
    else:
        lines.append(f"Reproduced within {tolerance:g}.")
    return "\n".join(lines)


def _score_of(record: TrialRecord) -> float:
    assert record.score is not None  # of a complete trial
    return record.score


def _compare_epochs(then: Sequence[Mapping[str, float]], now: Sequence[Epoch]) -> str:
    """Where the two runs first differ."""
    if not then:
        return "The study has no record of this trial's epochs."
    for old, new in zip(then, now, strict=False):
        for key, value in (("loss", new.loss), ("score", new.score)):
            if old[key] != value:
                return (
                    f"The first difference is in epoch {new.number} of {len(then)}: {key} {old[key]:.9g} then, "
                    f"{value:.9g} now."
                )
    if len(then) != len(now):
        return f"{len(then)} epochs then, {len(now)} now; those that both have are equal to the last bit."
    return f"Loss and score of {render_count(len(then), 'epoch')} are equal to the last bit."


def _compare_probabilities(
    report: Report, folder: Path, paths: Sequence[str], probabilities: NDArray[np.float32]
) -> str:
    """How far the probabilities differ from those in predictions.csv."""
    then = read_predictions(folder, report.classes, report.test.confusion_matrix)
    if then is None:
        return "The results have no predictions.csv of this model to compare probabilities with."
    if then.paths != tuple(paths):
        return "The test pictures are others, so their probabilities cannot be compared."
    if then.probabilities.shape != probabilities.shape:
        return "The classes are others, so their probabilities cannot be compared."
    difference = np.abs(then.probabilities - probabilities)
    if not difference.any():
        return f"All probabilities of {len(paths)} test pictures are equal to the last bit."
    changed = int((then.probabilities.argmax(axis=1) != probabilities.argmax(axis=1)).sum())
    return (
        f"The largest difference of a probability is {difference.max():.2g}; {changed} of {len(paths)} test pictures "
        "are predicted as another class."
    )
