"""Is a process's memory flat over many trials, and do 100,000 pictures fit into 4 GiB?

    trials: memory after every 50 trials of one process on TrashNet
    pictures: a study of three trials with a limit of 4 GiB on its memory

Memory is what no file on disk backs (USS; the limit is RLIMIT_DATA): memory-mapped activations, which the system keeps
only while nothing else needs the memory, are not counted.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil
from common import (
    Row,
    options,
    prepare_trashnet,
    print_table,
    temporary_folder,
    timed,
    write_small_study,
    write_space,
)

from wastetune.console import open_console
from wastetune.storage.database import open_storage
from wastetune.storage.study import open_study
from wastetune.tuning.workers.worker import run_worker

LIMIT = 4 * 2**30  # bytes


def main() -> None:
    parser = options(__doc__, "trials", "pictures")
    parser.add_argument("--trials", type=int, help="by default 500, with --quick 20")
    parser.add_argument("--tails", action="store_true", help="some trials train a part of the backbone")
    parser.add_argument("--pictures", type=int, help="by default 100,000, with --quick 400")
    asked = parser.parse_args()
    parts = {"trials": many_trials, "pictures": many_pictures}
    with temporary_folder():
        print_table((row for name in parts if asked.part in (name, "all") for row in parts[name](asked)), asked.json)


def many_trials(asked: argparse.Namespace) -> list[Row]:
    depth = "{ float = [0.9, 1.0], default = 1.0 }" if asked.tails else 1.0
    prepared = prepare_trashnet(quick=asked.quick, space=write_space(depth=depth), views=1)
    study = open_study(open_storage("sqlite:///memory.db"), "memory", prepared.fingerprint)
    total, step = asked.trials or (20 if asked.quick else 500), 10 if asked.quick else 50
    rows: list[Row] = []
    used: list[float] = []

    def measure(trial: object) -> None:
        used.append(psutil.Process().memory_full_info().uss / 1e6)
        if (count := len(used)) == 1 or count % step == 0:
            rows.append({"trials": count, "MB": used[-1], "times": used[-1] / used[0]})

    bar = open_console(quiet=True).bar
    run_worker(study, prepared.context, trials=total, timeout=None, bar=bar, on_trial=measure)
    return rows


def many_pictures(asked: argparse.Namespace) -> Iterator[Row]:
    count = asked.pictures or (400 if asked.quick else 100_000)
    draw_pictures(Path("many"), count)
    study = write_small_study("many_pictures", dataset=str(Path("many").resolve()), trials=3)
    command = [sys.executable, "-m", "wastetune", "run", "--study", str(study)]
    limit = partial(resource.setrlimit, resource.RLIMIT_DATA, (LIMIT, LIMIT))
    seconds = timed(lambda: subprocess.run(command, check=True, preexec_fn=limit, stdout=subprocess.DEVNULL))
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    yield {"pictures": count, "limit GB": LIMIT / 1e9, "s": seconds, "resident GB, mapped files too": resident}


def draw_pictures(folder: Path, count: int) -> None:
    """Coloured noise of four classes, small enough to be written fast."""
    rng = np.random.default_rng(0)
    for label in range(4):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(count // 4):
            picture = rng.integers(0, 256, (6, 6, 3), np.uint8) // 2 + np.uint8(30 * label)
            picture = cv2.resize(picture, (48, 48), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"class{label}" / f"{number:06d}.jpg"), picture)


if __name__ == "__main__":
    main()
