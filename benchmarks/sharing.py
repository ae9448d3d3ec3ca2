"""Do two workers, a core each, extract activations twice as fast as one? How long from kill -9 to the retry's start?

    python benchmarks/sharing.py [extraction|retry ...]

Extraction: 6,144 drawn pictures through MobileNetV3Small at 224 px, by one process on core 0, by two on cores 0 and 1
that share a folder, and by two that share nothing, which tells what the second core is worth. Retry: five times, a
worker of `run --workers 1` on SQLite is killed in the middle of a trial; twice, a `worker` on PostgreSQL of whose host
only its signs of life tell.
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
from wastetune.data.synthetic import write_sample
from wastetune.storage.database import open_storage

EXTRACT = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
import numpy as np
from pathlib import Path
from wastetune.backbones.activation_store import fill_activations, open_store
from wastetune.backbones.backbone import load_backbone
from wastetune.backbones.cuts import TOP
from wastetune.data.pixels import PictureSet
pixels = np.random.default_rng(0).integers(0, 256, (256, 224, 224, 3), dtype=np.uint8)
def read(rows):
    return pixels[np.arange(rows.start, rows.stop) % 256]
pictures = PictureSet(read, tuple(f"picture {n}" for n in range(6144)), np.zeros(6144, np.int64))
backbone = load_backbone("mobilenet_v3_small", "none")
few = PictureSet(read, pictures.keys[:64], pictures.labels[:64])
fill_activations(open_store(Path(sys.argv[1]) / "warm"), backbone, few, [TOP], 0, 0.0)
print("ready", flush=True)
sys.stdin.readline()
fill_activations(open_store(Path(sys.argv[1])), backbone, pictures, [TOP], 0, 0.0)
"""


def extraction() -> None:
    one = seconds_to_extract([0], shared=True)
    together = seconds_to_extract([0, 1], shared=True)
    apart = seconds_to_extract([0, 1], shared=False)
    print(f"extraction: one worker on one core {one:.1f} s, two on two {together:.1f} s: {one / together:.2f} times")
    print(
        f"two on two that share nothing, all for each: {apart:.1f} s, so a second core is worth {2 * one / apart:.2f}"
    )


def seconds_to_extract(cores: list[int], *, shared: bool) -> float:
    """Seconds until one worker on each of the cores is done, in one folder or each in its own."""
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in cores]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [
            subprocess.Popen([sys.executable, "-c", EXTRACT, folders[0] if shared else folder, str(core)], **pipes)
            for core, folder in zip(cores, folders, strict=True)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        began = time.perf_counter()
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait() for process in processes] == [0] * len(cores)
        return time.perf_counter() - began


def retry() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_sample(folder / "pictures", classes=("box", "leaf"), per_class=20, size=48)
        space = SPACE.replace("epochs = 2", "epochs = 40000\npatience = 40000")
        (folder / "space.toml").write_text(space.replace("default = 1.0 }\naug", "default = 0.9 }\naug"))
        (folder / "slow.toml").write_text(STUDY.format(pictures=folder / "pictures", space=folder / "space.toml"))
        os.environ["WASTETUNE_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        here = [until_retried(f"sqlite:///{folder}/{number}.db") for number in range(5)]
        print(f"from the kill to the retry, same machine: median {statistics.median(here):.1f} s of {rounded(here)}")
        postgres = stack.enter_context(open_postgres())
        there = [until_noticed(postgres.new_database()) for _ in range(2)]
        print(f"from the kill until another machine's worker notices, lease 60 s: {rounded(there)} s")


def until_retried(url: str) -> float:
    """Seconds from the kill of a worker in its trial to the start of the same trial in the one that replaces it."""
    run = start(url, "run", "--workers", "1", "--no-retrain", "--trials", "1")
    (first,) = wait_for(url, 1)
    os.kill(first.user_attrs["owner"]["pid"], signal.SIGKILL)
    killed = time.time()
    _, again = wait_for(url, 2)
    run.terminate()
    run.wait()
    return again.datetime_start.timestamp() - killed


def until_noticed(url: str) -> float:
    """Seconds from the kill of a worker until one with another host name has failed its trial."""
    workers = [start(url, "worker", host="one")]
    wait_for(url, 1)
    workers.append(start(url, "worker", host="two"))
    wait_for(url, 2)
    workers[0].kill()
    killed = time.time()
    while read(url)[0].state.name == "RUNNING":
        time.sleep(0.1)
    noticed = time.time()
    workers[1].terminate()
    for worker in workers:
        worker.wait()
    return noticed - killed


def start(url: str, *words: str, host: str = "") -> "subprocess.Popen[bytes]":
    code = f"import socket; socket.gethostname = lambda: {host!r}\n" if host else ""
    code += "import sys; from wastetune.cli.main import main; main(prog_name='wastetune')"
    command = [sys.executable, "-c", code, *words, "--study", "slow.toml"]
    silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"WASTETUNE_STORAGE": url}, **silence)


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
