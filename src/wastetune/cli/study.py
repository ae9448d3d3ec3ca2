"""`wastetune status`, `compare`, `sync` and `studies`."""

import json
from pathlib import Path

import click

from wastetune.cli.lookup import lookup_study, results_of
from wastetune.cli.options import results_option, storage_option, study_option, tracking_option
from wastetune.errors import UserError


@click.command()
@study_option
@storage_option
@click.option("--watch", is_flag=True, help="Repeat every two seconds, until Ctrl-C or the end of the study.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def status(study: str, storage: str, watch: bool, as_json: bool) -> None:
    """Show the progress of a study.

    Trials, workers, the best score so far, time left.

    \b
    Example:
      wastetune status --study inception_wid
      wastetune status --study inception_wid --json
    """
    import time

    from wastetune.tuning.workers.progress import describe_status, render_status

    found = lookup_study(study, storage)
    while True:
        status = describe_status(found)
        if watch and not as_json:
            click.clear()
        click.echo(json.dumps(status) if as_json else render_status(status))
        if not watch or (status["asked"] and status["finished"] >= status["asked"]):
            return
        try:
            time.sleep(2)
        except KeyboardInterrupt:
            return


@click.command()
@click.argument("studies", metavar="[STUDY]...", nargs=-1)
@results_option
@click.option(
    "--output",
    "-o",
    "outputs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Write the table to a .csv, .md or .html file as well; may be given several times.",
)
def compare(studies: tuple[str, ...], results: Path, outputs: tuple[Path, ...]) -> None:
    """Compare finished studies with each other.

    Published results for the same data are beside them. Without names, all studies that have a report in the results
    folder; a name may be a pattern.

    \b
    Example:
      wastetune compare
      wastetune compare 'inception_*' --output table.md --output table.html
    """
    from wastetune.report.comparison import check_suffix, compare_studies, render_text, write_table

    for path in outputs:
        check_suffix(path)
    rows = compare_studies(results, studies)
    click.echo(render_text(rows))
    for path in outputs:
        write_table(rows, path)
        click.echo(f"Written to {path}")


@click.command()
@study_option
@storage_option
@tracking_option
@results_option
def sync(study: str, storage: str, tracking_uri: str, results: Path) -> None:
    """Copy a study to MLflow again.

    Each trial becomes one run with its state, and wrong runs are deleted. `wastetune run` does this at its end;
    `wastetune worker` does not write to MLflow.

    \b
    Example:
      wastetune sync --study inception_wid
    """
    from wastetune.tracking.mlflow_mirror import sync_study
    from wastetune.tracking.mlflow_uri import check_uri, render_reason

    check_uri(tracking_uri)
    found = lookup_study(study, storage)
    try:
        changes = sync_study(found, tracking_uri, results_of(study, results).parent)
    except UserError:
        raise
    except Exception as error:  # whatever a database, a server or a network may raise
        raise UserError(
            f"MLflow does not answer ({render_reason(error, tracking_uri)}); check --tracking-uri, and sync again"
        ) from error
    click.echo(
        f"{found.study_name}: {changes.there + changes.copied} trials in MLflow, {changes.copied} of them copied now, "
        f"{changes.deleted} wrong ones deleted"
    )
    for sentence in filter(None, (changes.notice, changes.model)):
        click.echo(sentence)


@click.command()
def studies() -> None:
    """List the studies that can be run by name.

    \b
    Example:
      wastetune studies
    """
    from wastetune.tuning.spec import load_study, study_names

    for name in study_names():
        spec = load_study(name)
        click.echo(f"{name:28} {spec.question}")
