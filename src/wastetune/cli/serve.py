"""`wastetune serve`, `app`, `ui` and `proxy`."""

from pathlib import Path

import click

from wastetune.cli.lookup import check_export, find_study, model_path, onnx_file
from wastetune.cli.options import (
    data_option,
    model_study_option,
    results_option,
    storage_option,
    study_option,
    tracking_option,
)
from wastetune.errors import UserError
from wastetune.settings import API_KEY, LOOPBACK_HOSTS


@click.command()
@study_option
@storage_option
@tracking_option
@results_option
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
    from wastetune.signals import raise_on_signals

    try:
        with raise_on_signals():
            from wastetune.tracking.mlflow_uri import check_store
            from wastetune.tracking.ui import served_study

            found = find_study(study, storage)
            check_store(tracking_uri)
            if host not in LOOPBACK_HOSTS:
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


@click.command()
@model_study_option
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE",
    help="A model instead: an .onnx file, or a folder with model.onnx in it.",
)
@results_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--api-key",
    envvar=API_KEY.variable,
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
    file = onnx_file(study, bundle, results)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip() != ""):
        raise UserError("the API key travels in a header: name one of ASCII letters, digits and signs")
    try:
        from wastetune.serving.api import Limits
        from wastetune.serving.server import serve_model
    except ImportError as error:
        raise UserError(f"serving needs more packages ({error}); pip install 'wastetune[serve]'") from None
    from wastetune.models.loading import open_model
    from wastetune.signals import raise_on_signals

    if host not in LOOPBACK_HOSTS and not api_key:
        click.echo(f"warning: whoever reaches {host} may predict; --api-key asks for a key", err=True)
    if queue < max_files:
        raise UserError(f"--queue {queue} is less than --max-files {max_files}: such a request would never be taken")
    limits = Limits(bytes=max_mb * 2**20, pixels=max_megapixels * 10**6, files=max_files, places=queue)
    try:
        with raise_on_signals():
            model = open_model(file, threads=threads)
            if study is not None:
                check_export(file, model.about, model_path(study, bundle, results), study)
            serve_model(
                model,
                host=host,
                port=port,
                key=api_key,
                limits=limits,
                echo=lambda address: click.echo(
                    f"{address}/predict takes pictures; {address}/docs says how. Ctrl-C ends"
                ),
            )
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@click.command()
@study_option
@results_option
@data_option
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
    place = model_path(study, None, results).parent
    from wastetune.signals import raise_on_signals
    from wastetune.study.spec import load_study

    try:
        dataset = load_study(study).dataset
    except UserError:  # results that came from elsewhere, without the study's file
        dataset = None
    if host not in LOOPBACK_HOSTS:
        click.echo(f"warning: whoever reaches {host} sees the report and pictures of the data set", err=True)

    def echo(address: str) -> None:
        click.echo(f"{address} shows {place.name}. Ctrl-C ends")
        if open_browser:
            click.launch(address)

    try:
        with raise_on_signals():
            try:
                from wastetune.serving.app import serve_app
            except ImportError as error:
                raise UserError(
                    f"wastetune app needs Streamlit ({error}); install it: pip install 'wastetune[app]'"
                ) from None
            serve_app(place, folder, dataset, host=host, port=port, echo=echo)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@click.command()
@storage_option
@click.option("--host", default="localhost", show_default=True, help="Where to listen; whoever gets there may write.")
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True, help="Where to listen.")
def proxy(storage: str, host: str, port: int) -> None:
    """Stand between hundreds of workers and one study database (Optuna's gRPC proxy).

    Workers say `--storage grpc://HOST:PORT`. The channel is neither encrypted nor protected by a password.

    \b
    Example:
      wastetune proxy --storage postgresql+psycopg://me:secret@db/studies --host 0.0.0.0
    """
    from wastetune.storage.database import serve_proxy

    try:
        serve_proxy(storage, host, port, lambda: click.echo(f"listening at {host}:{port}"))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
