"""What does wastetune gain over KerasTuner and plain Optuna: seconds per trial, memory, score after equal time?

Also the floor: the seconds that the trunk alone takes for the pictures. Writes NAME.json and NAME.png, which keep what
earlier runs with the same question found. The conditions are in benchmarks/README.md.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for common.py

import optuna
import psutil
from common import Row, print_table, temporary_folder
from curves import CONTESTANTS, draw_curves
from question import KEYS, LIMITS, question_options, small_question, to_words, write_question

from wastetune.storage.study import finished_trials

SAMPLED_EVERY = 2.0  # seconds, for memory: the kernel reads all pages of a process for it, which takes a while
NAMES = (*CONTESTANTS, "floor")


def main() -> None:
    parser = question_options(__doc__)
    parser.add_argument("--only", default=",".join(NAMES), help="which to run; what others found before is kept")
    parser.add_argument("--name", help="of the files; by default made of data set, backbone and space")
    parser.add_argument("--wastetune-trials", type=int, default=50, help="trials of wastetune, and those projected to")
    parser.add_argument("--workers", type=int, help="worker processes of wastetune; by default it works alone")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="the folder of the files")
    asked = parser.parse_args()
    if unknown := set(asked.only.split(",")) - set(NAMES):
        parser.error(f"--only {','.join(unknown)}: known are {', '.join(NAMES)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = asked.results.resolve()
    with temporary_folder() as folder:
        if asked.quick:
            vars(asked).update(small_question(), wastetune_trials=2)
            results = folder
        record = compare(asked, results)
    print_table(rows(record), asked.json)
    for name, found in record["contestants"].items():
        print(f"{name}: {found['how']}")


def compare(asked: argparse.Namespace, results: Path) -> dict[str, Any]:
    question = {key: getattr(asked, key) for key in KEYS} | {"trials": asked.wastetune_trials}
    name = asked.name or "-".join(Path(question[key]).stem for key in ("dataset", "backbone", "space"))
    file = results / f"{name}.json"
    results.mkdir(parents=True, exist_ok=True)
    record = json.loads(file.read_text()) if file.exists() else {"question": question, "contestants": {}}
    if record["question"] != question:
        sys.exit(f"{file} answers another question ({record['question']}, now {question}); give another --name")
    contestants = record["contestants"]
    for contestant in (each for each in NAMES if each in asked.only.split(",")):
        machine = describe_machine()
        if contestant == "floor":
            found = measure_floor(asked, next(iter(contestants.values()))["pictures"])
        else:
            with tempfile.TemporaryDirectory() as folder:
                measure = measure_wastetune if contestant == "wastetune" else measure_everyday
                found = measure(asked, Path(folder), contestant)
        contestants[contestant] = found | {"machine": machine}
        file.write_text(json.dumps(record, indent=1))  # after each: the next may take an hour, and fail
    draw_curves(record, file.with_suffix(".png"))
    return record


def run_contestant(command: list[str], folder: Path) -> dict[str, Any]:
    """Runs a command in the folder, with an empty cache there; gives its start, wall seconds and peak memory."""
    environment = os.environ | {"WASTETUNE_CACHE": str(folder / "cache"), "PYTHONWARNINGS": "ignore"}
    print(f"$ {shlex.join(command)}", flush=True)
    began = time.time()
    process = subprocess.Popen(command, cwd=folder, env=environment)
    peak = {"resident": 0, "private": 0}
    try:
        while process.poll() is None:
            for kind, size in memory_of(process.pid).items():
                peak[kind] = max(peak[kind], size)
            time.sleep(SAMPLED_EVERY)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}")
    return {"began": began, "wall_seconds": time.time() - began, "peak_bytes": peak}


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process and all its children: resident, and private to them."""
    sizes = {"resident": 0, "private": 0}
    try:
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            full = process.memory_full_info()
            sizes["resident"] += full.rss
            sizes["private"] += full.uss
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
        pass
    return sizes


def measure_everyday(asked: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """KerasTuner or Optuna: a few trials, and from them the seconds of all."""
    file = folder / "record.json"
    run = run_contestant(
        [sys.executable, str(HERE / "everyday.py"), name, "--json", str(file), *to_words(asked)], folder
    )
    found = json.loads(file.read_text())
    one, count, preparing = found["per_trial"], asked.wastetune_trials, found["preparing_seconds"]
    return {
        "trials": {
            "run": len(found["trials"]),
            "cut short": sum(trial["stopped"] is not None for trial in found["trials"]),
            "asked": count,
        },
        "seconds_per_trial": one["seconds"],
        "seconds_per_epoch": one["seconds_per_epoch"],
        "seconds_all_trials": None if one["seconds"] is None else preparing + count * one["seconds"],
        "how": f"projected: {preparing:.0f} s to begin, then {count} times one trial ({one['how']})",
        **{key: run[key] for key in ("wall_seconds", "peak_bytes")},
        **{key: found[key] for key in ("search_ended", "best_score", "test", "pictures", "gpus")},
        "measured_trials": found["trials"],
        "curve": rising((event["seconds"], event["score"]) for event in found["events"]),
        "limits": {option: getattr(asked, option) for option in LIMITS},
    }


def measure_wastetune(asked: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """All trials of `wastetune run` on the same question, as its users run it."""
    study = write_question(asked, asked.wastetune_trials)
    storage = f"sqlite:///{folder}/study.db"
    command = [sys.executable, "-m", "wastetune", "run", "--study", str(study), "--storage", storage]
    command += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    command += [] if asked.workers is None else ["--workers", str(asked.workers)]
    run = run_contestant(command, folder)
    trials = finished_trials(optuna.load_study(storage=storage, study_name=study.stem))
    report = json.loads((folder / "results" / study.stem / "report.json").read_text())
    ended = max(trial.datetime_complete for trial in trials).timestamp() - run["began"]
    return {
        "trials": {"run": len(trials), "asked": asked.wastetune_trials, **report["trials"]},
        "seconds_per_trial": sum(trial.duration.total_seconds() for trial in trials) / len(trials),
        "seconds_all_trials": ended,
        "how": f"measured: {len(trials)} trials, the activations that they share included, "
        f"{asked.workers or 'no'} worker processes",
        **{key: run[key] for key in ("wall_seconds", "peak_bytes")},
        "search_ended": ended,
        "best_score": report["best"]["score"],
        "test": {"accuracy": report["test"]["accuracy"], "macro_f1": report["test"]["f1_macro"]},
        "seconds": report["seconds"],
        "mean_epochs": sum(len(trial.user_attrs.get("history", ())) for trial in trials) / len(trials),
        "curve": rising(sorted(epoch_ends(trials, run["began"]))),
        "pictures": report["counts"],
    }


def epoch_ends(trials: list[Any], began: float) -> Iterator[tuple[float, float]]:
    """When each epoch ended, in seconds since `began`, and its score: counted back from the trial's end."""
    for trial in trials:
        moment = trial.datetime_complete.timestamp() - began
        for epoch in reversed(trial.user_attrs.get("history", ())):
            yield moment, epoch["score"]
            moment -= epoch["seconds"]


def rising(scores: Any) -> list[list[float]]:
    """The moments at which the best score so far rose: (seconds, best score)."""
    curve: list[list[float]] = []
    for seconds, score in scores:
        if not curve or score > curve[-1][1]:
            curve.append([round(seconds, 2), round(score, 5)])
    return curve


def measure_floor(asked: argparse.Namespace, pictures: dict[str, int]) -> dict[str, Any]:
    """Seconds of the trunk alone: training pictures once per view, validation and test pictures once."""
    file = Path("trunk.json").resolve()
    command = [sys.executable, str(HERE.parent / "throughput.py"), "trunk", "--backbone", asked.backbone]
    subprocess.run([*command, "--json", str(file), *(["--quick"] if asked.quick else [])], check=True)
    rate = max(row["images/s"] for row in json.loads(file.read_text()))
    passes = pictures["train"] * asked.views + pictures["val"] + pictures["test"]
    how = f"{passes:,} pictures through the trunk ({asked.views} views) at {rate:.1f} images/s"
    return {"pictures": pictures, "images_per_second": rate, "seconds_all_trials": passes / rate, "how": how}


def describe_machine() -> dict[str, Any]:
    packages = ("wastetune", "keras", "tensorflow", "optuna", "keras-tuner", "numpy")
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "when": datetime.now().isoformat(timespec="minutes"),
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def rows(record: dict[str, Any]) -> Iterator[Row]:
    """One row per contestant; `times` is how many times faster it is than the first one."""
    contestants = {name: record["contestants"][name] for name in NAMES if name in record["contestants"]}
    equal = contestants.get("wastetune", {}).get("search_ended", float("inf"))
    first = next(iter(contestants.values()))["seconds_all_trials"]
    for name, found in contestants.items():
        whole, test = found["seconds_all_trials"], found.get("test") or {}
        yield {
            "contestant": name,
            "s/trial": found.get("seconds_per_trial"),
            f"s, {record['question']['trials']} trials": whole,
            "times": first / whole if first and whole else None,
            "GB": found["peak_bytes"]["private"] / 1e9 if "peak_bytes" in found else None,
            f"val. at {equal:.0f} s": max(
                (score for moment, score in found.get("curve", ()) if moment <= equal), default=None
            ),
            "best val.": found.get("best_score"),
            "test F1": test.get("macro_f1"),
            "accuracy": test.get("accuracy"),
        }


if __name__ == "__main__":
    main()
