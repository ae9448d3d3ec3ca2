"""The evaluation of a model on a labelled folder: its record, its text, its files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from wastetune.data.corrections import render_corrected
from wastetune.data.layout import Problem
from wastetune.errors import UserError
from wastetune.evaluation.calibration import Calibration
from wastetune.evaluation.conformal import Covered
from wastetune.evaluation.scores import Scores
from wastetune.evaluation.selective import Answered, Threshold
from wastetune.files import write_whole
from wastetune.formatting import markdown_table, render_count
from wastetune.record import Record
from wastetune.report import html
from wastetune.report.figures import draw_coverage, draw_reliability
from wastetune.report.predictions import Predictions, confident_mistakes, write_predictions
from wastetune.report.results import FILE
from wastetune.report.text import (
    COLUMNS,
    CONFUSION,
    class_rows,
    join_parts,
    matrix_table,
    problem_lines,
    score_parts,
    unlike_line,
    unsure_line,
    with_interval,
    wrapped,
)

FOLDER = "evaluations"  # in a study's results


class FolderClass(Record):
    """A class of the folder, the class of the model that it stands for, and its pictures."""

    folder_class: str
    model_class: str | None  # None: left out
    pictures: int  # that can be read
    evaluated: int


class Evaluation(Record):
    """How a model does on the pictures of a folder."""

    model: str  # a path
    study: str | None
    backbone: str | None
    trained_on: str | None  # the name of a data set
    folder: str
    classes: tuple[str, ...]  # of the model
    folder_classes: tuple[FolderClass, ...]
    alike: dict[str, str]  # folder's class -> model's class; matched although case, spaces, hyphens, underscores differ
    unused: tuple[str, ...]  # classes of the table that the folder does not have
    scores: Scores  # averages over the classes that have pictures
    calibration: Calibration
    thresholds: tuple[Threshold, ...]  # of the model
    answered: tuple[Answered, ...]  # what they do to these pictures
    covered: tuple[Covered, ...]  # likewise, the thresholds of prediction sets
    accuracy_by_coverage: tuple[tuple[float, float], ...]
    unlike: float | None  # the share of pictures that are unlike the training pictures; None: the model does not know
    own_test: Scores | None  # of the study's test pictures
    compared: Literal["nearly", "exactly", "not"]  # how pictures were compared with those of training
    trained: int  # left out: the model was trained on the very same picture
    near: int  # left out: near-duplicates of pictures that it was trained on
    own_test_pictures: int  # evaluated, although they are test pictures of the study, or near-duplicates of them
    duplicates: int
    comes_split: bool  # whether the folder has TRAIN and TEST
    problems: tuple[Problem, ...]
    wastetune: str  # the version
    corrected: dict[str, int] = Field(default_factory=dict)  # by the study: decision -> pictures; not done here

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.folder).name

    @property
    def model_name(self) -> str:
        """The study's name, or the file's."""
        return self.study or Path(self.model).name

    @property
    def pictures(self) -> int:
        """The pictures that were evaluated."""
        return sum(each.evaluated for each in self.folder_classes)

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes of the model that have no pictures."""
        return tuple(name for name in self.classes if name not in self.scores.per_class)


def check_output(output: Path, folder: Path) -> None:
    """Raises UserError where a report lies in the output folder that is not of this folder of pictures."""
    try:
        found = json.loads((output / FILE).read_text(encoding="utf-8")).get("folder")
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError):
        found = None
    if found != str(folder.resolve()):
        whose = f"the evaluation of {found}" if found else "another report"
        raise UserError(f"{output} has {whose}, which would be lost; name another folder with --output")


def write_evaluation(evaluation: Evaluation, predictions: Predictions, output: Path) -> None:
    """Writes report.json, report.md, report.html and predictions.csv, each whole or not at all."""
    write_predictions(predictions, output)
    text = render_markdown(evaluation)
    write_whole(output / "report.md", lambda part: part.write_text(text, encoding="utf-8"))
    html.write_text(render_page(evaluation, predictions), output)
    values = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_whole(output / FILE, lambda part: part.write_text(values, encoding="utf-8"))


def render_text(evaluation: Evaluation) -> str:
    """The evaluation as plain text for a terminal, at most 100 columns wide."""
    return join_parts(
        wrapped([render_title(evaluation)]),
        wrapped(findings(evaluation)),
        *score_parts(evaluation.scores, evaluation.classes),
        wrapped([*_facts(evaluation), *problem_lines(evaluation.problems)]),
    )


def render_markdown(evaluation: Evaluation) -> str:
    """The evaluation as Markdown."""
    return join_parts(
        [f"# {render_title(evaluation)}"],
        [f"- {line}" for line in findings(evaluation)],
        ["## Scores"],
        markdown_table(COLUMNS, class_rows(evaluation.scores)),
        [f"## {CONFUSION}"],
        matrix_table(evaluation.scores, evaluation.classes),
        ["## Pictures"],
        markdown_table(_CLASS_COLUMNS, _class_cells(evaluation), left=2),
        [f"- {line}" for line in [*_facts(evaluation), *problem_lines(evaluation.problems)]],
    )


def render_page(evaluation: Evaluation, predictions: Predictions) -> str:
    """The evaluation as one page, with the figures of a study's report."""
    shown = html.with_images(confident_mistakes(predictions, html.MISTAKES), Path(evaluation.folder))
    scores, calibration = evaluation.scores, evaluation.calibration
    return html.render_template(
        "evaluation.html",
        title=render_title(evaluation),
        evaluation=evaluation,
        tiles=_tiles(evaluation),
        findings=findings(evaluation),
        scores=html.score_tables(scores, evaluation.classes),
        reliability=draw_reliability([("winner", "the model", calibration)], evaluation.pictures),
        calibration=html.calibration_rows(calibration),
        coverage=draw_coverage(evaluation.accuracy_by_coverage, evaluation.answered),
        answered=html.answered_rows(evaluation.thresholds, evaluation.answered),
        covered=html.covered_rows(evaluation.covered),
        mistakes=html.mistake_figures(shown),
        mistakes_note=html.mistakes_note(scores, len(shown), "pictures"),
        class_columns=_CLASS_COLUMNS,
        class_cells=_class_cells(evaluation),
        facts=_facts(evaluation),
        problems=problem_lines(evaluation.problems, most=50),
    )


def render_title(evaluation: Evaluation) -> str:
    """Model and folder in one line."""
    return f"{evaluation.model_name} on {evaluation.name}"


def findings(evaluation: Evaluation) -> list[str]:
    """The answer in sentences: how good, how much worse than on the study's test pictures, what does not count."""
    scores, calibration = evaluation.scores, evaluation.calibration
    return [
        f"Macro F1 {with_interval(scores, 'f1_macro')}, accuracy {with_interval(scores, 'accuracy')}; 95 % intervals, "
        f"{render_count(evaluation.pictures, 'picture')}.",
        *_own_test_line(evaluation),
        *_absent_line(evaluation),
        *_overlap_lines(evaluation),
        f"Confidence is off by {100 * calibration.error:.1f} points on average; log loss {calibration.log_loss:.3f}, "
        f"Brier score {calibration.brier:.3f}.",
        *unsure_line(evaluation.answered, "pictures"),
        *unlike_line(evaluation.unlike, "pictures"),
    ]


def _own_test_line(evaluation: Evaluation) -> list[str]:
    own, scores = evaluation.own_test, evaluation.scores
    if own is None:
        return []
    before = "On the study's own test pictures it had"
    if evaluation.absent:
        recall = _own_recall(own, scores)
        return [
            f"{before} a mean recall of {recall:.3f} in the same classes: here {scores.recall_macro:.3f} "
            f"({scores.recall_macro - recall:+.3f}). Precision and F1 do not compare: without pictures of the other "
            "classes, fewer are taken for these."
        ]
    return [
        f"{before} macro F1 {own.f1_macro:.3f} and accuracy {own.accuracy:.3f}: here "
        f"{scores.f1_macro - own.f1_macro:+.3f} and {scores.accuracy - own.accuracy:+.3f}."
    ]


def _own_recall(own: Scores, scores: Scores) -> float:
    """The mean recall on the study's test pictures of the classes that have pictures here."""
    return float(np.mean([own.per_class[name].recall for name in scores.per_class]))


def _absent_line(evaluation: Evaluation) -> list[str]:
    if not (absent := evaluation.absent):
        return []
    columns = [evaluation.classes.index(name) for name in absent]
    said = sum(row[column] for row in evaluation.scores.confusion_matrix for column in columns)
    return [
        f"The folder has no pictures of {', '.join(absent)}: averages are over the classes that it has, and "
        f"{render_count(said, 'prediction')} of {'it' if len(absent) == 1 else 'those'} "
        f"{'counts' if said == 1 else 'count'} as wrong."
    ]


def _overlap_lines(evaluation: Evaluation) -> list[str]:
    lines = []
    left_out = [
        render_count(count, what)
        for count, what in ((evaluation.trained, "picture"), (evaluation.near, "near-duplicate"))
        if count
    ]
    if left_out:
        lines.append(f"Left out, because the model was trained on them: {' and '.join(left_out)}.")
    if count := evaluation.own_test_pictures:
        lines.append(
            f"{render_count(count, 'picture')} {'is' if count == 1 else 'are'} in the study's own test set, or nearly "
            "the same as one there: this is another look at them, not a new test."
        )
        if evaluation.corrected:
            lines.append(
                f"The study has corrected its pictures by hand ({render_corrected(evaluation.corrected)}). Here they "
                "are as the folder has them, so scores may differ from the report's."
            )
    if evaluation.compared == "not":
        lines.append(
            "The study's split.csv does not lie beside the model, so pictures that it was trained on would not be "
            "recognised."
        )
    elif evaluation.compared == "exactly":
        lines.append(
            "The study's pictures are not on this machine, so only exact copies of pictures that the model was trained "
            "on are recognised."
        )
    return lines


_CLASS_COLUMNS = ("folder's class", "model's class", "pictures", "evaluated")


def _class_cells(evaluation: Evaluation) -> list[tuple[str, ...]]:
    return [
        (each.folder_class, each.model_class or "left out", str(each.pictures), str(each.evaluated))
        for each in evaluation.folder_classes
    ]


def _facts(evaluation: Evaluation) -> list[str]:
    """Where the classes and pictures went, each a sentence."""
    others = [each for each in evaluation.folder_classes if each.model_class != each.folder_class]
    stands = [each for each in others if each.model_class and each.folder_class not in evaluation.alike]
    left_out = [f"{each.folder_class} ({each.pictures})" for each in others if each.model_class is None]
    trained_on = f", trained on {evaluation.trained_on}" if evaluation.trained_on else ""
    return [
        f"Model: {evaluation.model}{trained_on}.",
        f"Pictures: {evaluation.folder}; {render_count(evaluation.pictures, 'picture')} evaluated, "
        f"{render_count(evaluation.duplicates, 'duplicate')}, {len(evaluation.problems)} not readable.",
        *(["The folder comes split into TRAIN and TEST; both were evaluated."] if evaluation.comes_split else []),
        *_list("Classes of the table", [f"{each.folder_class} = {each.model_class}" for each in stands]),
        *_list(
            "Matched apart from case, spaces, hyphens and underscores",
            [f"{name} = {same}" for name, same in evaluation.alike.items()],
        ),
        *_list("Classes left out, with their pictures", left_out),
        *_list("In the table, but not in the folder", evaluation.unused),
    ]


def _list(what: str, values: Sequence[str]) -> list[str]:
    return [f"{what}: {', '.join(values)}."] if values else []


def _tiles(evaluation: Evaluation) -> list[dict[str, str]]:
    scores, own = evaluation.scores, evaluation.own_test
    tiles = []
    for name, key in (("Macro F1", "f1_macro"), ("Accuracy", "accuracy")):
        low, high = scores.intervals[key]
        note = f"95 % interval {low:.3f} to {high:.3f}"
        tiles.append({"name": name, "value": f"{getattr(scores, key):.3f}", "note": note})
    if own is not None and evaluation.absent:
        note = f"{_own_recall(own, scores):.3f} on its own test pictures"
        tiles.append({"name": "Mean recall", "value": f"{scores.recall_macro:.3f}", "note": note})
    elif own is not None:
        note = "on its own test pictures"
        tiles.append({"name": "Accuracy in the study", "value": f"{own.accuracy:.3f}", "note": note})
    left_out = sum(each.pictures - each.evaluated for each in evaluation.folder_classes)
    tiles.append({"name": "Pictures", "value": f"{evaluation.pictures:,}", "note": f"{left_out:,} left out"})
    return tiles
