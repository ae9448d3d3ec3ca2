"""The commands."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wastetune import __version__
from wastetune.errors import UserError
from wastetune.places import DATA, ONLY_HERE, RESULTS, STORAGE, TRACKING, WEIGHTS, Places, check_results
from wastetune.terminal import hush_tensorflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import optuna

_data_option = click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(DATA.value),
    show_default=True,
    envvar=DATA.variable,
    metavar="FOLDER",
    help="A folder of data sets.",
)


_study_option = click.option(
    "--study", required=True, metavar="NAME|PATH", help="A study's name, or the path of its .toml file."
)
_storage_option = click.option(
    "--storage",
    default=STORAGE.value,
    envvar=STORAGE.variable,
    show_default=True,
    metavar="URL",
    help="The study database.",
)
_tracking_option = click.option(
    "--tracking-uri",
    default=TRACKING.value,
    envvar=TRACKING.variable,
    show_default=True,
    metavar="URI",
    help="The MLflow store.",
)
_weights_option = click.option(
    "--weights",
    envvar=WEIGHTS.variable,
    metavar="FOLDER|FILE|none",
    help="A folder of weights files, searched before Keras's download; a file; or none.",
)
_results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path(RESULTS.value),
    show_default=True,
    metavar="FOLDER",
    help="Where reports and models go.",
)
_model_study_option = click.option(
    "--study", metavar="NAME|PATH", help="A study whose model it is: the one in its results folder."
)
_bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE",
    help="A model instead: a study's bundle, or what `wastetune export` made.",
)
_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Another seed than the study's, for another split and search."
)
_renew_option = click.option(
    "--renew-after",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="Renew a worker process after N trials that trained a part of the backbone: they leave memory behind.",
)


class _Commands(click.Group):
    """Commands whose mistakes are told in a sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UserError as error:
            reason = str(error)
        except BrokenPipeError:  # `| head` has seen enough; click knows what to do
            raise
        except OSError as error:  # a full disk, a folder that may not be written to
            reason = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        except ModuleNotFoundError as error:  # where only what `serve` takes is installed
            reason = f"this command needs {error.name}, which is not installed; pip install wastetune"
        click.echo(f"error: {reason}", err=True)
        return ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Find the best transfer-learning classifier for a folder of pictures, and an honest number for it.

    \b
    Example:
      wastetune data sample demo/pictures
      wastetune run --study demo
    """
    hush_tensorflow()


@main.command()
@click.option(
    "--study",
    required=True,
    metavar="NAME|PATH|PATTERN",
    help="A study's name, the path of its .toml file, or a pattern: all studies whose names match, one after another.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), help="Finished trials the study shall have, in all runs together."
)
@_storage_option
@_tracking_option
@_data_option
@_weights_option
@_results_option
@_seed_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Begin no trial after so many seconds; then retrain, unless --no-retrain.",
)
@click.option(
    "--no-retrain", is_flag=True, help="Only search: do not retrain the winner and leave the test set sealed."
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Run the trials in N processes beside this one; 0: only wait for workers elsewhere. Left out: in this one.",
)
@_renew_option
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
    no_retrain: bool,
    workers: int | None,
    renew_after: int,
) -> None:
    """Run a study: search, retrain the best configuration, report on the sealed test set.

    Running it again goes on where it stopped, and computes nothing twice. Of the studies of a pattern, one that
    cannot run is told and the others go on; at the end stands the table of `wastetune compare`.

    \b
    Example:
      wastetune run --study mobilenet_small_trashnet --trials 30
      wastetune run --study my_study.toml --data ~/pictures --weights ~/weights --timeout 3600
      wastetune run --study inception_wid --workers 4
      wastetune run --study 'inception_*' --trials 30
    """
    from wastetune.spec import changed_study, is_pattern, matching_studies
    from wastetune.terminal import open_terminal

    several = matching_studies(study) if is_pattern(study) else None
    # One mistake is told before anything heavy is imported.
    first = None if several else changed_study(study, trials=trials, seed=seed, weights=weights)
    check_results(results)

    from wastetune.interrupts import heeded_interrupts, leave
    from wastetune.report import render_report
    from wastetune.run import run_study

    terminal = open_terminal()

    def run_one(name: str) -> bool:
        spec, weights_folder = first or changed_study(name, trials=trials, seed=seed, weights=weights)
        places = Places(storage, tracking_uri, results, folder, weights_folder)
        with heeded_interrupts():
            report = run_study(
                spec,
                places,
                terminal,
                timeout=timeout,
                final=not no_retrain,
                workers=workers,
                renew_after=renew_after,
            )
        if report is not None:
            terminal.say()
            terminal.say(render_report(report))
            written = "report.md, report.html, report.json, confusion_matrix.png, predictions.csv, split.csv, bundle/"
            terminal.say(f"Written to {results / spec.name}: {written}")
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
        leave(130)


@main.command()
@_study_option
@_storage_option
@_data_option
@_weights_option
@_seed_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Begin no trial after so many seconds.",
)
@_renew_option
def worker(
    study: str,
    storage: str,
    folder: Path,
    weights: str | None,
    seed: int | None,
    timeout: float | None,
    renew_after: int,
) -> None:
    """Work on a study beside others, here or on other machines, until it has its trials.

    All need the same study file, pictures, weights and version of wastetune, and say what differs. The number of
    trials is that of `wastetune run`, or of the study's file. Ctrl-C and SIGTERM hand the trial in hand back.

    \b
    Example:
      wastetune worker --study inception_wid --storage postgresql+psycopg://me:secret@db/studies
    """
    from wastetune.interrupts import heeded_interrupts, leave

    try:
        with heeded_interrupts() as check:
            from wastetune.launch import parent_process, renew_process
            from wastetune.run import run_one_worker
            from wastetune.spec import changed_study
            from wastetune.terminal import open_terminal

            spec, weights_folder = changed_study(study, seed=seed, weights=weights)
            places = Places(storage, "", Path(), folder, weights_folder)
            terminal = open_terminal(bars=parent_process() is None)
            try:
                again = run_one_worker(spec, places, terminal, timeout=timeout, renew_after=renew_after, check=check)
            except Exception:
                check()  # an import or a compilation that was interrupted raises anything
                raise
    except KeyboardInterrupt:
        click.echo("stopped; the trial in hand was handed back", err=True)
        leave(0)
    if again:
        renew_process()


@main.command()
@_study_option
@_storage_option
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C or the end of the study.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def status(study: str, storage: str, watch: bool, as_json: bool) -> None:
    """Say how a study stands: trials, workers, the best so far, time left.

    \b
    Example:
      wastetune status --study inception_wid
      wastetune status --study inception_wid --json
    """
    import time

    from wastetune.status import describe_status, render_status

    found = _find_study(study, storage)
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


@main.command()
@click.argument("studies", metavar="[STUDY]...", nargs=-1)
@_results_option
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
    """Put finished studies side by side, with what others have published for the same data.

    Without names, all that have a report in the results folder; a name may be a pattern.

    \b
    Example:
      wastetune compare
      wastetune compare 'inception_*' --output table.md --output table.html
    """
    from wastetune.compare import check_suffix, compare_studies, render_text, write_table

    for path in outputs:
        check_suffix(path)
    rows = compare_studies(results, studies)
    click.echo(render_text(rows))
    for path in outputs:
        write_table(rows, path)
        click.echo(f"Written to {path}")


@main.command()
@_study_option
@_storage_option
@_tracking_option
@_results_option
def sync(study: str, storage: str, tracking_uri: str, results: Path) -> None:
    """Bring MLflow to what the study database says: each trial one run, in its state, and nothing else.

    `wastetune run` ends with this; workers alone do not talk to MLflow.

    \b
    Example:
      wastetune sync --study inception_wid
    """
    from wastetune import tracking
    from wastetune.run import sync_study

    tracking.check_uri(tracking_uri)
    found = _find_study(study, storage)
    try:
        changes = sync_study(found, tracking_uri, results)
    except UserError:
        raise
    except Exception as error:  # whatever a database, a server or a network may raise
        raise UserError(
            f"MLflow does not answer ({tracking.render_reason(error, tracking_uri)}); "
            "check --tracking-uri, and sync again"
        ) from error
    click.echo(
        f"{found.study_name}: {changes.there + changes.copied} trials in MLflow, {changes.copied} of them copied now, "
        f"{changes.deleted} wrong ones deleted"
    )
    if changes.model:
        click.echo(changes.model)


@main.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE|FOLDER|GLOB...")
@_model_study_option
@_bundle_option
@_results_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="A CSV table, with the probability of each class.")
def predict(
    pictures: tuple[str, ...], study: str | None, bundle: Path | None, results: Path, as_json: bool, as_csv: bool
) -> None:
    """Say what is on pictures: the most probable class, its probability, the next two.

    A picture that cannot be read has its own line and stops nothing; the exit status is then 1.

    \b
    Example:
      wastetune predict --study inception_wid photo.jpg new_photos/
      wastetune predict --bundle results/inception_wid/bundle 'bin_3/*.jpg' --csv > bin_3.csv
    """
    if as_json and as_csv:
        raise UserError("--json and --csv ask for two forms at once; name one of them")
    path = _model_path(study, bundle, results)

    from wastetune.models import open_model
    from wastetune.predictor import find_pictures, predict_files, render_csv, render_json, render_text
    from wastetune.terminal import open_terminal

    paths = find_pictures(pictures)
    render = render_json if as_json else render_csv if as_csv else render_text
    model = open_model(path)
    problems = 0
    # A bar on the screen does not mix with lines that go there, and a few pictures need none.
    quiet = sys.stdout.isatty() or len(paths) < 100
    terminal = open_terminal(stderr=True, quiet=quiet)
    with terminal.bar("predicting", len(paths)) as advance:
        for line, said in render(model, predict_files(model, paths)):
            click.echo(line)
            problems += said is not None and bool(said.problem)
            advance(said is not None)
    if problems:
        click.echo(f"{problems} of {len(paths)} could not be read", err=True)
        click.get_current_context().exit(1)


@main.command()
@_study_option
@click.option(
    "--format",
    "formats",
    type=click.Choice(["keras", "onnx", "litert", "litert-int8", "savedmodel"]),
    multiple=True,
    required=True,
    help="What to write; may be given several times.",
)
@_storage_option
@_tracking_option
@_data_option
@_results_option
def export(study: str, formats: tuple[str, ...], storage: str, tracking_uri: str, folder: Path, results: Path) -> None:
    """Write a study's model in another format, from pixels to probabilities, and check it on the test pictures.

    It goes to `export` in the study's results. How much probabilities differ from the original's, how many pictures
    keep their class, size, and the time that one picture takes are printed, kept in export.json and logged to MLflow;
    too large a difference is an error. Classes and scores are inside each file.

    \b
    Example:
      wastetune export --study inception_wid --format onnx
      wastetune export --study inception_wid --format litert --format litert-int8
    """
    from wastetune.data.sources import find_dataset
    from wastetune.spec import load_study

    spec = load_study(study)
    place = _model_path(study, None, results).parent
    pictures = find_dataset(spec.dataset, folder)

    from wastetune.checks import export_study, render_checks

    checks = export_study(place, pictures, formats, click.echo)
    click.echo("\n" + "\n".join(render_checks(checks)))
    click.echo(f"Written to {place / 'export'}: {', '.join(check.file for check in checks[1:])}, export.json")

    from wastetune import tracking
    from wastetune.run import log_exports

    try:
        log_exports(_find_study(study, storage), tracking_uri, place)
    except UserError as error:
        click.echo(f"not logged to MLflow: {error}")
    except Exception as error:  # whatever a database, a server or a network may raise
        click.echo(f"not logged to MLflow, which does not answer ({tracking.render_reason(error, tracking_uri)})")


@main.command()
@_study_option
@_storage_option
@_tracking_option
@_results_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; neither asks for a password.")
@click.option("--port", type=click.IntRange(1, 65535), help="The dashboard's port. Left out: a free one.")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help="MLflow's port. Left out: a free one.")
@click.option("--open", "open_browser", is_flag=True, help="Open both in the browser.")
def ui(
    study: str,
    storage: str,
    tracking_uri: str,
    results: Path,
    host: str,
    port: int | None,
    mlflow_port: int | None,
    open_browser: bool,
) -> None:
    """Show a study: its trials in the Optuna dashboard, its runs and models in the MLflow UI. Ctrl-C stops both.

    It may still be running. Each trial has a note there with its learning curve and its confusion matrix.

    \b
    Example:
      wastetune ui --study mobilenet_small_trashnet
      wastetune ui --study demo --port 8080 --mlflow-port 5000 --open
    """
    from wastetune.interrupts import heeded_interrupts

    try:
        with heeded_interrupts():
            from wastetune.tracking import check_store
            from wastetune.ui import served_study

            found = _find_study(study, storage)
            check_store(tracking_uri)
            if host not in ONLY_HERE:
                click.echo(
                    f"warning: neither asks for a password; whoever reaches {host} may change and delete this study",
                    err=True,
                )
            with served_study(
                found, tracking_uri, results, host=host, port=port or 0, mlflow_port=mlflow_port or 0
            ) as (addresses, wait):
                click.echo(f"Optuna dashboard  {addresses.dashboard}")
                click.echo(f"MLflow            {addresses.mlflow}")
                if not addresses.mirrored:
                    click.echo(f"(MLflow has nothing of this study yet: wastetune sync --study {study})")
                report = results / found.study_name / "report.html"
                if report.is_file():
                    click.echo(f"Report            {report.resolve().as_uri()}")
                click.echo("Ctrl-C stops both")
                for address in (addresses.dashboard, addresses.mlflow) if open_browser else ():
                    click.launch(address)
                wait()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@main.command()
@_model_study_option
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE",
    help="A model instead: an .onnx file, or a folder with model.onnx in it.",
)
@_results_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--api-key",
    envvar="WASTETUNE_API_KEY",
    show_envvar=True,
    help="Who does not send it as X-API-Key may not predict. Other users see command lines: use the variable.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one run. Left out: one for each core.")
@click.option("--max-mb", type=click.IntRange(min=1), default=32, show_default=True, help="Megabytes of a request.")
@click.option(
    "--max-megapixels", type=click.IntRange(1, 80), default=50, show_default=True, help="Millions of pixels a picture."
)
@click.option("--max-files", type=click.IntRange(min=1), default=32, show_default=True, help="Files of a request.")
@click.option(
    "--queue", type=click.IntRange(min=1), default=256, show_default=True, help="Pictures in hand; past it, status 503."
)
def serve(
    study: str | None,
    bundle: Path | None,
    results: Path,
    host: str,
    port: int,
    api_key: str | None,
    threads: int | None,
    max_mb: int,
    max_megapixels: int,
    max_files: int,
    queue: int,
) -> None:
    """Serve a model over HTTP, from its ONNX export, until Ctrl-C: POST /predict, GET /model, and /docs for the rest.

    \b
    Example:
      wastetune export --study inception_wid --format onnx
      wastetune serve --study inception_wid
      curl -F files=@photo.jpg http://127.0.0.1:8000/predict
    """
    file = _onnx_file(study, bundle, results)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip() != ""):
        raise UserError("the API key travels in a header: name one of ASCII letters, digits and signs")
    try:
        from wastetune.serve.api import Limits
        from wastetune.serve.server import serve_model
    except ImportError as error:
        raise UserError(f"serving needs more packages ({error}); pip install 'wastetune[serve]'") from None
    from wastetune.interrupts import heeded_interrupts
    from wastetune.models import open_model

    if host not in ONLY_HERE and not api_key:
        click.echo(f"warning: whoever reaches {host} may predict; --api-key asks for a key", err=True)
    if queue < max_files:
        raise UserError(f"--queue {queue} is less than --max-files {max_files}: such a request would never be taken")
    limits = Limits(bytes=max_mb * 2**20, pixels=max_megapixels * 10**6, files=max_files, places=queue)
    try:
        with heeded_interrupts():
            model = open_model(file, threads=threads)
            if study is not None:
                _check_export(file, model.about, _model_path(study, bundle, results), study)
            serve_model(
                model,
                host=host,
                port=port,
                key=api_key,
                limits=limits,
                say=lambda address: click.echo(
                    f"{address}/predict takes pictures; {address}/docs says how. Ctrl-C ends"
                ),
            )
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@main.command()
@_study_option
@_results_option
@_data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; it asks for no password.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Left out: a free one.")
@click.option("--open", "open_browser", is_flag=True, help="Open it in the browser.")
def app(study: str, results: Path, folder: Path, host: str, port: int, open_browser: bool) -> None:
    """Show a study's model in the browser, until Ctrl-C: give it a photo, see what it says and why.

    Beside the answer stand where the model looked and the training pictures that it finds most like the photo, if
    they are here; on the second page the study's report. Photos do not leave this machine.

    \b
    Example:
      wastetune app --study mobilenet_small_trashnet
      wastetune app --study my_study --port 8501 --open
    """
    place = _model_path(study, None, results).parent
    from wastetune.interrupts import heeded_interrupts
    from wastetune.spec import load_study

    try:
        dataset = load_study(study).dataset
    except UserError:  # results that came from elsewhere, without the study's file
        dataset = None
    if host not in ONLY_HERE:
        click.echo(f"warning: whoever reaches {host} sees the report and pictures of the data set", err=True)

    def say(address: str) -> None:
        click.echo(f"{address} shows {place.name}. Ctrl-C ends")
        if open_browser:
            click.launch(address)

    try:
        with heeded_interrupts():
            try:
                from wastetune.serve.showing import serve_app
            except ImportError as error:
                raise UserError(
                    f"wastetune app needs Streamlit ({error}); install it: pip install 'wastetune[app]'"
                ) from None
            serve_app(place, folder, dataset, host=host, port=port, say=say)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@main.command()
@_storage_option
@click.option("--host", default="localhost", show_default=True, help="Where to listen; whoever gets there may write.")
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True, help="Where to listen.")
def proxy(storage: str, host: str, port: int) -> None:
    """Stand between hundreds of workers and one study database (Optuna's gRPC proxy).

    Workers say `--storage grpc://HOST:PORT`. The channel is neither encrypted nor protected by a password.

    \b
    Example:
      wastetune proxy --storage postgresql+psycopg://me:secret@db/studies --host 0.0.0.0
    """
    from wastetune.database import serve_proxy

    try:
        serve_proxy(storage, host, port, lambda: click.echo(f"listening at {host}:{port}"))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@main.command()
def studies() -> None:
    """List the studies that can be run by name.

    \b
    Example:
      wastetune studies
    """
    from wastetune.spec import load_study, study_names

    for name in study_names():
        spec = load_study(name)
        click.echo(f"{name:28} {spec.question}")


@main.group()
def data() -> None:
    """Known data sets and folders of pictures.

    \b
    Example:
      wastetune data check data/trashnet
    """


@data.command("list")
@_data_option
def list_(folder: Path) -> None:
    """List the known data sets: what they hold, where they come from, whether they are here.

    \b
    Example:
      wastetune data list
    """
    from wastetune.data.sources import SOURCES

    for source in SOURCES:
        here = "here" if (folder / source.name).is_dir() else "fetch" if source.url else "by hand"
        click.echo(
            f"{source.name:10} {here:8} {source.total:6,} pictures, {len(source.classes)} classes  {source.title}"
        )
        click.echo(f"{'':19} {source.licence}  {source.page}")


@data.command()
@click.argument("name")
@_data_option
def fetch(name: str, folder: Path) -> None:
    """Download a known data set.

    \b
    Example:
      wastetune data fetch trashnet
    """
    from wastetune.data.sources import fetch_dataset

    with click.progressbar(length=0, label=name) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        place = fetch_dataset(name, folder, progress=progress)
    click.echo(f"{name} is in {place}")


@data.command()
@click.argument("dataset")
@_data_option
def check(dataset: str, folder: Path) -> None:
    """Say what is in a data set, known by name or by its folder, and what is wrong with it.

    \b
    Example:
      wastetune data check data/trashnet
    """
    from wastetune.data.index import contradictions, duplicate_groups, index_folder, lookalike_groups
    from wastetune.data.sources import find_dataset

    index = index_folder(find_dataset(dataset, folder))
    click.echo(f"{index.folder}: {len(index.pictures):,} pictures in {len(index.classes)} classes")
    for label, name in enumerate(index.classes):
        click.echo(f"  {sum(picture.label == label for picture in index.pictures):7,}  {name}")
    _list_all("left out", [f"{problem.path}: {problem.what}" for problem in index.problems])
    _list_all("the same picture twice", [_paths(group) for group in duplicate_groups(index)])
    _list_all("nearly the same picture", [_paths(group) for group in lookalike_groups(index)])
    _list_all("the same picture in two classes", [_paths(group) for group in contradictions(index)])


@data.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("demo/pictures"))
@click.option("--per-class", type=click.IntRange(min=5), default=60, show_default=True, help="Pictures of each class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other pictures.")
def sample(folder: Path, per_class: int, seed: int) -> None:
    """Generate a small data set of drawn pictures, for demos and tests.

    \b
    Example:
      wastetune data sample demo/pictures
    """
    from wastetune.data.sample import write_sample

    click.echo(f"{write_sample(folder, per_class=per_class, seed=seed)}: a data set of drawn pictures")


def _run_each(names: tuple[str, ...], run_one: "Callable[[str], bool]", results: Path) -> None:
    """Runs studies one after another and puts them side by side. UserError where some could not be run."""
    from wastetune.compare import compare_studies, render_text

    done, failed = [], []
    for number, name in enumerate(names, start=1):
        click.echo(f"\n{name} ({number} of {len(names)})")
        try:
            if run_one(name):
                done.append(name)
        except (UserError, OSError) as error:
            click.echo(f"error: {name}: {error}", err=True)
            failed.append(name)
    if done:
        click.echo(f"\n{render_text(compare_studies(results, done))}")
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} studies could not be run: {', '.join(failed)}")


def _onnx_file(study: str | None, bundle: Path | None, results: Path) -> Path:
    """The .onnx file that is meant. UserError where it is not there."""
    path = _model_path(study, bundle, results)
    if bundle is not None:
        file = bundle / "model.onnx" if bundle.is_dir() else bundle
        if bundle.exists() and not file.is_file():
            raise UserError(f"{bundle} holds no model.onnx; make it with `wastetune export --format onnx`")
        if file.suffix != ".onnx":
            raise UserError(f"{bundle} is no .onnx file; make one with `wastetune export --format onnx`")
        return file
    file = path.parent / "export" / "model.onnx"
    if not file.is_file():
        raise UserError(f"study {study!r} has no ONNX export yet; make it: {_export_command(study)}")
    return file


def _check_export(file: Path, about: "Mapping[str, Any]", bundle: Path, study: str) -> None:
    """Raises UserError where the file is of an earlier winner than the study's bundle."""
    from wastetune.bundle import load_description

    if about != load_description(bundle):
        raise UserError(f"{file} is not of the study's present winner; make it anew: {_export_command(study)}")


def _export_command(study: str | None) -> str:
    return f"wastetune export --study {study} --format onnx"


def _model_path(study: str | None, bundle: Path | None, results: Path) -> Path:
    """Where the model is that is meant by a study or by a path."""
    if (study is None) == (bundle is None):
        raise UserError("name either a study with --study or a model with --bundle")
    if bundle is not None:
        return bundle
    from wastetune.spec import study_name

    name = study_name(str(study))
    if not (path := results / name / "bundle").is_dir():
        raise UserError(
            f"study {name!r} has no model in {results / name}; run it first, or name the folder with --results"
        )
    return path


def _find_study(study: str, url: str) -> "optuna.Study":
    """A study in its database, by its name or by the path of its file."""
    from wastetune.database import open_storage
    from wastetune.spec import study_name
    from wastetune.storage import find_study

    return find_study(open_storage(url), study_name(study))


def _list_all(what: str, lines: list[str]) -> None:
    click.echo(f"{what}: {len(lines) or 'none'}")
    for line in lines:
        click.echo(f"  {line}")


def _paths(pictures: tuple) -> str:  # type: ignore[type-arg]
    return " = ".join(picture.path for picture in pictures)


def _same_command(*urls: str) -> str:
    """The command line as it was given, without passwords."""
    from wastetune.database import hide_password

    words = ["wastetune", *sys.argv[1:]]
    for url in urls:
        words = [word.replace(url, hide_password(url)) for word in words]
    return shlex.join(words)
