"""The Optuna dashboard and the MLflow UI of a study, both at once, on this machine.

The dashboard runs in a thread of this process, so that no database URL has to be told to anybody. MLflow's server is a
process of its own, which learns its store from its environment: a command line is everybody's to read.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from wastetune.errors import UserError
from wastetune.settings import LOOPBACK_HOSTS
from wastetune.storage.database import hide_password, quote_password
from wastetune.storage.study import get_study_attr
from wastetune.tracking.artifacts import DrawnPictures, artifact_folder
from wastetune.tracking.mlflow_store import VIEW

if TYPE_CHECKING:
    import optuna
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
_START = 90.0  # seconds until MLflow must answer; a new store's tables alone take ten
_LOOK_EVERY = 0.3  # seconds
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Addresses:
    """Where a browser finds the study."""

    dashboard: str
    mlflow: str
    mirrored: bool  # whether MLflow has it


@contextlib.contextmanager
def served_study(
    study: "optuna.Study",
    tracking_uri: str,
    results: Path,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    mlflow_port: int = 0,
) -> Iterator[tuple[Addresses, Callable[[], None]]]:
    """Inside, both answer: their addresses, and a function that waits until one of them ends.

    An MLflow server that `tracking_uri` names is used as it is. Afterwards all that was started here is stopped.
    UserError for a port that is taken, a package that is missing, a server that does not start or ends by itself.
    """
    for what, option, number in (("the dashboard", "--port", port), ("MLflow", "--mlflow-port", mlflow_port)):
        if number:
            _check_port(what, option, host, number)
    with contextlib.ExitStack() as stack:
        if urlsplit(tracking_uri).scheme in ("http", "https"):
            mlflow, child = tracking_uri.rstrip("/"), None
        else:
            child = stack.enter_context(_mlflow_server(tracking_uri, host, mlflow_port or _free_port(host)))
            mlflow = child.address
        dashboard = stack.enter_context(_dashboard_server(study, results, host, port))
        _wait_for(mlflow, child)
        page = _study_page(mlflow, study)
        yield (
            Addresses(
                dashboard=f"{dashboard}/dashboard/studies/{study._study_id}/note",
                mlflow=f"{_without_password(mlflow)}/#/{page or 'experiments'}",
                mirrored=page is not None,
            ),
            lambda: _watch(child),
        )


@dataclass(frozen=True)
class _Child:
    """MLflow's server, and where it writes what went wrong."""

    process: "subprocess.Popen[bytes]"
    address: str
    output: IO[bytes]
    store: str

    def check(self) -> None:
        """UserError where it has ended."""
        status = self.process.poll()
        if status is None:
            return
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        words = (lines or ["without a word"])[-1][:300].replace(self.store, hide_password(self.store))
        raise UserError(f"MLflow's server has ended by itself ({words}); check --tracking-uri, and start again")


@contextlib.contextmanager
def _mlflow_server(uri: str, host: str, port: int) -> Iterator[_Child]:
    uri = quote_password(uri)
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for what nobody here asks for
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    if host not in LOOPBACK_HOSTS:
        names = {LOOPBACK, "localhost", host, socket.gethostname(), *_own_addresses()}
        environment.setdefault("MLFLOW_SERVER_ALLOWED_HOSTS", ",".join(f"{name}:{port}" for name in sorted(names)))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is ours to hear; and its own children are found by their group
        )
        try:
            yield _Child(process, _address(host, port), output, uri)
        finally:
            _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of each request."""


@contextlib.contextmanager
def _dashboard_server(study: "optuna.Study", results: Path, host: str, port: int) -> Iterator[str]:
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise UserError(f"the Optuna dashboard is not installed ({error}); pip install optuna-dashboard") from error
    warnings.filterwarnings("ignore", module="optuna")  # each look at a young study would warn
    pictures = DrawnPictures(study, artifact_folder(study._storage), results)
    app = _guarded(wsgi(study._storage, artifact_store=pictures), host)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Silent)
    except OSError as error:
        raise UserError(f"cannot listen at {host}: {error.strerror}; choose another --host or --port") from error
    thread = threading.Thread(target=server.serve_forever, name="dashboard", daemon=True)
    thread.start()
    try:
        yield _address(host, server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def _guarded(app: "WSGIApplication", host: str) -> "WSGIApplication":
    """The dashboard, which can delete studies, refused to other web pages that run in the same browser."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        asked, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        known = host not in LOOPBACK_HOSTS or urlsplit(f"//{asked}").hostname in LOOPBACK_HOSTS
        if not known or (origin and urlsplit(origin).netloc != asked):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"Not from this page."]
        return app(environ, start_response)

    return answer


def _wait_for(address: str, child: _Child | None) -> None:
    deadline = time.monotonic() + (_START if child else 0)
    while True:
        if child:
            child.check()
        try:
            _get(f"{address}/health")
        except OSError as error:
            if time.monotonic() > deadline:
                reason = getattr(error, "reason", error)
                raise UserError(f"MLflow does not answer at {_without_password(address)} ({reason})") from error
            time.sleep(_LOOK_EVERY)
        else:
            return


def _watch(child: _Child | None) -> None:
    while True:
        if child:
            child.check()
        time.sleep(_LOOK_EVERY)


def _study_page(address: str, study: "optuna.Study") -> str | None:
    """The page of the study's runs, with the columns that are compared; None where MLflow has none of them."""
    name, key = get_study_attr(study, "about", {}).get("data", {}).get("name", ""), get_study_attr(study, "id", "")
    query = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(name, safe='')}"
    try:
        experiment = json.loads(_get(query))["experiment"]
        tags = {tag["key"] for tag in experiment.get("tags", ())}
    except (OSError, ValueError, KeyError):
        return None
    if f"{VIEW}{key}" not in tags:
        return None
    return f"experiments/{experiment['experiment_id']}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def _get(url: str) -> bytes:
    """What is there, asked for without a proxy and with the user and password of the URL, if it has them."""
    from base64 import b64encode

    parts = urlsplit(quote_password(url))
    request = urllib.request.Request(_without_password(url))
    if parts.username:
        from urllib.parse import unquote

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {b64encode(pair.encode()).decode()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({})) if parts.hostname in LOOPBACK_HOSTS else None
    with (opener.open if opener else urllib.request.urlopen)(request, timeout=5) as response:
        body: bytes = response.read()
        return body


def _without_password(url: str) -> str:
    parts = urlsplit(quote_password(url))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _check_port(what: str, option: str, host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise UserError(f"{what} cannot listen at {host}:{port} ({error.strerror}); choose another {option}") from error


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise UserError(f"cannot listen at {host} ({error.strerror}); choose another --host") from error


def _own_addresses() -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except OSError:
        return set()


def _address(host: str, port: int) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
