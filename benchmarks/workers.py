"""How many trivial trials a minute do 1 to 16 workers get through a database, and what holds them up?

python benchmarks/workers.py [--databases sqlite,postgresql,grpc] [--workers 1,2,4,8,16] [--trials 120] [--json FILE]

A trial trains nothing: it is proposed, begun, told one score, recorded and ended, as always. Workers are forked from
one process that has imported everything, so that starting them is no part of it. `grpc` is Optuna's proxy before
PostgreSQL.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psutil

from conftest import SPACE, STUDY, open_postgres
from wastetune.console import open_console
from wastetune.data.synthetic import write_sample
from wastetune.storage.budget import is_void, only_finished
from wastetune.storage.database import open_storage
from wastetune.storage.study import find_study, open_study, read_trials
from wastetune.study import worker
from wastetune.study.objective import TrialResult
from wastetune.study.prepare import prepare_study
from wastetune.study.spec import load_study
from wastetune.study.worker import run_worker
from wastetune.training.fit import Epoch, FitResult


def run_nothing(config: Any, number: int, context: Any, bar: Any, on_epoch: Any) -> TrialResult:
    """A trial without training; its score is a function of the configuration, so that the sampler has a task."""
    epoch = Epoch(1, 1.0, 1.0 - abs(config.learning_rate - 0.01), 0.5, 0.0)
    on_epoch(epoch)
    return TrialResult(FitResult(epoch, (epoch,), None), [[1, 0], [0, 1]], 0.0, 1)  # type: ignore[arg-type]


def measure(url: str, prepared: Any, workers: int, trials: int) -> dict[str, float]:
    """Trials a minute from the moment that all workers are ready, and what the processor did meanwhile."""
    name = f"study{workers}"
    context = get_context("fork")
    ready = context.Barrier(workers + 1)

    def work() -> None:
        study = open_study(open_storage(url), name, {})
        ready.wait()
        run_worker(
            study,
            prepared.context,
            trials=trials,
            timeout=None,
            bar=open_console().bar,
            on_trial=lambda trial: None,
            name=str(os.getpid()),
        )

    processes = [context.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    ready.wait()
    began, busy = time.perf_counter(), psutil.cpu_times()
    for process in processes:
        process.join()
    seconds, after = time.perf_counter() - began, psutil.cpu_times()
    study = find_study(open_storage(url), name)
    everything = read_trials(study)
    assert len(only_finished(everything)) == trials
    spent = (after.user + after.system) - (busy.user + busy.system)
    return {
        "workers": workers,
        "trials": trials,
        "trials_per_minute": 60 * trials / seconds,
        "processor_ms_per_trial": 1000 * spent / trials,
        "cores_busy": spent / seconds,
        "begun_in_vain": sum(map(is_void, everything)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", default="sqlite,postgresql,grpc")
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--json", type=lambda name: Path(name).resolve())
    asked = parser.parse_args()
    rows = []
    worker.run_trial = run_nothing
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_sample(folder / "pictures", classes=("box", "leaf"), per_class=20, size=48)
        (folder / "space.toml").write_text(SPACE)
        (folder / "tiny.toml").write_text(STUDY.format(pictures=folder / "pictures", space=folder / "space.toml"))
        os.environ["WASTETUNE_CACHE"] = str(folder / "cache")
        prepared = prepare_study(load_study(str(folder / "tiny.toml")), data=None, weights=None, console=open_console())
        postgres = stack.enter_context(open_postgres()) if asked.databases != "sqlite" else None
        print(f"{'database':12}{'workers':>8}{'trials/min':>12}{'ms of processor':>17}{'cores busy':>12}{'in vain':>9}")
        for kind in asked.databases.split(","):
            for workers in map(int, asked.workers.split(",")):
                with ExitStack() as each:
                    url = f"sqlite:///{folder}/{workers}.db" if kind == "sqlite" else postgres.new_database()  # type: ignore[union-attr]
                    if kind == "grpc":
                        url = each.enter_context(proxied(url))
                    row = {"database": kind, **measure(url, prepared, workers, asked.trials)}
                rows.append(row)
                print(
                    f"{kind:12}{workers:8}{row['trials_per_minute']:12.0f}{row['processor_ms_per_trial']:17.0f}"
                    f"{row['cores_busy']:12.2f}{row['begun_in_vain']:9}",
                    flush=True,
                )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


class proxied:  # noqa: N801  (it is used as a function)
    """`wastetune proxy` before a database; gives its address."""

    def __init__(self, url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        command = [sys.executable, "-m", "wastetune", "proxy", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, env=os.environ | {"WASTETUNE_STORAGE": url}, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        assert "listening" in self.process.stdout.readline()
        return f"grpc://localhost:{self.port}"

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()


if __name__ == "__main__":
    main()
