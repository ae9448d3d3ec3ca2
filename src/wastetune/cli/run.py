"""`wastetune run` and `wastetune worker`."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wastetune.cli.options import (
    data_option,
    renew_option,
    results_option,
    seed_option,
    storage_option,
    study_option,
    tracking_option,
    weights_option,
)
from wastetune.errors import UserError, render_os_error
from wastetune.settings import Locations, check_results

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command()
@click.option(
    "--study",
    required=True,
    metavar="NAME|PATH|PATTERN",
    help="A study's name, the path of its .toml file, or a pattern: all studies whose names match, one after another.",
)
@click.option("--trials", type=click.IntRange(min=1), help="The number of finished trials, over all runs together.")
@storage_option
@tracking_option
@data_option
@weights_option
@results_option
@seed_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Start no trial after so many seconds; then retrain, unless --no-retrain.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Have the report after about so many seconds: search no longer than leaves time to retrain.",
)
@click.option(
    "--no-retrain", is_flag=True, help="Only search: do not retrain the winner, and leave the test set sealed."
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Run the trials in N more processes; 0: only wait for workers elsewhere. Default: run them in this one.",
)
@renew_option
def run(
    study: str,
    trials: int | None,
    storage: str,
    tracking_uri: str,
    folder: Path,
    weights: str | None,
    results: Path,
    seed: int | None,
    timeout: float | None,
    time_limit: float | None,
    no_retrain: bool,
    workers: int | None,
    renew_after: int,
) -> None:
    """Run a study: search, final model, report on the test set.

    Running it again resumes the study and computes nothing twice. With a pattern, a study that cannot run is reported
    and the others go on; the table of `wastetune compare` follows at the end.

    \b
    Example:
      wastetune run --study mobilenet_small_trashnet --trials 30
      wastetune run --study my_study.toml --data ~/pictures --weights ~/weights --timeout 3600
      wastetune run --study my_study.toml --time-limit 600
      wastetune run --study inception_wid --workers 4
      wastetune run --study 'inception_*' --trials 30
    """
    began = time.monotonic()  # Keras alone takes seconds to import
    from wastetune.console import open_console
    from wastetune.tuning.spec import changed_study, is_pattern, matching_studies

    several = matching_studies(study) if is_pattern(study) else None
    # A mistake is reported before anything heavy is imported.
    first = None if several else changed_study(study, trials=trials, seed=seed, weights=weights)
    check_results(results)

    from wastetune.report.text import render_report
    from wastetune.signals import exit_process, raise_on_signals
    from wastetune.study.run import run_study

    console = open_console()
    if time_limit is not None:
        time_limit = max(time_limit - (time.monotonic() - began), 0.0)

    def run_one(name: str) -> bool:
        spec, weights_folder = first or changed_study(name, trials=trials, seed=seed, weights=weights)
        locations = Locations(storage, tracking_uri, results, folder, weights_folder)
        with raise_on_signals():
            report = run_study(
                spec,
                locations,
                console,
                timeout=timeout,
                time_limit=time_limit,
                final=not no_retrain,
                workers=workers,
                renew_after=renew_after,
            )
        if report is not None:
            console.print()
            console.print(render_report(report))
            written = "report.md, report.html, report.json, confusion_matrix.png, predictions.csv, split.csv, bundle/"
            console.print(f"Written to {results / spec.name}: {written}")
        return report is not None

    try:
        if several is None:
            run_one(study)
        else:
            _run_each(several, run_one, results)
    except KeyboardInterrupt:
        click.echo(
            f"\nstopped; what is finished is kept. Go on with:\n  {_same_command(storage, tracking_uri)}",
            err=True,
        )
        exit_process(130)


@click.command()
@study_option
@storage_option
@data_option
@weights_option
@seed_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Start no trial after so many seconds.",
)
@renew_option
def worker(
    study: str,
    storage: str,
    folder: Path,
    weights: str | None,
    seed: int | None,
    timeout: float | None,
    renew_after: int,
) -> None:
    """Run trials of a study together with other workers.

    They may be on other machines. It ends when the study has its trials.

    All workers need the same study file, pictures, weights and version of wastetune; a worker that differs is refused.
    The number of trials is that of `wastetune run`, or of the study file. Ctrl-C and SIGTERM hand the running trial
    back.

    \b
    Example:
      wastetune worker --study inception_wid --storage postgresql+psycopg://me:secret@db/studies
    """
    from wastetune.signals import exit_process, raise_on_signals

    try:
        with raise_on_signals() as check:
            from wastetune.console import open_console
            from wastetune.study.run import run_one_worker
            from wastetune.tuning.spec import changed_study
            from wastetune.tuning.workers.processes import parent_process, restart_process

            spec, weights_folder = changed_study(study, seed=seed, weights=weights)
            locations = Locations(storage, "", Path(), folder, weights_folder)
            console = open_console(bars=parent_process() is None)
            try:
                again = run_one_worker(spec, locations, console, timeout=timeout, renew_after=renew_after, check=check)
            except Exception:
                check()  # an import or a compilation that was interrupted raises anything
                raise
    except KeyboardInterrupt:
        click.echo("stopped; the trial in hand was handed back", err=True)
        exit_process(0)
    if again:
        restart_process()


def _run_each(names: tuple[str, ...], run_one: "Callable[[str], bool]", results: Path) -> None:
    """Runs studies one after another and compares them. UserError where some could not be run."""
    from wastetune.report.comparison import compare_studies, render_text

    done, failed = [], []
    for number, name in enumerate(names, start=1):
        click.echo(f"\n{name} ({number} of {len(names)})")
        try:
            if run_one(name):
                done.append(name)
        except (UserError, OSError) as error:
            reason = render_os_error(error) if isinstance(error, OSError) else str(error)
            click.echo(f"error: {name}: {reason}", err=True)
            failed.append(name)
    if done:
        click.echo(f"\n{render_text(compare_studies(results, done))}")
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} studies could not be run: {', '.join(failed)}")


def _same_command(*urls: str) -> str:
    """The command line of this process, without passwords."""
    from wastetune.storage.database import hide_password

    words = ["wastetune", *sys.argv[1:]]
    for url in urls:
        words = [word.replace(url, hide_password(url)) for word in words]
    return shlex.join(words)
