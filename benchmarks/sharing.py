"""Do two workers, a core each, extract activations twice as fast as one? How long from kill -9 to the retry's start?

    python benchmarks/sharing.py [extraction|retry ...]

Extraction: 1,536 drawn pictures through MobileNetV3Small at 224 px, by one process on core 0, then by two processes on
cores 0 and 1 that share a folder. Retry: five times, a worker of `run --workers 1` on SQLite is killed in the middle of
a trial; and a lone `worker` on PostgreSQL, noticed by another one when its lease of a minute is over.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import optuna

from conftest import SPACE, STUDY, open_postgres
from wastetune.data.sample import write_sample
from wastetune.database import open_storage

EXTRACT = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
import numpy as np
from pathlib import Path
from wastetune.activations import PictureSet, fill_activations, open_store
from wastetune.backbone import TOP, load_backbone
pixels = np.random.default_rng(0).integers(0, 256, (256, 224, 224, 3), dtype=np.uint8)
def read(rows):
    return pixels[np.arange(rows.start, rows.stop) % 256]
pictures = PictureSet(read, tuple(f"picture {n}" for n in range(1536)), np.zeros(1536, np.int64))
backbone = load_backbone("mobilenet_v3_small", "none")
fill_activations(open_store(Path(sys.argv[1]) / "warm"), backbone, PictureSet(read, ("a",) * 64, np.zeros(64)), [TOP], 0, 0)
print("ready", flush=True)
sys.stdin.readline()
fill_activations(open_store(Path(sys.argv[1])), backbone, pictures, [TOP], 0, 0.0)
"""


def extraction() -> None:
    seconds = {}
    for cores in ([0], [0, 1]):
        with tempfile.TemporaryDirectory() as folder:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes = [
                subprocess.Popen([sys.executable, "-c", EXTRACT, folder, str(core)], **pipes) for core in cores
            ]
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            began = time.perf_counter()
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
            assert [process.wait() for process in processes] == [0] * len(cores)
            seconds[len(cores)] = time.perf_counter() - began
    one, two = seconds[1], seconds[2]
    print(f"extraction: one worker on one core {one:.1f} s, two on two {two:.1f} s: {one / two:.2f} times")


def retry() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_sample(folder / "pictures", classes=("box", "leaf"), per_class=20, size=48)
        space = SPACE.replace("epochs = 2", "epochs = 40000\npatience = 40000")
        (folder / "space.toml").write_text(space.replace("default = 1.0 }\naug", "default = 0.9 }\naug"))
        (folder / "slow.toml").write_text(STUDY.format(pictures=folder / "pictures", space=folder / "space.toml"))
        os.environ["WASTETUNE_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        here = [after_kill(f"sqlite:///{folder}/{n}.db", "run", "--workers", "1") for n in range(5)]
        print(f"same machine, replaced by its run: median {statistics.median(here):.1f} s of {rounded(here)}")
        postgres = stack.enter_context(open_postgres())
        there = [after_kill(postgres.new_database(), "worker", "worker") for _ in range(2)]
        print(f"another worker, process number of no use: {rounded(there)} s, lease 60 s")


def after_kill(url: str, command: str, *options: str) -> float:
    """Seconds from the kill of a worker in its trial to the start of the next trial with its configuration."""
    environment = os.environ | {"WASTETUNE_STORAGE": url}
    silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def start(words: list[str], host: str = "") -> "subprocess.Popen[bytes]":
        # Another host name, so that only signs of life tell.
        code = f"import socket; socket.gethostname = lambda: {host!r}\n" if host else ""
        code += "import sys; from wastetune.cli import main; main(prog_name='wastetune')"
        return subprocess.Popen(
            [sys.executable, "-c", code, *words, "--study", "slow.toml"], env=environment, **silence
        )

    if command == "run":
        processes = [start(["run", *options, "--no-retrain", "--trials", "1"])]
    else:
        processes = [start(["worker"], "one")]
    (first,) = wait_for(url, 1)
    if command == "worker":
        processes.append(start(["worker"], "two"))
        wait_for(url, 2)
    os.kill(first.user_attrs["owner"]["pid"], signal.SIGKILL)
    killed = time.time()
    count = len(read(url))
    again = None
    while again is None:
        for trial in read(url)[count:]:
            if trial.user_attrs["config"] == first.user_attrs["config"]:
                again = trial
        if command == "worker" and again is None:  # the other one is busy with an endless trial: it is told to end
            lost = read(url)[first.number].state.name == "FAIL"
            if lost:
                again_at = time.time()
                for process in processes:
                    process.kill()
                    process.wait()
                return again_at - killed
        time.sleep(0.05)
    for process in processes:
        process.terminate()
        process.wait()
    return again.datetime_start.timestamp() - killed


def wait_for(url: str, count: int) -> list[optuna.trial.FrozenTrial]:
    while len(found := read(url)) < count:
        time.sleep(0.1)
    return found


def read(url: str) -> list[optuna.trial.FrozenTrial]:
    try:
        return optuna.load_study(study_name="slow", storage=open_storage(url)).trials
    except KeyError:
        return []


def rounded(seconds: list[float]) -> list[float]:
    return [round(each, 1) for each in seconds]


if __name__ == "__main__":
    for name in sys.argv[1:] or ("extraction", "retry"):
        {"extraction": extraction, "retry": retry}[name]()
