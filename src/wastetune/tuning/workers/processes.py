"""Worker processes on this machine: start, replace after a crash, stop."""

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from wastetune.errors import UserError
from wastetune.settings import Locations
from wastetune.storage.study import finished_trials
from wastetune.storage.trials import fail_lost_trials
from wastetune.tuning.spec import StudySpec

if TYPE_CHECKING:
    import optuna

# Environment variables between a run and its worker processes. PARENT is the number of the process that started the
# worker; when it is gone, the worker ends. END is when the final model must be there.
PARENT = "WASTETUNE_PARENT"
END = "WASTETUNE_END"
_RENEWED = "WASTETUNE_RENEWED"
_POLL_INTERVAL = 0.3  # seconds
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL
# Crashes per worker before the run gives up, counted while no trial finishes in between.
_DEATHS = 3


@dataclass
class _WorkerProcess:
    """A worker process, the thread that prints its lines, and its standard error."""

    process: "subprocess.Popen[bytes]"
    lines: threading.Thread
    errors: IO[bytes]


def run_workers(
    arguments: Sequence[str],
    environment: dict[str, str],
    count: int,
    *,
    study: "optuna.Study",
    trials: int,
    timeout: float | None,
    echo: Callable[[str], None],
    tick: Callable[[], None],
) -> None:
    """Runs `count` processes of `wastetune worker` with these arguments until all have ended by themselves.

    `environment` is for what a command line must not show, such as passwords. `echo` gets what the workers print, line
    by line, so that they do not write over each other. `tick` is called a few times per second. With a count of 0,
    waits until workers elsewhere have finished the study's trials.
    UserError where a worker ends with a UserError, and where workers crash again and again; KeyboardInterrupt where
    somebody has told the last of them to end.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    workers = [_start(arguments, environment, echo) for _ in range(count)]
    deaths, finished = 0, -1
    try:
        while workers or (not count and time.monotonic() < deadline):
            tick()
            if not count:
                fail_lost_trials(study)
                if len(finished_trials(study)) >= trials:
                    break
            for worker in [each for each in workers if each.process.poll() is not None]:
                workers.remove(worker)
                worker.lines.join(_GRACE)
                status, words = worker.process.returncode, _last_line(worker)
                if status == 0:
                    continue
                if status == 2:
                    raise UserError(words.removeprefix("error: "))
                fail_lost_trials(study)
                now = len(finished_trials(study))
                deaths = deaths + 1 if now == finished else 1
                finished = now
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                if deaths > _DEATHS * count:
                    raise UserError(
                        f"{deaths} workers died without a trial being finished, the last one with {how}"
                        f"{f': {words}' if words else ', perhaps for want of memory'}; what is finished is kept"
                    )
                echo(f"a worker died ({how}); another one takes its place")
                workers.append(_start(arguments, environment, echo))
            time.sleep(_POLL_INTERVAL)
    except BaseException:
        _stop(workers)  # without another database call: the database may be what failed
        raise
    fail_lost_trials(study)
    tick()
    if count and time.monotonic() < deadline and len(finished_trials(study)) < trials:
        raise KeyboardInterrupt  # each worker was told to end, which is how this process is told, too


def _start(arguments: Sequence[str], environment: dict[str, str], echo: Callable[[str], None]) -> _WorkerProcess:
    errors = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
    command = [sys.executable, "-m", "wastetune", "worker", *arguments]
    surroundings = {**os.environ, **environment, PARENT: str(os.getpid())}
    process = subprocess.Popen(
        command, env=surroundings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
    )

    def print_lines() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                echo(line.decode(errors="replace").rstrip())

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    return _WorkerProcess(process, thread, errors)


def _last_line(worker: _WorkerProcess) -> str:
    worker.errors.seek(0)
    lines = worker.errors.read().decode(errors="replace").strip().splitlines()
    worker.errors.close()
    return lines[-1][:1000] if lines else ""


def _stop(workers: "list[_WorkerProcess]") -> None:
    """Asks the workers to hand back their trials, and kills those that have not ended after some seconds."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + _GRACE
    for worker in workers:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.errors.close()


def parent_process() -> int | None:
    """The number of the process that started this worker, if `wastetune run` did."""
    number = os.environ.get(PARENT, "")
    return int(number) if number.isdigit() else None


def end_of_run() -> float | None:
    """When the run that started this worker must have its final model, by `time.monotonic`; None: it may take longer.

    The clock is that of the machine, so it is the same for a worker that is restarted.
    """
    moment = os.environ.get(END)
    return float(moment) if moment else None


def is_replacement() -> bool:
    """Whether this worker replaces another one: one that crashed, or itself before it was restarted."""
    return parent_process() is not None or _RENEWED in os.environ


def restart_process() -> None:
    """Restarts this process with the same number and arguments, which frees its memory."""
    os.environ[_RENEWED] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "wastetune", *sys.argv[1:]])


def worker_arguments(
    spec: StudySpec, locations: Locations, timeout: float | None, renew_after: int | None
) -> list[str]:
    """The arguments of `wastetune worker` that make it join a study."""
    options = {
        "--study": spec.source,
        "--seed": spec.seed,
        "--data": locations.data,
        "--weights": locations.weights or spec.weights,
        "--timeout": timeout,
        "--renew-after": renew_after,
    }
    return [str(word) for pair in options.items() if pair[1] is not None for word in pair]
