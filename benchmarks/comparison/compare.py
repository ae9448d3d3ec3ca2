"""What does wastetune gain over KerasTuner and plain Optuna: seconds per trial, memory, score after equal time?"""

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
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import psutil
import question as asking
from curves import CONTESTANTS, draw_curves

from wastetune.search.space import load_space
from wastetune.storage.study import finished_trials
from wastetune.study.spec import load_study

HERE = Path(__file__).parent
SAMPLED_EVERY = 2.0  # seconds, for memory: the kernel walks all pages of a process for it, which takes a while
NAMES = (*CONTESTANTS, "floor")
FAIRNESS = [
    "All get the same decoded pictures, split, weights, space, epochs, patience and metric, each in a process of its "
    "own with an empty cache. Seconds count from the start of the process: imports and decoding included.",
    "KerasTuner (RandomSearch) and Optuna (TPE, median pruner) train one model with Keras's augmentation layers over "
    "pictures, of the same strengths but without saturation, whose layer is slow; wastetune trains on a bank of views "
    "that is computed once.",
    "A search that is cut short by seconds ends its epoch there, and validates what it has reached.",
    "Seconds of KerasTuner and Optuna for all trials are those per trial, times the trials. Optuna prunes only after "
    "its fifth trial, so two trials do not show what pruning would save.",
    "wastetune begins with the space's default configuration; the others begin where their sampler does.",
    "The test score of wastetune's winner is after training again on train + validation; of the others, that of "
    "the best epoch's weights, as these libraries give them back.",
    "Memory is the largest sum over the process and its children: resident includes wastetune's memory-mapped "
    "activations, private does not.",
]
# What may cut a search of KerasTuner or Optuna short.
LIMITS = ("seconds", "epochs", "all_epochs", "epochs_per_trial")


def run_contestant(command: list[str], folder: Path) -> dict[str, Any]:
    """Runs a command in the folder, with an empty cache there, and gives its wall seconds and its peak memory."""
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


def measure_everyday(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """KerasTuner or Optuna: a few trials, and from them the seconds of all."""
    record = folder / "record.json"
    command = [sys.executable, str(HERE / "everyday.py"), name, "--json", str(record)]
    command += ["--space", str(Path(load_space(asked.space).source).resolve())]  # it runs in another folder
    for option in ("dataset", "backbone", "views", "seed", "weights", "trials"):
        command += [f"--{option}", str(getattr(asked, option))]
    for option in LIMITS:
        if (value := getattr(asked, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    run = run_contestant(command, folder)
    found = json.loads(record.read_text())
    one, count = found["per_trial"], asked.wastetune_trials
    projected = None if one["seconds"] is None else found["preparing_seconds"] + count * one["seconds"]
    return {
        "trials": {
            "run": len(found["trials"]),
            "cut short": sum(trial["stopped"] is not None for trial in found["trials"]),
            "asked": count,
        },
        "seconds_per_trial": one["seconds"],
        "seconds_per_epoch": one["seconds_per_epoch"],
        "seconds_all_trials": projected,
        "how": f"projected: {found['preparing_seconds']:.0f} s to begin, then {count} times one trial ({one['how']})",
        "search_ended": found["search_ended"],
        "wall_seconds": run["wall_seconds"],
        "peak_bytes": run["peak_bytes"],
        "best_score": found["best_score"],
        "test": found["test"],
        "measured_trials": [
            {key: trial[key] for key in ("seconds", "best", "stopped", "config")} | {"epochs": len(trial["epochs"])}
            for trial in found["trials"]
        ],
        "curve": rising((event["seconds"], event["score"]) for event in found["events"]),
        "pictures": found["pictures"],
        "gpus": found["gpus"],
        "limits": {
            option: getattr(asked, option) for option in ("seconds", "epochs", "all_epochs", "epochs_per_trial")
        },
    }


def measure_wastetune(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All trials of `wastetune run` on the same question, as its users run it."""
    study = asking.write_study(asked, folder, asked.wastetune_trials)
    places = {
        "--study": study,
        "--storage": f"sqlite:///{folder}/study.db",
        "--tracking-uri": f"sqlite:///{folder}/mlflow.db",
        "--results": folder / "results",
    }
    command = [sys.executable, "-m", "wastetune", "run"]
    if asked.workers is not None:
        command += ["--workers", str(asked.workers)]
    run = run_contestant(command + [str(word) for pair in places.items() for word in pair], folder)
    trials = read_finished(places["--storage"], load_study(str(study)).name)
    report = json.loads((folder / "results" / study.stem / "report.json").read_text())
    scores = report["test"]
    ended = max(trial.datetime_complete for trial in trials).timestamp() - run["began"]
    spent = sum(trial.duration.total_seconds() for trial in trials)
    return {
        "trials": {"run": len(trials), "asked": asked.wastetune_trials, **report["trials"]},
        "seconds_per_trial": spent / len(trials),
        "seconds_all_trials": ended,
        "how": f"measured: {len(trials)} trials, the activations that they share included"
        + (f", {asked.workers} worker processes" if asked.workers is not None else ""),
        "seconds_with_retraining": run["wall_seconds"],
        "search_ended": ended,
        "wall_seconds": run["wall_seconds"],
        "peak_bytes": run["peak_bytes"],
        "best_score": report["best"]["score"],
        "test": {"accuracy": scores["accuracy"], "macro_f1": scores["f1_macro"]},
        "seconds": report["seconds"],
        "mean_epochs": sum(len(trial.user_attrs.get("history", ())) for trial in trials) / len(trials),
        "curve": rising(sorted(epoch_ends(trials, run["began"]))),
        "pictures": report["counts"],
    }


def read_finished(storage: str, name: str) -> list[Any]:
    """The complete and pruned trials of a study, from its database."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return finished_trials(optuna.load_study(storage=storage, study_name=name))


def epoch_ends(trials: list[Any], began: float) -> list[tuple[float, float]]:
    """When each epoch ended, in seconds since `began`, and its score: counted back from the trial's end."""
    ends = []
    for trial in trials:
        moment = trial.datetime_complete.timestamp() - began
        for epoch in reversed(trial.user_attrs.get("history", ())):
            ends.append((moment, epoch["score"]))
            moment -= epoch["seconds"]
    return ends


def rising(scores: Any) -> list[list[float]]:
    """The moments at which the best score so far rose: (seconds, best score)."""
    curve: list[list[float]] = []
    for seconds, score in scores:
        if not curve or score > curve[-1][1]:
            curve.append([round(seconds, 2), round(score, 5)])
    return curve


def measure_floor(asked: argparse.Namespace, pictures: dict[str, int]) -> dict[str, Any]:
    """What the trunk alone takes: training pictures once per view, validation and test pictures once."""
    passes = pictures["train"] * asked.views + pictures["val"] + pictures["test"]
    rate, how = trunk_rate(asked)
    return {
        "pictures": pictures,
        "images_per_second": rate,
        "seconds_all_trials": passes / rate,
        "how": f"{passes:,} pictures through the trunk ({asked.views} views) at {rate:.1f} images/s, {how}",
    }


def trunk_rate(asked: argparse.Namespace) -> tuple[float, str]:
    """Images/s of the whole trunk as fast as this machine runs it."""
    try:
        from trunks import best_rate
    except ImportError:
        return keras_rate(asked), "predict_on_batch at batch 32"
    return float(best_rate(asked.backbone)), "the best rate of trunks.py"


def keras_rate(asked: argparse.Namespace, seconds: float = 10.0) -> float:
    import numpy as np

    from wastetune.backbones.backbone import build_trunk, load_backbone
    from wastetune.backbones.cuts import TOP

    backbone = load_backbone(asked.backbone, asked.weights, folder=asking.folder_named("WASTETUNE_WEIGHTS"))
    trunk = build_trunk(backbone, (TOP,))
    batch = np.random.default_rng(0).uniform(0, 255, (32, backbone.size, backbone.size, 3)).astype(np.float32)
    trunk.predict_on_batch(batch)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        trunk.predict_on_batch(batch)
        done += len(batch)
    return done / (time.perf_counter() - began)


def describe_machine() -> dict[str, Any]:
    packages = ("wastetune", "keras", "tensorflow", "optuna", "keras-tuner", "numpy")
    names = [line.partition(":")[2].strip() for line in cpu_lines() if line.startswith("model name")]
    return {
        "when": datetime.now().isoformat(timespec="minutes"),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def score_after(curve: list[list[float]], seconds: float) -> float | None:
    """The best score that a contestant had by then."""
    return max((score for moment, score in curve if moment <= seconds), default=None)


def render_table(record: dict[str, Any]) -> str:
    """What was found, a row a contestant."""
    contestants = record["contestants"]
    equal = contestants.get("wastetune", {}).get("search_ended")
    count = record["question"]["trials"]
    after = "best val." if equal is None else f"val. at {equal:.0f} s"
    lines = [
        f"{'':12}{'s/trial':>9}{f's, {count} trials':>14}{'GB':>6}{after:>15}{'best val.':>11}{'test F1':>9}{'acc.':>7}"
    ]
    for name in (name for name in NAMES if name in contestants):
        row = contestants[name]
        test, curve = row.get("test") or {}, row.get("curve", [])
        cells = [
            number(row.get("seconds_per_trial"), ".1f"),
            number(row["seconds_all_trials"], ",.0f"),
            number(row["peak_bytes"]["private"] / 1e9 if "peak_bytes" in row else None, ".2f"),
            number(score_after(curve, equal if equal is not None else float("inf")), ".3f"),
            number(row.get("best_score"), ".3f"),
            number(test.get("macro_f1"), ".3f"),
            number(test.get("accuracy"), ".3f"),
        ]
        widths = (9, 14, 6, 15, 11, 9, 7)
        lines.append(f"{name:12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    lines += [f"{name}: {contestants[name]['how']}" for name in NAMES if name in contestants]
    return "\n".join(lines)


def number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def to_text(record: dict[str, Any]) -> str:
    """JSON with as many figures as mean something, a point of a curve on one line."""

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(each) for key, each in value.items()}
        if isinstance(value, list):
            return [shortened(each) for each in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", json.dumps(shortened(record), indent=1)) + "\n"


def load_record(file: Path, question: dict[str, Any]) -> dict[str, Any]:
    """What earlier runs found, to be kept. Ends the program where they were asked something else."""
    if not file.exists():
        return {"question": question, "fairness": FAIRNESS, "contestants": {}}
    record: dict[str, Any] = json.loads(file.read_text())
    if record["question"] != question:
        sys.exit(f"{file} answers another question ({record['question']}, now {question}); give another --name")
    return record | {"fairness": FAIRNESS}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    asking.add_arguments(parser)
    parser.add_argument("--only", default=",".join(NAMES), help="which to run; what others found before is kept")
    parser.add_argument("--name", help="of the files in results/; by default made of data set, backbone and space")
    parser.add_argument("--wastetune-trials", type=int, default=50, help="trials of wastetune, and those projected to")
    parser.add_argument("--workers", type=int, help="worker processes of wastetune; by default it works alone")
    parser.add_argument("--trials", type=int, default=2, help="trials of KerasTuner and of Optuna")
    parser.add_argument("--seconds", type=float, help="stop KerasTuner and Optuna so long after their start")
    parser.add_argument("--epochs", type=int, help="train no more epochs of one of their trials than this")
    parser.add_argument("--all-epochs", type=int, help="stop them after so many epochs of all trials together")
    parser.add_argument("--epochs-per-trial", type=int, help="with --epochs: what a whole trial is taken to have")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(NAMES):
        parser.error(f"--only {','.join(unknown)}: known are {', '.join(NAMES)}")
    return arguments


def main() -> None:
    asked = parse_arguments()
    question = {key: getattr(asked, key) for key in ("dataset", "backbone", "space", "views", "seed", "weights")}
    question["trials"] = asked.wastetune_trials
    name = asked.name or "-".join(Path(question[key]).stem for key in ("dataset", "backbone", "space"))
    file = asked.results / f"{name}.json"
    asked.results.mkdir(parents=True, exist_ok=True)
    record = load_record(file, question)
    contestants = record["contestants"]
    measures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kerastuner": lambda folder: measure_everyday("kerastuner", asked, folder),
        "optuna": lambda folder: measure_everyday("optuna", asked, folder),
        "wastetune": lambda folder: measure_wastetune(asked, folder),
        "floor": lambda folder: measure_floor(asked, next(iter(contestants.values()))["pictures"]),
    }
    for contestant in (each for each in NAMES if each in asked.only):
        machine = describe_machine()
        with tempfile.TemporaryDirectory() as folder:
            contestants[contestant] = measures[contestant](Path(folder)) | {"machine": machine}
        file.write_text(to_text(record))  # after each: the next may take an hour, and fail
    draw_curves(record, file.with_suffix(".png"))
    print(render_table(record))


if __name__ == "__main__":
    main()
