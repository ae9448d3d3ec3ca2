"""`wastetune evaluate` and `wastetune reproduce`."""

from pathlib import Path

import click

from wastetune.cli.lookup import model_path
from wastetune.cli.options import (
    bundle_option,
    data_option,
    model_study_option,
    results_option,
)
from wastetune.errors import UserError


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path), metavar="FOLDER")
@model_study_option
@bundle_option
@click.option(
    "--classes",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A CSV file with the columns folder_class,model_class, for classes whose names differ.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where to write. Left out: evaluations/NAME in the study's results.",
)
@data_option
@results_option
def evaluate(
    pictures: Path,
    study: str | None,
    bundle: Path | None,
    table: Path | None,
    output: Path | None,
    folder: Path,
    results: Path,
) -> None:
    """Evaluate a model on any labelled folder: one subfolder of pictures per class, one class is enough.

    Classes are matched by name, or by the table --classes; an empty model_class leaves a class out. Averages are over
    the classes that the folder has. Pictures that the model was trained on are left out. The scores are printed and
    written as report.html, report.md, report.json and predictions.csv.

    \b
    Example:
      wastetune evaluate --study mobilenet_small_trashnet photos_of_plant_2
      wastetune evaluate --bundle model.onnx photos_of_plant_2 --classes classes.csv --output plant_2
    """
    path = model_path(study, bundle, results)

    from wastetune.checks.evaluate import evaluate_folder
    from wastetune.checks.evaluation import render_text
    from wastetune.console import open_console

    console = open_console()
    evaluation, written = evaluate_folder(
        path,
        pictures,
        table=table,
        dataset=_dataset_of(study),
        data=folder,
        results=results,
        output=output,
        console=console,
    )
    console.print()
    console.print(render_text(evaluation))
    console.print(f"Written to {written}: report.md, report.html, report.json, predictions.csv")


def _dataset_of(study: str | None) -> str | None:
    from wastetune.study.spec import load_study

    try:
        return None if study is None else load_study(study).dataset
    except UserError:  # results that came from elsewhere, without the study's file
        return None
