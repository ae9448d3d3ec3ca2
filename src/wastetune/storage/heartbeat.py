"""Signs of life: a thread gives them for the trial in hand, and takes trials from workers that give none.

Every worker writes the time into its trial now and then. What the time is does not matter, only that it changes: each
worker measures with its own clock how long it has seen a trial unchanged, and only while it looks. So neither clocks
that differ nor a database that was away for everybody make a living worker look dead. Optuna has a heartbeat table of
its own, which counts the seconds of an outage, does not work over gRPC, and tells nobody that it was taken for dead.
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
from wastetune.storage.trials import RunningTrial, fail_lost_trials, record_heartbeat

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_BEATS = 6  # in the time after which a silent worker is taken for dead


@dataclass
class SilenceMonitor:
    """For how long each running trial has been seen without a sign of life."""

    seconds: float  # after which it counts as silent
    seen: dict[int, tuple[object, float]] = field(default_factory=dict)  # number -> sign, seconds unchanged
    looked: float | None = None

    def silent(self, trials: "list[FrozenTrial]", now: float) -> "list[FrozenTrial]":
        """The trials that have given no sign for too long; `now` in seconds of a clock that never jumps."""
        # Between two looks far apart, this process slept or the database was away: others may have as well.
        passed = 0.0 if self.looked is None else min(now - self.looked, 2 * self.seconds / _BEATS)
        self.looked = now
        seen = {}
        for trial in trials:
            sign = trial.user_attrs.get("beat")
            before, unchanged = self.seen.get(trial.number, (sign, -passed))
            seen[trial.number] = (sign, unchanged + passed if sign == before else 0.0)
        self.seen = seen
        return [trial for trial in trials if seen[trial.number][1] >= self.seconds]


@dataclass
class Heartbeat:
    """The trial in hand, if any, and whether it was taken away."""

    trial: RunningTrial | None = None
    taken: bool = False

    def hold(self, trial: RunningTrial | None) -> None:
        """From now on signs are given for this trial."""
        self.trial, self.taken = trial, False


@contextlib.contextmanager
def heartbeats(study: "optuna.Study", parent: int | None = None) -> Iterator[Heartbeat]:
    """Inside, signs of life are given for the trial that the value holds, and other trials are watched.

    With `parent`, a process number: where that process is gone, this one is asked to end.
    """
    heartbeat, ended = Heartbeat(), threading.Event()
    seconds = lease_seconds()
    thread = threading.Thread(
        target=_keep_up, args=(study, heartbeat, ended, seconds, parent), name="lease", daemon=True
    )
    thread.start()
    try:
        yield heartbeat
    finally:
        ended.set()
        thread.join(1.0)  # in the middle of a statement, perhaps: it is a daemon and may be left


def _keep_up(
    study: "optuna.Study", heartbeat: Heartbeat, ended: threading.Event, seconds: float, parent: int | None
) -> None:
    watch = SilenceMonitor(seconds)
    while not ended.wait(seconds / _BEATS):
        with contextlib.suppress(Exception):  # a database that is away: the next sign may get through
            if (trial := heartbeat.trial) is not None and not record_heartbeat(trial) and heartbeat.trial is trial:
                heartbeat.taken = True
            running = [each for each in study.get_trials(deepcopy=False) if each.state.name == "RUNNING"]
            others = [each for each in running if heartbeat.trial is None or each.number != heartbeat.trial.number]
            if silent := watch.silent(others, time.monotonic()):
                fail_lost_trials(study, silent)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
