"""`wastetune serve`, `app`, `ui` and `proxy`."""

from pathlib import Path

import click

from wastetune.cli.lookup import check_export, lookup_study, model_path, onnx_file, pictures_of, results_of
from wastetune.cli.options import (
    data_option,
    model_study_option,
    precision_option,
    results_option,
    storage_option,
    study_option,
    tracking_option,
)
from wastetune.errors import UserError, optional_import
from wastetune.network import LOOPBACK_HOSTS
from wastetune.settings import API_KEY


@click.command()
@study_option
@storage_option
@tracking_option
@results_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen at; neither page asks for a password."
)
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
    """Show a study in the Optuna dashboard and in the MLflow UI.

    Ctrl-C stops both. The study may still be running. Each trial has a note with its learning curve and its confusion
    matrix.

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

            found = lookup_study(study, storage)
            check_store(tracking_uri)
            if host not in LOOPBACK_HOSTS:
                click.echo(
                    f"warning: neither asks for a password; whoever reaches {host} may change and delete this study",
                    err=True,
                )
            home = results_of(study, results)
            with served_study(
                found, tracking_uri, home.parent, host=host, port=port or 0, mlflow_port=mlflow_port or 0
            ) as (addresses, wait):
                click.echo(f"Optuna dashboard  {addresses.dashboard}")
                click.echo(f"MLflow            {addresses.mlflow}")
                if not addresses.mirrored:
                    click.echo(f"(MLflow has nothing of this study yet: wastetune sync --study {study})")
                report = home / "report.html"
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
    help="A model instead of a study: an .onnx file, or a folder that contains model.onnx.",
)
@results_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--api-key",
    envvar=API_KEY.variable,
    show_envvar=True,
    help="The key that clients send as X-API-Key. Other users of this machine see command lines: use the variable.",
)
@precision_option
@click.option("--threads", type=click.IntRange(min=1), help="Threads per prediction. Default: one per core.")
@click.option(
    "--max-mb", type=click.IntRange(min=1), default=32, show_default=True, help="The most megabytes of a request."
)
@click.option(
    "--max-megapixels",
    type=click.IntRange(1, 80),
    default=50,
    show_default=True,
    help="The most millions of pixels of a picture.",
)
@click.option(
    "--max-files", type=click.IntRange(min=1), default=32, show_default=True, help="The most files of a request."
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="The most pictures waiting; beyond, status 503.",
)
def serve(
    study: str | None,
    bundle: Path | None,
    results: Path,
    host: str,
    port: int,
    api_key: str | None,
    precision: float | None,
    threads: int | None,
    max_mb: int,
    max_megapixels: int,
    max_files: int,
    queue: int,
) -> None:
    """Serve a model over HTTP, from its ONNX export.

    POST /predict, GET /model, and /docs for the rest, until Ctrl-C.

    \b
    Example:
      wastetune export --study inception_wid --format onnx
      wastetune serve --study inception_wid
      curl -F files=@photo.jpg http://127.0.0.1:8000/predict
    """
    file = onnx_file(study, bundle, results)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip() != ""):
        raise UserError("the API key travels in a header: name one of ASCII letters, digits and signs")
    with optional_import("a package of the service", "serve"):
        from wastetune.serving.api import Limits
        from wastetune.serving.server import serve_model
    from wastetune.models.answers import choose_rule
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
                choose_rule(model.about, precision=precision),
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
@storage_option
@results_option
@data_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen at; the page asks for no password."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Left out: a free one.")
@click.option("--open", "open_browser", is_flag=True, help="Open it in the browser.")
def app(study: str, storage: str, results: Path, folder: Path, host: str, port: int, open_browser: bool) -> None:
    """Classify photos in the browser with a study's model.

    The page shows the saliency map of the photo and the most similar training pictures, if they are on this machine;
    a second page shows the study's report. Photos do not leave this machine.

    \b
    Example:
      wastetune app --study mobilenet_small_trashnet
      wastetune app --study my_study --port 8501 --open
    """
    place = model_path(study, None, results).parent
    from wastetune.signals import raise_on_signals

    try:
        dataset = str(pictures_of(study, storage, folder, results).resolve())
    except UserError:  # results that came from elsewhere, without the pictures
        dataset = None
    if host not in LOOPBACK_HOSTS:
        click.echo(f"warning: whoever reaches {host} sees the report and pictures of the data set", err=True)

    def echo(address: str) -> None:
        click.echo(f"{address} shows {place.name}. Ctrl-C ends")
        if open_browser:
            click.launch(address)

    try:
        with raise_on_signals():
            with optional_import("Streamlit", "app"):
                from wastetune.serving.app import serve_app
            serve_app(place, folder, dataset, host=host, port=port, echo=echo)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@click.command()
@storage_option
@click.option(
    "--host", default="localhost", show_default=True, help="The address to listen at; every client may write."
)
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True, help="The port to listen at.")
def proxy(storage: str, host: str, port: int) -> None:
    """Connect hundreds of workers to one study database.

    This is Optuna's gRPC proxy. Workers use `--storage grpc://HOST:PORT`. The channel is neither encrypted nor
    protected by a password.

    \b
    Example:
      wastetune proxy --storage postgresql+psycopg://me:secret@db/studies --host 0.0.0.0
    """
    from wastetune.storage.database import serve_proxy

    try:
        serve_proxy(storage, host, port, lambda: click.echo(f"listening at {host}:{port}"))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
