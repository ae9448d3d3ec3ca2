"""How many trials a study still needs, and which configurations are tried again. Reads trials, writes nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from wastetune.storage.records import read_attrs

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LOST = "worker lost"
# How often the configuration of a lost trial is tried again.
MAX_RETRIES = 2
LIVE = ("COMPLETE", "PRUNED", "RUNNING")


def only_finished(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """The trials that count towards the budget: complete or pruned."""
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


def count_live(trials: "Iterable[FrozenTrial]") -> int:
    """The number of trials that use up budget, or will unless they fail: finished or running."""
    return sum(trial.state.name in LIVE for trial in trials)


def default_is_due(trials: "Iterable[FrozenTrial]", backbone: str | None = None) -> bool:
    """Whether the default configuration, or that of one of several backbones, neither is complete nor runs."""
    return not any(trial.state.name in ("COMPLETE", "RUNNING") and is_default(trial, backbone) for trial in trials)


def is_default(trial: "FrozenTrial", backbone: str | None = None) -> bool:
    """Whether the trial has the default configuration, or that of this one of several backbones."""
    attrs = read_attrs(trial)
    return attrs.default and attrs.config.get("backbone") == backbone


def find_duplicate(trials: "Iterable[FrozenTrial]", config: Mapping[str, Any]) -> int | None:
    """The number of a trial that has, or had, exactly this configuration; None where there is none.

    Configurations to be tried again are those of `retry_due`.
    """
    for trial in trials:
        if trial.user_attrs.get("config") == config and trial.state.name != "WAITING" and not is_void(trial):
            return trial.number
    return None


def is_void(trial: "FrozenTrial") -> bool:
    """Whether the trial was created and failed without running, because it was one too many."""
    return bool(trial.user_attrs.get("void"))


def retry_due(trials: "Iterable[FrozenTrial]") -> "FrozenTrial | None":
    """A trial whose configuration is to be tried again: handed back, or lost with its worker and not too often."""
    return next((group[-1] for group in _same_configs(trials) if _is_due(group)), None)


def interrupted_trials(trials: "Iterable[FrozenTrial]") -> dict[int, int | None]:
    """The trials that were interrupted, each with the trial that tries its configuration again; None: not begun yet.

    They were handed back or lost with their workers. One that is never tried again has failed.
    """
    found: dict[int, int | None] = {}
    for group in _same_configs(trials):
        found |= {trial.number: again.number for trial, again in pairwise(group) if was_interrupted(trial)}
        if _is_due(group):
            found[group[-1].number] = None
    return dict(sorted(found.items()))


def was_interrupted(trial: "FrozenTrial") -> bool:
    """Whether the trial was handed back, or lost with its worker."""
    attrs = read_attrs(trial)
    return trial.state.name == "FAIL" and (attrs.handed_back or attrs.failure == LOST)


def _same_configs(trials: "Iterable[FrozenTrial]") -> "Iterable[list[FrozenTrial]]":
    """The trials of each configuration, by number."""
    same: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if "config" in trial.user_attrs and not is_void(trial):
            same.setdefault(json.dumps(trial.user_attrs["config"], sort_keys=True), []).append(trial)
    return same.values()


def _is_due(group: "Sequence[FrozenTrial]") -> bool:
    """Whether the configuration of these trials is to be tried again."""
    failed = all(trial.state.name == "FAIL" for trial in group)
    return failed and was_interrupted(group[-1]) and count_lost(group) <= MAX_RETRIES


def count_lost(trials: "Iterable[FrozenTrial]") -> int:
    """The number of trials that were lost with their workers."""
    return sum(read_attrs(trial).failure == LOST for trial in trials)
