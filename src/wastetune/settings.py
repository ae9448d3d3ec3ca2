"""Settings: the value given on the command line, else an environment variable, else a default."""

import os
from dataclasses import dataclass
from pathlib import Path

from wastetune.errors import UserError


@dataclass(frozen=True)
class Setting:
    """One setting: its environment variable, its default, and what it sets."""

    variable: str
    default: str
    help: str

    def resolve(self, given: str | Path | None = None) -> str:
        """The given value, else that of the environment variable where it is set and not empty, else the default."""
        return str(given) if given is not None else os.environ.get(self.variable) or self.default


STORAGE = Setting("WASTETUNE_STORAGE", "sqlite:///wastetune.db", "the study database, a URL")
TRACKING = Setting("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db", "the MLflow store, a URI")
DATA = Setting("WASTETUNE_DATA", "data", "the folder of data sets")
WEIGHTS = Setting("WASTETUNE_WEIGHTS", "", "a folder of weights files, a weights file, or `none`")
CACHE = Setting("WASTETUNE_CACHE", "", "the folder of decoded pixels and activations; default: the user's cache folder")
CACHE_GB = Setting("WASTETUNE_CACHE_GB", "", "gigabytes of activations to keep; default: half of the free disk")
LEASE = Setting("WASTETUNE_LEASE", "60", "seconds without a heartbeat after which a worker's trial is failed as lost")
RUNTIME = Setting("WASTETUNE_RUNTIME", "auto", "what runs frozen trunks: `auto`, `keras` or `openvino`")
ARTIFACTS = Setting("WASTETUNE_ARTIFACTS", "", "the folder of the dashboard's pictures; default: beside the database")
API_KEY = Setting("WASTETUNE_API_KEY", "", "the key that `wastetune serve` asks for; default: none")

# All of them, in the order of the documentation.
SETTINGS = (STORAGE, TRACKING, DATA, WEIGHTS, CACHE, CACHE_GB, LEASE, RUNTIME, ARTIFACTS, API_KEY)

RESULTS = "results"  # the folder of reports and models; it has no variable


@dataclass(frozen=True)
class Locations:
    """Where a run reads and writes."""

    storage: str
    tracking_uri: str
    results: Path
    data: Path | None  # a folder of data sets
    weights: Path | None  # a folder of weights files


def check_results(folder: Path) -> None:
    """Raises UserError where results cannot be written, before a study runs instead of after it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--results {folder} is no folder; name a folder, or one to be made")


def cache_folder() -> Path:
    """The folder of decoded pixels and activations."""
    from platformdirs import user_cache_path

    folder = Path(CACHE.resolve() or user_cache_path("wastetune")).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{CACHE.variable} is {folder}, which is no folder; name a folder, or one to be made")
    return folder


def cache_limit() -> int | None:
    """The most bytes of activations to keep; None for half of the free disk."""
    text = CACHE_GB.resolve()
    if not text:
        return None
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"{CACHE_GB.variable} is {text!r}, but must be a number of gigabytes, such as 20")
    return limit


def lease_seconds() -> float:
    """Seconds without a heartbeat after which a worker loses its trial."""
    text = os.environ.get(LEASE.variable, LEASE.default)  # an empty one is a mistake: it must not pass for 60
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise UserError(f"{LEASE.variable} is {text!r}, but must be a number of seconds from 1 to 3600, such as 60")
    return seconds
