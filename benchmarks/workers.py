"""How much faster are several workers than one, and how soon is the trial of a killed worker run again?

    trials: trials a minute that train nothing, by 1 to 16 workers, on SQLite, PostgreSQL and the gRPC proxy before it
    extraction: seconds of two workers, a core each, that share a folder of activations, against one worker
    retry: seconds from kill -9 to the retry's start on one machine, and to its failure by another machine's worker

The workers of `trials` are forked from one process that has imported everything, so their start is not measured.
`extraction` also measures two workers that share nothing, which shows what the second core is worth.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import psutil
from common import (
    Row,
    open_postgres,
    open_proxy,
    options,
    prepare,
    print_table,
    temporary_folder,
    write_small_study,
)

from wastetune.backbones.activation_store import fill_activations, open_store
from wastetune.backbones.backbone import load_backbone
from wastetune.backbones.cuts import TOP
from wastetune.console import open_console
from wastetune.data.pixels import PictureSet
from wastetune.storage.budget import is_void, only_finished
from wastetune.storage.database import open_storage
from wastetune.storage.study import find_study, open_study, read_trials
from wastetune.training.fit import Epoch, FitResult
from wastetune.tuning.objective import TrialResult
from wastetune.tuning.workers import worker


def main() -> None:
    parser = options(__doc__, "trials", "extraction", "retry")
    parser.add_argument("--databases", default="sqlite,postgresql,grpc", help="of `trials`")
    parser.add_argument("--workers", help="of `trials`; by default 1,2,4,8,16, with --quick 1,2")
    parser.add_argument("--trials", type=int, help="of `trials`; by default 120, with --quick 12")
    asked = parser.parse_args()
    parts = {"trials": measure_trials, "extraction": measure_extraction, "retry": measure_retry}
    with temporary_folder():
        print_table((row for name in parts if asked.part in (name, "all") for row in parts[name](asked)), asked.json)


def measure_trials(asked: argparse.Namespace) -> Iterator[Row]:
    context = prepare(write_small_study("tiny")).context
    trials = asked.trials or (12 if asked.quick else 120)
    with open_postgres() as new_database, patch.object(worker, "run_trial", run_nothing):
        for database in asked.databases.split(","):
            first = None
            for count in map(int, (asked.workers or ("1,2" if asked.quick else "1,2,4,8,16")).split(",")):
                with ExitStack() as stack:
                    url = f"sqlite:///{count}.db" if database == "sqlite" else new_database()
                    if database == "grpc":
                        url = stack.enter_context(open_proxy(url))
                    row = run_workers(url, context, count, trials)
                first = first or row["trials/min"]
                yield {"database": database, "workers": count, **row, "times": row["trials/min"] / first}


def run_nothing(config: Any, number: int, context: Any, bar: Any, on_epoch: Any) -> TrialResult:
    """A trial without training; its score is a function of the configuration, so that the sampler has a task."""
    epoch = Epoch(1, 1.0, 1.0 - abs(config.learning_rate - 0.01), 0.5, 0.0)
    on_epoch(epoch)
    return TrialResult(FitResult(epoch, (epoch,), None, None), [[1, 0], [0, 1]], 0.0, 1)  # type: ignore[arg-type]


def run_workers(url: str, context: Any, workers: int, trials: int) -> Row:
    """Trials a minute from the moment at which all workers are ready, and the processor time of the machine."""
    forking = get_context("fork")
    ready = forking.Barrier(workers + 1)

    def work() -> None:
        study = open_study(open_storage(url), "tiny", {})
        run = partial(worker.run_worker, study, context, trials=trials, timeout=None, name=str(os.getpid()))
        ready.wait()
        run(bar=open_console(quiet=True).bar, on_trial=lambda trial: None)

    processes = [forking.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    ready.wait()
    began, before = time.perf_counter(), psutil.cpu_times()
    for process in processes:
        process.join()
    seconds, after = time.perf_counter() - began, psutil.cpu_times()
    everything = read_trials(find_study(open_storage(url), "tiny"))
    assert len(only_finished(everything)) == trials
    busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system"))
    return {
        "trials": trials,
        "trials/min": 60 * trials / seconds,
        "CPU ms/trial": 1000 * busy / trials,
        "cores busy": busy / seconds,
        "void trials": sum(map(is_void, everything)),
    }


def measure_extraction(asked: argparse.Namespace) -> Iterator[Row]:
    pictures = 512 if asked.quick else 6144
    one = seconds_to_extract(pictures, Path("one"))
    cases = {
        "one worker, one core": one,
        "two workers, two cores, one folder": seconds_to_extract(pictures, Path("shared"), Path("shared")),
        "two that share nothing, all for each": seconds_to_extract(pictures, Path("first"), Path("second")) / 2,
    }
    for name, seconds in cases.items():
        yield {"extraction": name, "s per set": seconds, "times": one / seconds}


def seconds_to_extract(pictures: int, *folders: Path) -> float:
    """Seconds until one worker for each of the folders, on a core each, is done."""
    spawning = get_context("spawn")
    turn = spawning.Barrier(len(folders) + 1)
    processes = [
        spawning.Process(target=extract, args=(pictures, folder.resolve(), core, turn))
        for core, folder in enumerate(folders)
    ]
    for process in processes:
        process.start()
    turn.wait()
    began = time.perf_counter()
    turn.wait()
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return seconds


def extract(pictures: int, folder: Path, core: int, turn: Any) -> None:
    """Generated pictures of 224 px through MobileNetV3Small, after a few others that compile it."""
    os.sched_setaffinity(0, {core})
    pixels = np.random.default_rng(0).integers(0, 256, (256, 224, 224, 3), dtype=np.uint8)
    keys = tuple(f"picture {number}" for number in range(pictures))

    def read(rows: range) -> np.ndarray:
        return pixels[np.arange(rows.start, rows.stop) % len(pixels)]

    backbone = load_backbone("mobilenet_v3_small", "none")
    few, labels = keys[:64], np.zeros(pictures, np.int64)
    warm_up = PictureSet(read, few, labels[:64], few, read)
    fill_activations(open_store(folder / "warm"), backbone, warm_up, [TOP], 0, 0.0)
    turn.wait()
    fill_activations(open_store(folder), backbone, PictureSet(read, keys, labels, keys, read), [TOP], 0, 0.0)
    turn.wait()


def measure_retry(asked: argparse.Namespace) -> Iterator[Row]:
    study = write_small_study("slow", epochs=40_000, depth=0.9)
    for number in range(1 if asked.quick else 5):
        yield {"from kill -9": "to the retry's start", "s": until_retried(study, f"sqlite:///retry{number}.db")}
    with open_postgres() as new_database:
        for _ in range(1 if asked.quick else 2):
            yield {"from kill -9": "to another host's FAIL, lease 60 s", "s": until_noticed(study, new_database())}


def until_retried(study: Path, url: str) -> float:
    """Seconds from the kill of a worker in its trial to the start of the same trial in the one that replaces it."""
    run = start(study, url, "run", "--workers", "1", "--no-retrain", "--trials", "1")
    (first,) = wait_for(url, 1)
    os.kill(first.user_attrs["owner"]["pid"], signal.SIGKILL)
    killed = time.time()
    _, again = wait_for(url, 2)
    run.terminate()
    run.wait()
    return float(again.datetime_start.timestamp() - killed)


def until_noticed(study: Path, url: str) -> float:
    """Seconds from the kill of a worker until one with another host name has failed its trial."""
    workers = [start(study, url, "worker", host="one")]
    wait_for(url, 1)
    workers.append(start(study, url, "worker", host="two"))
    wait_for(url, 2)
    workers[0].kill()
    killed = time.time()
    while read_all(url)[0].state.name == "RUNNING":
        time.sleep(0.1)
    noticed = time.time()
    workers[1].terminate()
    for process in workers:
        process.wait()
    return noticed - killed


def start(study: Path, url: str, *words: str, host: str = "") -> "subprocess.Popen[bytes]":
    code = f"import socket; socket.gethostname = lambda: {host!r}\n" if host else ""
    code += "import sys; from wastetune.cli.main import main; main(prog_name='wastetune')"
    command = [sys.executable, "-c", code, *words, "--study", str(study)]
    silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"WASTETUNE_STORAGE": url}, **silence)


def wait_for(url: str, count: int) -> "list[optuna.trial.FrozenTrial]":
    while len(found := read_all(url)) < count:
        time.sleep(0.1)
    return found


def read_all(url: str) -> "list[optuna.trial.FrozenTrial]":
    try:
        return optuna.load_study(study_name="slow", storage=open_storage(url)).trials
    except KeyError:
        return []


if __name__ == "__main__":
    main()
