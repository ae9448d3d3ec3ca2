"""What wastetune finds on this machine: versions, GPU, runtimes, where things are and how large, and what is wrong."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from wastetune.backbones.backbone import count_cores
from wastetune.backbones.runtime import choose_runtime, list_gpus
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, did_you_mean, first_line, install_command
from wastetune.formatting import aligned, render_bytes, render_count
from wastetune.settings import SETTINGS, Locations, cache_folder, cache_limit, lease_seconds
from wastetune.storage.database import describe_database, hide_password
from wastetune.tracking.mlflow_uri import (
    check_store,
    check_uri,
    fetch,
    render_reason,
    sqlite_file,
    uri_scheme,
)

_LOWEST_PYTHON, _HIGHEST_PYTHON = (3, 11), (3, 13)
_NEEDED = ("tensorflow", "keras", "optuna", "mlflow", "numpy", "pillow", "scikit-learn")
# Package -> the extra that installs it; the extra `serve` also works without the needed ones.
_OPTIONAL = {
    "optuna-dashboard": "ui",
    "openvino": "openvino",
    "onnxruntime": "onnx",
    "ai-edge-litert": "litert",
    "fastapi": "serve",
    "streamlit": "app",
    "psycopg": "postgres",
    "grpcio": "grpc",
    "torch": "gp",
    "cmaes": "cmaes",
    "keras-hub": "hub",
}
_ROOM = 2e9  # bytes; with less, a study is likely to fill the disk


@dataclass(frozen=True)
class Finding:
    """One line: what, how it is, and what is wrong with it and what to do, if anything is."""

    what: str
    state: str
    problem: str = ""


def examine(locations: Locations) -> Iterator[Finding]:
    """The findings, one after another. Nothing is made, changed or downloaded."""
    yield from _versions()
    yield from _machine()
    yield from _settings()
    yield _place("data sets", locations.data or Path())
    yield _weights(locations.weights)
    keras_home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    yield _place("downloads", keras_home / "models", "of weights by Keras")
    yield _checked("cache", _cache)
    yield _place("results", locations.results)
    yield _checked("study database", lambda: describe_database(locations.storage))
    yield _checked("MLflow store", lambda: _describe_store(locations.tracking_uri))
    yield _disk(locations.results)


def render_findings(findings: list[Finding]) -> str:
    """The findings as lines, and then what is wrong."""
    lines = aligned([(each.what, each.state) for each in findings], left=2)
    wrong = [each.problem for each in findings if each.problem]
    if not wrong:
        return "\n".join([*lines, "", "Nothing is wrong."])
    count = "One thing is wrong:" if len(wrong) == 1 else f"{len(wrong)} things are wrong:"
    return "\n".join([*lines, "", count, *(f"- {problem}" for problem in wrong)])


def _versions() -> Iterator[Finding]:
    """Python, wastetune, what it needs, and what its extras would add."""
    supported = _LOWEST_PYTHON <= sys.version_info[:2] <= _HIGHEST_PYTHON
    low, high = (".".join(map(str, each)) for each in (_LOWEST_PYTHON, _HIGHEST_PYTHON))
    yield Finding(
        "python",
        f"{platform.python_version()}, {platform.platform()}",
        "" if supported else f"Python {platform.python_version()} is not supported: use {low} to {high}",
    )
    for name in ("wastetune", *_NEEDED):
        found = _version(name)
        yield Finding(name, found or "missing", "" if found else f"{name} is not installed: {install_command(None)}")
    for name, extra in _OPTIONAL.items():
        yield Finding(name, _version(name) or f"not installed; {install_command(extra)} adds it")


def _version(package: str) -> str:
    """The version of a package, or of its build for processors alone; empty where it is missing."""
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _machine() -> Iterator[Finding]:
    """Cores, memory, GPUs, and what runs frozen trunks."""
    import psutil

    memory = psutil.virtual_memory()
    free = f"{render_bytes(memory.available)} of {render_bytes(memory.total)} memory free"
    yield Finding("machine", f"{render_count(count_cores(), 'core')}, {free}")
    if find_spec("tensorflow") is None:
        return  # it is missing, as was said
    try:
        with suppressed_stderr():
            gpus = list_gpus()
    except Exception as error:  # a broken installation raises anything
        reason = f"{type(error).__name__}: {first_line(error, most=200)}"
        yield Finding("GPU", "unknown", f"TensorFlow cannot be imported ({reason}): {install_command(None)}")
        return
    unseen = not gpus and shutil.which("nvidia-smi") is not None
    yield Finding(
        "GPU",
        ", ".join(gpus) or "none that TensorFlow can use",
        f"there is a GPU, which TensorFlow does not see: {install_command('cuda')}" if unseen else "",
    )
    yield _checked("runtime", choose_runtime)


def _settings() -> Iterator[Finding]:
    """The environment variables that are set, and those that mean nothing."""
    known = [setting.variable for setting in SETTINGS]
    given = [name for name in os.environ if name.startswith("WASTETUNE_")]
    hidden = {"WASTETUNE_API_KEY", "WASTETUNE_STORAGE"}  # they may hold a password
    for name in sorted(given):
        shown = "set" if name in hidden else os.environ[name]
        unknown = f"{name} means nothing to wastetune; {did_you_mean(name, known) or 'unset it'}"
        yield Finding(name, shown, "" if name in known else unknown)
    yield _checked("lease", lambda: f"{lease_seconds():g} s")


def _checked(what: str, look: Callable[[], str]) -> Finding:
    """What `look` gives; its UserError is the problem."""
    try:
        return Finding(what, look())
    except (UserError, OSError) as error:
        return Finding(what, "wrong", str(error))


def _place(what: str, folder: Path, note: str = "") -> Finding:
    """A folder that need not be there yet."""
    if folder.exists() and not folder.is_dir():
        return Finding(what, str(folder), f"{folder} is no folder; name one")
    state = _describe(folder)
    return Finding(what, f"{state} {note}".strip())


def _weights(folder: Path | None) -> Finding:
    if folder is None:
        return Finding("weights", "no folder of one's own: Keras downloads them")
    if not folder.exists():
        return Finding("weights", str(folder), f"there are no weights at {folder}; name a folder with --weights")
    return Finding("weights", _describe(folder))


def _describe(folder: Path) -> str:
    """Where a folder is, and how large."""
    if not folder.exists():
        return f"{folder.absolute()}: not there yet"
    if folder.is_file():
        return f"{folder.absolute()}: {render_bytes(folder.stat().st_size)}"
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder.absolute()} cannot be read; change its permissions")
    sizes = list(_sizes(folder))
    return f"{folder.absolute()}: {render_count(len(sizes), 'file')}, {render_bytes(sum(sizes))}"


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118  (for 100,000 files)
            except OSError:  # deleted meanwhile
                continue


def _cache() -> str:
    folder, limit = cache_folder(), cache_limit()
    if folder.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"the cache {folder} cannot be written to; change its permissions, or set WASTETUNE_CACHE")
    most = "half of the free disk" if limit is None else render_bytes(limit)
    return f"{_describe(folder)}; activations may take {most}"


def _describe_store(uri: str) -> str:
    """An MLflow store; where it is a file that is not there, it is made by the first run."""
    file = sqlite_file(uri)
    if file is None:
        check_store(uri)
        if uri_scheme(uri) in ("http", "https"):
            try:
                fetch(f"{uri.rstrip('/')}/health")
            except OSError as error:
                reason = render_reason(error, uri)
                raise UserError(f"the MLflow server does not answer ({reason}); check --tracking-uri") from error
        return f"{hide_password(uri)}: it answers"
    if not file.exists():
        if file.parent.exists():
            check_uri(uri)
        return f"{file.absolute()}: not there yet"
    check_store(uri)
    return _describe(file)


def _disk(folder: Path) -> Finding:
    """The free space where results and databases go."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    few = f"only {render_bytes(free)} are free at {place}; make room, or set WASTETUNE_CACHE_GB and --results elsewhere"
    return Finding("disk", f"{render_bytes(free)} free at {place}", few if free < _ROOM else "")
