"""Evaluates a trained model on any labelled folder: a first acceptance test where it is to work."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from wastetune.checks.class_names import ClassNames, match_classes, read_class_table
from wastetune.checks.evaluation import FOLDER, Evaluation, FolderClass, check_output, write_evaluation
from wastetune.checks.used_pictures import (
    Overlap,
    UsedPictures,
    find_overlap,
    home_of,
    read_used_pictures,
)
from wastetune.console import Console
from wastetune.data.index import ImageIndex, Picture, duplicate_groups, index_folder
from wastetune.data.layout import Problem
from wastetune.datasets.catalog import find_dataset
from wastetune.errors import UserError
from wastetune.evaluation.calibration import measure_calibration
from wastetune.evaluation.conformal import apply_set_threshold
from wastetune.evaluation.scores import score_predictions
from wastetune.evaluation.selective import accuracy_by_coverage, apply_threshold
from wastetune.models.loading import Model, open_model
from wastetune.models.predict import predict_files
from wastetune.report.predictions import Predictions
from wastetune.report.results import read_report
from wastetune.settings import cache_folder
from wastetune.tuning.prepare import bar_steps


def evaluate_folder(
    path: Path,
    folder: Path,
    *,
    table: Path | None,
    dataset: str | None,
    data: Path,
    results: Path,
    output: Path | None,
    console: Console,
) -> tuple[Evaluation, Path]:
    """The evaluation of the model at this path on the pictures of a folder, and the folder it was written to.

    `path` is a bundle or an exported file; `table` a CSV file of class names. `dataset` names the pictures that the
    model was trained on, if its description does not; they are looked for in `data`. Without an `output`, the
    evaluation goes to `evaluations/<folder's name>` in the results of the model's study.
    UserError where the folder's classes are not the model's, or no picture is left to evaluate.
    """
    model = open_model(path)
    classes_of_table = read_class_table(table) if table else {}
    home = home_of(path)
    output = output or (home or results / (model.about.study or path.stem)) / FOLDER / folder.resolve().name
    check_output(output, folder)
    with console.bar("reading pictures", None) as done:
        index = index_folder(folder, cache=cache_folder(), progress=bar_steps(done), fewest=1)
    names = match_classes(index.classes, model.classes, classes_of_table)
    used = None
    if home is not None:
        training = _find_training(dataset or model.about.dataset, data)
        with console.bar("reading the study's pictures", None) as done:
            used = read_used_pictures(home, training, bar_steps(done))
    overlap = find_overlap(index, used or UsedPictures())
    rows = [
        row
        for row, picture in enumerate(index.pictures)
        if names.model_class[index.classes[picture.label]] is not None and row not in overlap.trained | overlap.near
    ]
    if not rows:
        raise UserError(_nothing_left(index, overlap, folder))
    predictions, likenesses, gone = _predict(model, index, rows, names, console)
    index = replace(index, problems=(*index.problems, *gone))
    evaluation = _describe(model, path, index, names, predictions, likenesses, overlap, used)
    if home is not None and (report := read_report(home)) and report.corrected:
        evaluation = evaluation.model_copy(update={"corrected": report.corrected})
    write_evaluation(evaluation, predictions, output)
    return evaluation, output


def _find_training(dataset: str | None, data: Path) -> Path | None:
    if dataset is not None:
        with suppress(UserError):  # it need not be on this machine
            return find_dataset(dataset, data)
    return None


def _nothing_left(index: ImageIndex, overlap: Overlap, folder: Path) -> str:
    if seen := len(overlap.trained | overlap.near):
        return (
            f"nothing is left to evaluate in {folder}: the model was trained on {seen} of its {len(index.pictures)} "
            "pictures, and the classes of the others are left out; name a folder with other pictures"
        )
    return f"nothing is left to evaluate in {folder}: the table leaves out all of its classes"


def _predict(
    model: Model, index: ImageIndex, rows: Sequence[int], names: ClassNames, console: Console
) -> tuple[Predictions, list[float], list[Problem]]:
    """The predictions of these pictures, their likeness where the model knows it, and those that cannot be read."""
    pictures = [index.pictures[row] for row in rows]
    kept: list[Picture] = []
    said, likenesses, gone = [], [], []
    with console.bar("predicting", len(rows)) as done:
        answers = predict_files(model, [index.folder / each.path for each in pictures])
        for picture, answer in zip(pictures, answers, strict=True):
            done(1)
            if answer.probabilities is None:
                gone.append(Problem(picture.path, answer.problem))
            else:
                kept.append(picture)
                said.append(answer.probabilities)
                likenesses += [] if answer.likeness is None else [answer.likeness]
    if not kept:
        raise UserError(f"no picture in {index.folder} can be read any more: {gone[0].what}")
    labels = [model.classes.index(names.model_class[index.classes[each.label]] or "") for each in kept]
    paths = tuple(each.path for each in kept)
    return Predictions(model.classes, paths, np.array(labels, np.int64), np.stack(said)), likenesses, gone


def _describe(
    model: Model,
    path: Path,
    index: ImageIndex,
    names: ClassNames,
    predictions: Predictions,
    likenesses: Sequence[float],
    overlap: Overlap,
    used: UsedPictures | None,
) -> Evaluation:
    here = Counter(picture.label for picture in index.pictures)
    evaluated = set(predictions.paths)
    about, measured = model.about, (predictions.labels, predictions.probabilities)
    lowest = about.unlike_below
    counts = Counter(picture.label for picture in index.pictures if picture.path in evaluated)
    return Evaluation(
        model=str(path),
        study=about.study,
        backbone=about.backbone,
        trained_on=about.dataset,
        folder=str(index.folder.resolve()),
        classes=model.classes,
        folder_classes=tuple(
            FolderClass(
                folder_class=name,
                model_class=names.model_class[name],
                pictures=here[label],
                evaluated=counts[label],
            )
            for label, name in enumerate(index.classes)
        ),
        alike=dict(names.alike),
        unused=names.unused,
        scores=score_predictions(*measured, model.classes, only_present=True),
        calibration=measure_calibration(*measured),
        thresholds=about.thresholds,
        answered=tuple(apply_threshold(*measured, each) for each in about.thresholds),
        covered=tuple(apply_set_threshold(*measured, each) for each in about.set_thresholds),
        accuracy_by_coverage=accuracy_by_coverage(*measured),
        unlike=float(np.mean(np.array(likenesses) < lowest)) if likenesses and lowest is not None else None,
        own_test=about.test,
        compared="not" if used is None else "nearly" if used.trained_looks else "exactly",
        trained=len(overlap.trained),
        near=len(overlap.near),
        own_test_pictures=sum(index.pictures[row].path in evaluated for row in overlap.test),
        duplicates=sum(len(group) - 1 for group in duplicate_groups(index)),
        comes_split=any(picture.own_split for picture in index.pictures),
        problems=index.problems,
        wastetune=version("wastetune"),
    )
