"""Is a process's memory flat over many trials, and does a large set of pictures fit into a few gigabytes?

    python benchmarks/memory.py trials [--trials 500] [--tails]    memory of its own after every 50 trials
    python benchmarks/memory.py pictures [--pictures 100000]       a study with a limit of 4 GiB on that memory

Own memory is what no file on disk stands behind (USS; the limit is RLIMIT_DATA): pages of stored activations that the
system keeps because nobody else wants the room are not counted.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LIMIT = 4 * 2**30
SPACE = """
head_layers = {{ int = [0, 2], default = 1 }}
head_units = {{ int = [64, 256], default = 64, when = "head_layers > 0" }}
dropout = {{ float = [0.0, 0.5], default = 0.2 }}
learning_rate = {{ float = [1e-4, 1e-2], log = true, default = 1e-3 }}
batch_size = 128
frozen_depth = {depth}
epochs = 2
"""
STUDY = """
dataset = "{pictures}"
backbone = "mobilenet_v3_small_minimalistic"
space = "space.toml"
weights = "none"
image_size = 48
views = 2
trials = 3
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("trials", "pictures"))
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--tails", action="store_true", help="some trials train a part of the backbone")
    parser.add_argument("--pictures", type=int, default=100_000)
    arguments = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    depth = "{ float = [0.9, 1.0], default = 1.0 }" if arguments.tails else "1.0"
    Path("space.toml").write_text(SPACE.format(depth=depth))
    if arguments.what == "trials":
        many_trials(arguments.trials)
    else:
        many_pictures(arguments.pictures)


def many_trials(count: int) -> None:
    import psutil

    from wastetune.console import open_console
    from wastetune.storage.database import open_storage
    from wastetune.storage.study import open_study
    from wastetune.study.prepare import prepare_study
    from wastetune.study.spec import load_study
    from wastetune.study.worker import run_worker

    spec = load_study("mobilenet_small_trashnet").model_copy(update={"space": "space.toml", "views": 1})
    data, weights = (Path(os.environ[name]) for name in ("WASTETUNE_DATA", "WASTETUNE_WEIGHTS"))
    console = open_console()
    prepared = prepare_study(spec, data=data, weights=weights, console=console)
    study = open_study(open_storage("sqlite:///memory.db"), "memory", prepared.fingerprint)
    process, ended = psutil.Process(), 0

    def measure(trial: object) -> None:
        nonlocal ended
        ended += 1
        if ended == 1 or ended % 50 == 0:
            print(f"{ended:4d} trials: {process.memory_full_info().uss / 1e6:7.0f} MB", flush=True)

    run_worker(study, prepared.context, trials=count, timeout=None, bar=console.bar, on_trial=measure)


def many_pictures(count: int) -> None:
    draw_pictures(Path("pictures"), count)
    Path("study.toml").write_text("# Does it fit?\n" + STUDY.format(pictures=Path("pictures").resolve()))
    environment = {**os.environ, "WASTETUNE_CACHE": str(Path("cache").resolve())}
    program = "from wastetune.cli.main import main; main()"
    command = [sys.executable, "-c", program, "run", "--study", "study.toml"]
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, preexec_fn=limit_memory)
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{count:,} pictures: {time.perf_counter() - started:.0f} s under a limit of {LIMIT / 2**30:.0f} GiB of")
    print(f"own memory; largest resident size, mapped files included, {used:.1f} GB")


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def draw_pictures(folder: Path, count: int) -> None:
    """Coloured noise of four classes, small enough to be written fast."""
    import cv2
    import numpy as np

    draw = np.random.default_rng(0)
    for label in range(4):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(count // 4):
            picture = draw.integers(0, 256, (6, 6, 3), np.uint8) // 2 + np.uint8(30 * label)
            picture = cv2.resize(picture, (48, 48), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"class{label}" / f"{number:06d}.jpg"), picture)


if __name__ == "__main__":
    main()
