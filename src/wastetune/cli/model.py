"""`wastetune predict` and `wastetune export`."""

import math
import sys
from pathlib import Path

import click

from wastetune.cli.lookup import lookup_study, model_path, pictures_of
from wastetune.cli.options import (
    bundle_option,
    data_option,
    model_study_option,
    precision_option,
    results_option,
    storage_option,
    study_option,
    tracking_option,
)
from wastetune.errors import UserError


@click.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE|FOLDER|GLOB...")
@model_study_option
@bundle_option
@results_option
@precision_option
@click.option(
    "--coverage",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Name a set of classes, too, that holds the true one so often, e.g. 95.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="A CSV table, with the probability of each class.")
def predict(
    pictures: tuple[str, ...],
    study: str | None,
    bundle: Path | None,
    results: Path,
    precision: float | None,
    coverage: float | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Classify pictures.

    The most probable class, its probability, the next two classes. A picture that cannot be read gets a line of its own
    and does not stop the others; the exit status is then 1.

    \b
    Example:
      wastetune predict --study inception_wid photo.jpg new_photos/
      wastetune predict --study inception_wid new_photos/ --precision 95
      wastetune predict --bundle results/inception_wid/bundle 'bin_3/*.jpg' --csv > bin_3.csv
    """
    if as_json and as_csv:
        raise UserError("--json and --csv ask for two forms at once; name one of them")
    path = model_path(study, bundle, results)

    from wastetune.console import open_console
    from wastetune.models.answers import choose_rule
    from wastetune.models.loading import open_model
    from wastetune.models.predict import find_pictures, predict_files, render_csv, render_json, render_text

    paths = find_pictures(pictures)
    render = render_json if as_json else render_csv if as_csv else render_text
    model = open_model(path)
    rule = choose_rule(model.about, precision=precision, coverage=coverage)
    problems = 0
    # A bar on the screen does not mix with lines that go there, and a few pictures need none.
    quiet = sys.stdout.isatty() or len(paths) < 100
    console = open_console(stderr=True, quiet=quiet)
    with console.bar("predicting", len(paths)) as advance:
        for line, said in render(model, predict_files(model, paths), rule):
            click.echo(line)
            problems += said is not None and bool(said.problem)
            advance(said is not None)
    if problems:
        click.echo(f"{problems} of {len(paths)} could not be read", err=True)
        click.get_current_context().exit(1)


@click.command()
@study_option
@click.option(
    "--format",
    "formats",
    type=click.Choice(["keras", "onnx", "litert", "litert-int8", "savedmodel"]),
    multiple=True,
    required=True,
    help="What to write; may be given several times.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    metavar="F1",
    help="The most macro F1 that an export may lose on the test pictures; one that loses more is deleted.",
)
@storage_option
@tracking_option
@data_option
@results_option
def export(
    study: str,
    formats: tuple[str, ...],
    max_loss: float,
    storage: str,
    tracking_uri: str,
    folder: Path,
    results: Path,
) -> None:
    """Write a study's model in another format, and check it.

    The file takes pixels and gives probabilities. It is written to `export` in the study's results and predicts the
    test pictures: the difference of its probabilities from the original's, the number of pictures that keep their
    class, its size, and the time per picture are printed, written to export.json and logged to MLflow. A file that
    differs too much, or loses more macro F1 than --max-loss allows, is deleted, and the exit status is 2. Each file
    contains classes and scores.

    \b
    Example:
      wastetune export --study inception_wid --format onnx
      wastetune export --study inception_wid --format litert --format litert-int8 --max-loss 0.03
    """
    place = model_path(study, None, results).parent
    pictures = pictures_of(study, storage, folder, results)

    from wastetune.models.parity import export_study, refused, render_checks, render_losses

    checks = export_study(place, pictures, formats, click.echo, max_loss=max_loss)
    click.echo("\n" + "\n".join(render_checks(checks)))
    lost = refused(checks, max_loss)
    if kept := [check.file for check in checks[1:] if check not in lost]:
        click.echo(f"Written to {place / 'export'}: {', '.join(kept)}, export.json")
    for sentence in render_losses(checks, max_loss):
        click.echo(sentence)

    from wastetune.tracking.mlflow_mirror import log_exports
    from wastetune.tracking.mlflow_uri import render_reason

    try:
        log_exports(lookup_study(study, storage), tracking_uri, place)
    except UserError as error:
        click.echo(f"not logged to MLflow: {error}")
    except Exception as error:  # whatever a database, a server or a network may raise
        click.echo(f"not logged to MLflow, which does not answer ({render_reason(error, tracking_uri)})")
    if lost:
        allow = math.ceil(max(check.f1_macro_lost for check in lost) * 100) / 100
        raise UserError(
            f"{', '.join(check.format for check in lost)}: more macro F1 is lost than the {max_loss:g} that is "
            f"allowed; export to another format, or allow it with --max-loss {allow:g}"
        )
