"""Where a study's things lie: what a person names, else an environment variable, else the working directory."""

import os
from dataclasses import dataclass
from pathlib import Path

from wastetune.errors import UserError


@dataclass(frozen=True)
class Default:
    """What holds where a person names nothing: the environment variable, then the value."""

    variable: str | None
    value: str

    def unless(self, given: str | Path | None) -> str:
        """What was given, or else what holds."""
        named = os.environ.get(self.variable) if self.variable else None
        return str(given) if given is not None else named or self.value


# Hosts that only this machine reaches.
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}

STORAGE = Default("WASTETUNE_STORAGE", "sqlite:///wastetune.db")
TRACKING = Default("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
DATA = Default("WASTETUNE_DATA", "data")
WEIGHTS = Default("WASTETUNE_WEIGHTS", "")  # nothing: those of the study's file
RESULTS = Default(None, "results")


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves things."""

    storage: str
    tracking_uri: str
    results: Path
    data: Path | None  # a folder of data sets
    weights: Path | None  # a folder of weights files


def check_results(folder: Path) -> None:
    """Raises UserError where results cannot go: before a study is run, not after."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--results {folder} is no folder; name a folder, or one to be made")


def cache_folder() -> Path:
    """Where pixels and activations are kept: WASTETUNE_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    folder = Path(os.environ.get("WASTETUNE_CACHE") or user_cache_path("wastetune")).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"WASTETUNE_CACHE is {folder}, which is no folder; name a folder, or one to be made")
    return folder


def cache_limit() -> int | None:
    """How many bytes of activations may be kept: WASTETUNE_CACHE_GB, or None for half of the free disk."""
    text = os.environ.get("WASTETUNE_CACHE_GB")
    if not text:
        return None
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"WASTETUNE_CACHE_GB is {text!r}, but must be a number of gigabytes, such as 20")
    return limit


def lease_seconds() -> float:
    """After so many seconds without a sign of life a worker loses its trial: WASTETUNE_LEASE, or 60."""
    text = os.environ.get("WASTETUNE_LEASE", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise UserError(f"WASTETUNE_LEASE is {text!r}, but must be a number of seconds from 1 to 3600, such as 60")
    return seconds
