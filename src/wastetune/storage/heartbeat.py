"""Heartbeats: a thread sends them for the running trial of this worker, and fails trials of workers that send none.

Every worker writes the time into its trial now and then. The time itself does not matter, only that it changes: each
worker measures with its own clock for how long it has seen a trial unchanged, and only while it is watching. So neither
differing clocks nor a database that was unavailable to all make a running worker look dead. Optuna has a heartbeat
table of its own, but it counts the seconds of an outage, does not work over gRPC, and does not tell a worker that its
trial was failed.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wastetune.settings import lease_seconds
from wastetune.storage.study import all_trials
from wastetune.storage.trials import RunningTrial, fail_lost_trials, record_heartbeat

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_BEATS = 6  # heartbeats per lease, the time after which a silent worker is presumed dead


@dataclass
class SilenceMonitor:
    """Measures for how long each running trial has had no new heartbeat."""

    lease: float  # seconds after which a trial counts as silent
    seen: dict[int, tuple[object, float]] = field(default_factory=dict)  # number -> heartbeat, seconds unchanged
    checked: float | None = None

    def silent(self, trials: "list[FrozenTrial]", now: float) -> "list[FrozenTrial]":
        """The trials whose heartbeat has not changed within the lease; `now` in seconds of a monotonic clock."""
        # Long after the last check, this process slept or the database was unavailable, perhaps to the others as well.
        passed = 0.0 if self.checked is None else min(now - self.checked, 2 * self.lease / _BEATS)
        self.checked = now
        seen = {}
        for trial in trials:
            beat = trial.user_attrs.get("beat")
            before, unchanged = self.seen.get(trial.number, (beat, -passed))
            seen[trial.number] = (beat, unchanged + passed if beat == before else 0.0)
        self.seen = seen
        return [trial for trial in trials if seen[trial.number][1] >= self.lease]


@dataclass
class Heartbeat:
    """The trial that heartbeats are sent for, if any, and whether another worker has failed it."""

    trial: RunningTrial | None = None
    lost: bool = False

    def hold(self, trial: RunningTrial | None) -> None:
        """From now on, heartbeats are sent for this trial."""
        self.trial, self.lost = trial, False


@contextlib.contextmanager
def heartbeats(study: "optuna.Study", parent: int | None = None) -> Iterator[Heartbeat]:
    """Inside, heartbeats are sent for the trial that the value holds, and the trials of other workers are watched.

    `parent` is a process number: when that process is gone, this one gets SIGTERM.
    """
    heartbeat, ended = Heartbeat(), threading.Event()
    seconds = lease_seconds()
    thread = threading.Thread(
        target=_keep_up, args=(study, heartbeat, ended, seconds, parent), name="heartbeat", daemon=True
    )
    thread.start()
    try:
        yield heartbeat
    finally:
        ended.set()
        thread.join(1.0)  # it may be in the middle of a statement; it is a daemon thread and may be left


def _keep_up(
    study: "optuna.Study", heartbeat: Heartbeat, ended: threading.Event, seconds: float, parent: int | None
) -> None:
    monitor = SilenceMonitor(seconds)
    while not ended.wait(seconds / _BEATS):
        with contextlib.suppress(Exception):  # the database is unavailable; the next heartbeat may arrive
            if (trial := heartbeat.trial) is not None and not record_heartbeat(trial) and heartbeat.trial is trial:
                heartbeat.lost = True
            running = [each for each in all_trials(study) if each.state.name == "RUNNING"]
            others = [each for each in running if heartbeat.trial is None or each.number != heartbeat.trial.number]
            if silent := monitor.silent(others, time.monotonic()):
                fail_lost_trials(study, silent)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
