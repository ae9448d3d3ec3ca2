"""`wastetune evaluate`, `wastetune reproduce` and `wastetune doctor`."""

from pathlib import Path

import click

from wastetune.cli.lookup import lookup_study, model_path, pictures_of, results_of, study_file
from wastetune.cli.options import (
    bundle_option,
    data_option,
    model_study_option,
    results_option,
    seed_option,
    storage_option,
    study_option,
    tracking_option,
    weights_option,
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
@storage_option
@data_option
@results_option
def evaluate(
    pictures: Path,
    study: str | None,
    bundle: Path | None,
    table: Path | None,
    output: Path | None,
    storage: str,
    folder: Path,
    results: Path,
) -> None:
    """Evaluate a model on any labelled folder.

    The folder has one subfolder of pictures per class; one class is enough. Classes are matched by name, or by the
    table --classes; an empty model_class leaves a class out. Averages are over the classes that the folder has.
    Pictures that the model was trained on are left out. The scores are printed and written as report.html, report.md,
    report.json and predictions.csv.

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
        dataset=_dataset_of(study, storage, folder, results),
        data=folder,
        results=results,
        output=output,
        console=console,
    )
    console.print()
    console.print(render_text(evaluation))
    console.print(f"Written to {written}: report.md, report.html, report.json, predictions.csv")


def _dataset_of(study: str | None, storage: str, folder: Path, results: Path) -> str | None:
    try:
        return None if study is None else str(pictures_of(study, storage, folder, results).resolve())
    except UserError:  # results that came from elsewhere, without the pictures
        return None


@click.command()
@study_option
@click.option("--trial", type=click.IntRange(min=0), metavar="N", help="The trial to fit again.")
@click.option("--final", is_flag=True, help="Fit the final model again, and compare its test scores.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="The largest difference of a score that counts as the same.",
)
@storage_option
@data_option
@weights_option
@results_option
@seed_option
def reproduce(
    study: str,
    trial: int | None,
    final: bool,
    tolerance: float,
    storage: str,
    folder: Path,
    weights: str | None,
    results: Path,
    seed: int | None,
) -> None:
    """Fit a trial or the final model again, and compare.

    It says whether the score is the same, or what differs. Pictures, settings, weights, versions and runtime are
    compared with those of then; a difference does not stop it. Nothing is written to the study or its results. The exit
    status is 0 where the score is the same, else 1.

    \b
    Example:
      wastetune reproduce --study mobilenet_small_trashnet --trial 17
      wastetune reproduce --study mobilenet_small_trashnet --final
    """
    if (trial is None) == (not final):
        raise UserError("say what to reproduce: either --trial N or --final")

    from wastetune.console import open_console
    from wastetune.tuning.spec import changed_study

    spec, weights_folder = changed_study(study_file(study, storage, results), seed=seed, weights=weights)
    found = lookup_study(study, storage)

    from wastetune.checks.reproduce import find_trial, render_reproduction, reproduce_final, reproduce_trial
    from wastetune.tuning.prepare import prepare_study

    console, home = open_console(), results_of(study, results)
    if trial is not None:
        find_trial(found, trial)  # a mistake is reported before the pictures are read
    prepared = prepare_study(spec, data=folder, weights=weights_folder, console=console)
    if trial is None:
        reproduction = reproduce_final(found, prepared, home, console)
    else:
        reproduction = reproduce_trial(found, prepared, trial, home, console)
    console.print(render_reproduction(reproduction, tolerance))
    if not reproduction.is_same(tolerance):
        click.get_current_context().exit(1)


@click.command()
@storage_option
@tracking_option
@data_option
@weights_option
@results_option
def doctor(storage: str, tracking_uri: str, folder: Path, weights: str | None, results: Path) -> None:
    """Say what is installed, where things are, and what is wrong.

    Versions, GPU and runtime; data sets, weights, cache, results and databases, each with its size; and what is wrong,
    each with what to do. Nothing is made, changed or downloaded. The exit status is 0 where nothing is wrong, else 1.

    \b
    Example:
      wastetune doctor
      wastetune doctor --storage postgresql+psycopg://me:secret@db/studies
    """
    from wastetune.checks.doctor import examine, render_findings
    from wastetune.settings import Locations

    own = None if weights in (None, "", "none") else Path(str(weights)).expanduser()
    findings = list(examine(Locations(storage, tracking_uri, results, folder, own)))
    click.echo(render_findings(findings))
    if any(finding.problem for finding in findings):
        click.get_current_context().exit(1)
