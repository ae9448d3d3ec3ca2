"""Serves the Optuna dashboard and the MLflow UI of a study.

The dashboard runs in a thread of this process. MLflow's server is a process of its own, which gets the URI of its store
through its environment, because other users can read command lines.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from wastetune.errors import UserError, optional_import
from wastetune.network import LOOPBACK_HOSTS, free_port, http_address, listen
from wastetune.storage.database import hide_password, quote_password
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import STUDY_ATTRS, get_study_attr
from wastetune.tracking.artifacts import DrawnPictures, artifact_folder
from wastetune.tracking.mlflow_store import VIEW
from wastetune.tracking.mlflow_uri import fetch, without_password

if TYPE_CHECKING:
    import optuna
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
_START_TIMEOUT = 90.0  # seconds; the tables of a new store alone take ten
_POLL_INTERVAL = 0.3  # seconds
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL
# Attributes that the dashboard's pages leave out: of trials, what is no single value for people; of studies, all.
_SHOWN = {"cut", "origin", "best_epoch", "val_accuracy", "trainable_parameters", "failure"}
_HIDDEN = {each.name for each in fields(TrialAttrs)} - _SHOWN | STUDY_ATTRS


@dataclass(frozen=True)
class Addresses:
    """The pages of a study."""

    dashboard: str
    mlflow: str
    mirrored: bool  # whether MLflow has the study


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
    """Both servers, for the time of the block: their addresses, and a function that waits until one of them ends.

    Where `tracking_uri` is a running MLflow server, that one is used. The end of the block stops what it started.
    UserError for a port in use, a missing package, and a server that does not start or ends by itself.
    """
    _check_port("the dashboard", "--port", host, port)
    _check_port("MLflow", "--mlflow-port", host, mlflow_port)
    with contextlib.ExitStack() as stack:
        if urlsplit(tracking_uri).scheme in ("http", "https"):
            mlflow, child = tracking_uri.rstrip("/"), None
        else:
            child = stack.enter_context(_mlflow_server(tracking_uri, host, mlflow_port or free_port(host)))
            mlflow = child.address
        dashboard = stack.enter_context(_dashboard_server(study, results, host, port))
        _wait_for(mlflow, child)
        page = _study_page(mlflow, study)
        yield (
            Addresses(
                dashboard=f"{dashboard}/dashboard/studies/{study._study_id}/note",
                mlflow=f"{without_password(mlflow)}/#/{page or 'experiments'}",
                mirrored=page is not None,
            ),
            lambda: _watch(child),
        )


@dataclass(frozen=True)
class _MlflowProcess:
    """MLflow's server process, and the file with its output."""

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
        reason = (lines or ["without a word"])[-1][:300].replace(self.store, hide_password(self.store))
        raise UserError(f"MLflow's server has ended by itself ({reason}); check --tracking-uri, and start again")


@contextlib.contextmanager
def _mlflow_server(uri: str, host: str, port: int) -> Iterator[_MlflowProcess]:
    uri = quote_password(uri)
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that are not needed here
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
            start_new_session=True,  # Ctrl-C is for this process, and its group contains the children
        )
        try:
            yield _MlflowProcess(process, _address(host, port), output, uri)
        finally:
            _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Stops the process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Logs no requests."""


@contextlib.contextmanager
def _dashboard_server(study: "optuna.Study", results: Path, host: str, port: int) -> Iterator[str]:
    with optional_import("the Optuna dashboard", extra="ui"):
        from optuna_dashboard import wsgi
    warnings.filterwarnings("ignore", module="optuna")  # it warns at each request for a new study
    pictures = DrawnPictures(study, artifact_folder(study._storage), results)
    app = _same_origin_only(_without_records(wsgi(study._storage, artifact_store=pictures)), host)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        raise UserError(f"cannot listen at {host}: {error.strerror}; choose another --host or --port") from error
    thread = threading.Thread(target=server.serve_forever, name="dashboard", daemon=True)
    thread.start()
    try:
        yield _address(host, server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def _without_records(app: "WSGIApplication") -> "WSGIApplication":
    """Leaves out the attributes that are records for programs: the dashboard would show their JSON beside the notes."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not re.fullmatch(r"/api/studies/\d+", environ.get("PATH_INFO", "")):
            return app(environ, start_response)
        head: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            head[:] = status, headers
            return lambda body: None

        body = b"".join(app(environ, start))
        status, headers = head
        if status.startswith("200"):
            body = json.dumps(_hide(json.loads(body))).encode()
            headers = [(key, value) for key, value in headers if key.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]

    return answer


def _hide(detail: dict[str, Any]) -> dict[str, Any]:
    """The dashboard's record of a study without those attributes."""
    for owner in (detail, *detail.get("trials", ()), *detail.get("best_trials", ())):
        for key in {"user_attrs", "union_user_attrs"} & owner.keys():
            owner[key] = [each for each in owner[key] if each["key"] not in _HIDDEN]
    return detail


def _same_origin_only(app: "WSGIApplication", host: str) -> "WSGIApplication":
    """Refuses requests from other web pages in the same browser: the dashboard can delete studies."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        requested, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        is_known = host not in LOOPBACK_HOSTS or urlsplit(f"//{requested}").hostname in LOOPBACK_HOSTS
        if not is_known or (origin and urlsplit(origin).netloc != requested):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"Not from this page."]
        return app(environ, start_response)

    return answer


def _wait_for(address: str, child: _MlflowProcess | None) -> None:
    deadline = time.monotonic() + (_START_TIMEOUT if child else 0)
    while True:
        if child:
            child.check()
        try:
            fetch(f"{address}/health")
        except OSError as error:
            if time.monotonic() > deadline:
                reason = getattr(error, "reason", error)
                raise UserError(f"MLflow does not answer at {without_password(address)} ({reason})") from error
            time.sleep(_POLL_INTERVAL)
        else:
            return


def _watch(child: _MlflowProcess | None) -> None:
    while True:
        if child:
            child.check()
        time.sleep(_POLL_INTERVAL)


def _study_page(address: str, study: "optuna.Study") -> str | None:
    """The page of the study's runs, with the columns to compare; None where MLflow does not have the study."""
    key = get_study_attr(study, "id", "")
    having = quote(f"tags.`{VIEW}{key}` LIKE '%'", safe="")  # its name may have a digest
    try:
        found = json.loads(fetch(f"{address}/api/2.0/mlflow/experiments/search?max_results=1&filter={having}"))
        experiment = found["experiments"][0]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return f"experiments/{experiment['experiment_id']}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def _check_port(what: str, option: str, host: str, port: int) -> None:
    """UserError where the port is in use, or for 0 where nothing can listen at that host."""
    try:
        listen(host, port).close()
    except OSError as error:
        place, other = (
            (f"{what} cannot listen at {host}:{port}", option) if port else (f"cannot listen at {host}", "--host")
        )
        raise UserError(f"{place} ({error.strerror}); choose another {other}") from error


def _own_addresses() -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except OSError:
        return set()


def _address(host: str, port: int) -> str:
    return http_address(socket.gethostname() if host in ("0.0.0.0", "::") else host, port)
