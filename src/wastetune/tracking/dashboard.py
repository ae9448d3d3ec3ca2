"""The notes that the Optuna dashboard shows of a study and its trials: Markdown, and the pictures in it.

A finished trial cannot be changed in Optuna, so its note is written before it finishes. A note that cannot be written
is logged once and does not fail the trial.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.errors import first_line
from wastetune.evaluation.metrics import METRICS
from wastetune.evaluation.objectives import COSTS, render_costs
from wastetune.formatting import render_value
from wastetune.report.results import Report
from wastetune.report.text import final_model
from wastetune.search.choice import describe_search
from wastetune.signals import deferred_signals
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import StudyInfo, read_study_info
from wastetune.storage.trials import RunningTrial
from wastetune.tracking.artifacts import REPORT, Pictures, artifact_folder, draw_pictures, find_report, upload

if TYPE_CHECKING:
    import optuna

_CHUNK = 2045  # characters of a note in one attribute
_OURS = "wastetune:note_ver"  # the version of the study's note that was written here
_WORST = 3  # classes that a trial's note names
_LISTED = 12  # classes that a study's note lists
_SIDES = (("train", "to train"), ("val", "to validate"), ("test", "sealed for the test"))

_log = logging.getLogger("wastetune")


class Notes:
    """Writes the notes of one study's trials, for one worker."""

    def __init__(self, study: "optuna.Study", metric: str, classes: Sequence[str]) -> None:
        self._study, self._metric, self._classes = study, metric, tuple(classes)
        self._store = Pictures(artifact_folder(study._storage))
        self._warned = False

    def write(self, trial: RunningTrial, config: Mapping[str, Any], attrs: TrialAttrs, *, pruned: bool) -> None:
        """Writes pictures and note of a trial that is about to finish, from its attributes. Raises no errors."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            with deferred_signals(), tempfile.TemporaryDirectory() as folder:
                pictures = []
                for name, picture in draw_pictures(attrs, self._metric, self._classes):
                    file = Path(folder) / name
                    file.write_text(picture, encoding="utf-8")
                    pictures.append((file.stem.replace("_", " "), upload(self._store, file, trial)))
                drawn = trial.storage.get_trial(trial.id).params
                note = render_trial_note(config, drawn, attrs, self._metric, self._classes, pictures, pruned=pruned)
                _save(self._study, f"dashboard:{trial.id}:", note, version=1)
        except UpdateFinishedTrialError:  # another worker has failed this trial as lost
            return
        except Exception as error:  # a full disk, an unavailable database
            self._warn(error)
        if self._store.error is not None:
            self._warn(self._store.error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            reason = first_line(error, most=160)
            _log.warning("what the dashboard shows of trials cannot be written (%s); they go on without it", reason)
        self._warned = True


def note_study(study: "optuna.Study", report: Report | None = None, folder: Path | None = None) -> None:
    """Writes the study's note; with a report and its results folder, the answer and a link to the report.

    A note that was edited in the dashboard stays as it is. Raises no errors.
    """
    try:
        info = read_study_info(study)
        assert info is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method is experimental in Optuna
            costs = [COSTS[key].label for key in info.objectives[1:]]
            study.set_metric_names([METRICS[info.metric][0], *costs])  # instead of "Objective 0"
        pages = f"/dashboard/studies/{study._study_id}/trials?numbers="
        note = render_study_note(
            info,
            report,
            trial=f"{pages}{report.best.number}" if report else "",
            files=str(folder.resolve()) if folder else "",
            link=_upload_report(study, folder / REPORT) if folder and (folder / REPORT).is_file() else "",
        )
        attrs = study._storage.get_study_system_attrs(study._study_id)
        version = attrs.get("dashboard:note_ver", 0)
        if version == attrs.get(_OURS, 0):
            old = sum(key.startswith("dashboard:note_str:") for key in attrs)
            _save(study, "dashboard:", note, version=version + 1, old=old)
            study._storage.set_study_system_attr(study._study_id, _OURS, version + 1)
    except Exception as error:  # the study is complete without it
        _log.warning("the dashboard's note of the study cannot be written (%s)", type(error).__name__)


def render_trial_note(
    config: Mapping[str, Any],
    drawn: Mapping[str, Any],
    attrs: TrialAttrs,
    metric: str,
    classes: Sequence[str],
    pictures: Iterable[tuple[str, str]],
    *,
    pruned: bool,
) -> str:
    """A trial's note as Markdown: score, worst classes, pictures, configuration.

    drawn: the sampled parameters, which the dashboard shows, too; depth and augmentation were snapped since. attrs: the
    trial's attributes; pictures: (title, address). Lines are short, because the dashboard's page of a trial
    is as wide as its longest attribute.
    """
    assert attrs.best_epoch is not None
    assert attrs.confusion_matrix is not None
    best = attrs.history[attrs.best_epoch - 1]
    accuracy = "" if metric == "accuracy" else f", accuracy {best['accuracy']:.4f}"
    epochs = f"{len(attrs.history)}{', then pruned' if pruned else ''}"
    lines = [
        f"**{METRICS[metric][0]} {best['score']:.4f}**{accuracy} on the validation pictures, "
        f"in epoch {best['number']} of {epochs}; {attrs.trainable_parameters:,} parameters trained.",
        *(["", f"Its model has {render_costs(attrs.costs)}."] if attrs.costs else []),
        *(["", f"A warm start: the configuration is from {attrs.origin}."] if attrs.origin else []),
        "",
        "Worst classes:",
        "",
        *(f"- {line}" for line in _worst_classes(attrs.confusion_matrix, classes)),
        "",
        *(f"![{title}]({address})" for title, address in pictures),
        "",
        "| parameter | value |",
        "| --- | --- |",
        *(f"| {key} | {_render_both(value, drawn.get(key))} |" for key, value in config.items() if value is not None),
    ]
    return "\n".join(lines)


def _render_both(value: object, drawn: object) -> str:
    """A value, and the drawn one where that was snapped to it."""
    used, sampled = render_value(value), render_value(drawn)
    return used if drawn is None or used == sampled else f"{used}, the nearest that has an effect to {sampled}"


def render_study_note(
    info: StudyInfo, report: Report | None = None, *, trial: str = "", files: str = "", link: str = ""
) -> str:
    """A study's note as Markdown: the question, data and backbone and, with a report, the answer.

    trial, link: the addresses of the best trial and of the report; files: the results folder.
    """
    data, metric = info.data, METRICS[info.metric][0]
    parts = ", ".join(f"{data.counts[side]:,} {purpose}" for side, purpose in _SIDES)
    lines = [
        f"**{info.question or 'A study without a question.'}**",
        "",
        *(_answer(report, metric, trial, files, link) if report else ()),
        "| | |",
        "| --- | --- |",
        f"| data set | {data.name}: {sum(data.counts.values()):,} pictures ({parts}) |",
        f"| classes | {len(data.classes)}: {_first_names(data.classes)} |",
        f"| backbone | {info.tags['backbone']} |",
        f"| maximised | {metric} on the validation pictures |",
        *(
            [f"| minimised | {', '.join(COSTS[key].title for key in costs)} |"]
            if (costs := info.objectives[1:])
            else []
        ),
        *([f"| search | {search} |"] if (search := describe_search(info.tags)) else []),
    ]
    return "\n".join(lines)


def _answer(report: Report, metric: str, trial: str, files: str, link: str) -> list[str]:
    best, test, default = report.best, report.test, report.default_test
    comparison = (
        "it is the default configuration"
        if report.is_default
        else f"the default configuration has {default.f1_macro:.3f} and {default.accuracy:.3f}"
    )
    whose = f" of {len(report.backbones)} backbones, with {report.backbone}" if report.backbones else ""
    return [
        f"[Trial {best.number}]({trial}) is best{whose}, with a validation {metric} of {best.score:.4f}. "
        f"{_subject(report)} macro F1 **{test.f1_macro:.3f}** and accuracy "
        f"**{test.accuracy:.3f}** on the sealed test set; {comparison}.{_costs(report)}",
        "",
        f"{f'[Open the report]({link}). ' if link else ''}Files: `{files}`",
        "",
    ]


def _costs(report: Report) -> str:
    costs = report.final.costs if report.final else {}
    return f" Its costs: {render_costs(costs, report.limits)}." if costs else ""


def _subject(report: Report) -> str:
    if report.final is None:
        return "Trained again on train + validation, it has"
    return f"The final model, {final_model(report.final)}, trained again on train + validation, has"


def _worst_classes(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """The classes with the lowest recall, each with its most frequent confusion."""
    lines = []
    for _, i in sorted((row[i] / sum(row), i) for i, row in enumerate(matrix) if sum(row))[:_WORST]:
        found, total = matrix[i][i], sum(matrix[i])
        count, j = max((count, -j) for j, count in enumerate(matrix[i]) if j != i)
        confusion = f", {count} taken for {classes[-j]}" if count else ""
        lines.append(f"**{classes[i]}**: {found} of {total} found ({found / total:.0%}){confusion}")
    return lines


def _first_names(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _upload_report(study: "optuna.Study", file: Path) -> str:
    """The report as an artifact of the study, always the same one; its address."""
    store = Pictures(artifact_folder(study._storage))
    identity = find_report(study)
    if identity is None:
        return upload(store, file, study)
    with file.open("rb") as report:
        store.write(identity, report)
    return f"/artifacts/{study._study_id}/{identity}"


def _save(study: "optuna.Study", prefix: str, note: str, *, version: int, old: int = 0) -> None:
    """Does what optuna_dashboard.save_note does, which takes two seconds to import and reads all notes at each call."""
    parts = [note[start : start + _CHUNK] for start in range(0, len(note), _CHUNK)]
    parts += [""] * (old - len(parts))
    for number, part in enumerate(parts):
        study._storage.set_study_system_attr(study._study_id, f"{prefix}note_str:{number}", part)
    study._storage.set_study_system_attr(study._study_id, f"{prefix}note_ver", version)
