"""How many trials a study still needs, and which configurations are tried again."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wastetune.training.config import TrialConfig

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LOST = "worker lost"
# Times that the configuration of a lost trial is tried again.
MAX_RETRIES = 2
LIVE = ("COMPLETE", "PRUNED", "RUNNING")


def only_finished(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """Those of the trials that the budget counts: complete or pruned."""
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


def count_live(trials: "Iterable[FrozenTrial]") -> int:
    """How many of the trials use up budget, or will unless they fail: finished or running."""
    return sum(trial.state.name in LIVE for trial in trials)


def default_is_due(trials: "Iterable[FrozenTrial]") -> bool:
    """Whether the default configuration has not run and does not run."""
    return not any(trial.user_attrs.get("default") and trial.state.name in ("COMPLETE", "RUNNING") for trial in trials)


def find_duplicate(trials: "Iterable[FrozenTrial]", config: TrialConfig) -> int | None:
    """The number of a trial that has, or had, this very configuration. What is to be tried again is `retry_due`."""
    wanted = config.model_dump()
    for trial in trials:
        if trial.user_attrs.get("config") == wanted and trial.state.name != "WAITING" and not is_void(trial):
            return trial.number
    return None


def is_void(trial: "FrozenTrial") -> bool:
    """Whether it was begun and never run, because it was one too many."""
    return bool(trial.user_attrs.get("void"))


def retry_due(trials: "Iterable[FrozenTrial]") -> "FrozenTrial | None":
    """A trial whose configuration is to be tried again: lost with its worker, not too often, or handed back."""
    same: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if "config" in trial.user_attrs and not is_void(trial):
            same.setdefault(json.dumps(trial.user_attrs["config"], sort_keys=True), []).append(trial)
    for group in same.values():
        if all(trial.state.name == "FAIL" for trial in group) and not count_lost(group) > MAX_RETRIES:
            last = group[-1]
            if last.user_attrs.get("handed_back") or last.user_attrs.get("failure") == LOST:
                return last
    return None


def count_lost(trials: "Iterable[FrozenTrial]") -> int:
    """How many of the trials were lost with their workers."""
    return sum(trial.user_attrs.get("failure") == LOST for trial in trials)
