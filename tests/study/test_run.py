"""The whole job as a person runs it: one study from the command line, again, stopped in between, and its model."""

import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import fields, replace
from datetime import datetime

import optuna
import pytest

from wastetune.console import open_console
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.study.run import run_study
from wastetune.tuning.prepare import TuningData, prepare_study
from wastetune.tuning.spec import load_study

pytestmark = pytest.mark.slow

CACHE = {"WASTETUNE_CACHE": "cache"}  # in the folder that the command runs in
NOISE = re.compile(r"INFO|WARNING|Warning|I0000|E0000|W0000|oneDNN|Traceback|\x1b|\r")


def trials_of(folder, name="tiny"):
    study = optuna.load_study(study_name=name, storage=open_storage(f"sqlite:///{folder / 'wastetune.db'}"))
    return [(trial.state.name, trial.user_attrs.get("failure")) for trial in study.trials]


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_mobilenet, empty_store, start_in):
    """A finished study of three trials: the folder it ran in, with a cache of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "mlruns").mkdir()
    shutil.copyfile(empty_store, folder / "mlruns" / "mlflow.db")
    process = start_in(folder, "run", "--study", tiny_mobilenet, fresh=True, **CACHE)
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stdout + stderr
    return folder, stdout, stderr


@pytest.fixture
def finished(first, tmp_path):
    """A copy of that folder, to go on with."""
    return shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def report(first):
    return json.loads((first[0] / "results" / "tiny" / "report.json").read_text())


def test_what_is_printed_ends_with_the_classification_report_and_no_library_speaks(first, report):
    _, stdout, stderr = first
    assert stderr == ""
    assert not NOISE.search(stdout)
    lines = stdout.splitlines()
    assert any("42 pictures in 2 classes" in line and "sealed for the test" in line for line in lines)
    assert any(line.startswith("  left out: leaf/broken.jpg: ") for line in lines)
    assert "  the same picture in two classes: box/box000.jpg, leaf/also_elsewhere.jpg" in lines
    assert any(re.match(r"activations, plain: \d+ images, \d+ images/s", line) for line in lines)
    assert "0 of 3 trials are finished" in lines
    told = [line for line in lines if re.match(r"trial +\d+ ", line)]
    assert [int(line.split()[1]) for line in told] == [0, 1, 2]
    assert f"best {report['best']['score']:.4f} (trial {report['best']['number']})" in told[-1]
    for name, one in report["test"]["per_class"].items():
        numbers = [f"{one[key]:.3f}" for key in ("precision", "recall", "f1")]
        assert [name, *numbers, str(one["support"])] in [line.split() for line in lines]
    for row in ("accuracy", "macro avg", "weighted avg"):
        assert any(line.startswith(row) for line in lines)
    assert lines[-1].startswith("Written to results/tiny: report.md")


def test_the_report_has_every_key_and_its_numbers_agree_with_each_other(report):
    assert set(report) >= {
        *("study", "question", "backbone", "dataset", "classes", "metric", "counts", "trials", "best", "test"),
        *("default_test", "seconds", "versions", "fingerprint", "retrain", "edges", "problems", "openings"),
    }
    assert (report["study"], report["backbone"]) == ("tiny", "mobilenet_v3_small_minimalistic")
    assert (report["dataset"], report["classes"]) == ("pictures", ["box", "leaf"])
    assert report["question"] == "Does the whole path work?"
    assert sum(report["counts"][side] for side in ("train", "val", "test")) == 42
    assert report["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    assert set(report["best"]) == {"number", "score", "config"}
    assert set(report["final"]["members"]) <= set(report["final"]["considered"]) <= {0, 1, 2}
    assert report["final"]["score"] >= report["final"]["default_score"]
    assert report["calibration"]["log_loss"] > 0
    assert [len(values) for values in report["repeats"].values()] == [2, 2, 2]
    assert report["accuracy_by_coverage"][-1] == pytest.approx([1, report["test"]["accuracy"]])
    assert report["duplicates"] == report["contradictions"] == 1
    assert report.get("near_duplicates", 0) == 0  # the same pixels twice are duplicates
    for part in ("test", "default_test"):
        scores = report[part]
        for kind in ("macro", "weighted"):
            assert {f"precision_{kind}", f"recall_{kind}", f"f1_{kind}"} <= set(scores)
        matrix = scores["confusion_matrix"]
        assert [sum(row) for row in matrix] == [one["support"] for one in scores["per_class"].values()]
        assert sum(map(sum, matrix)) == report["counts"]["test"]
        assert scores["accuracy"] == pytest.approx((matrix[0][0] + matrix[1][1]) / report["counts"]["test"])
        recalls = [one["recall"] for one in scores["per_class"].values()]
        assert scores["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    seconds = report["seconds"]
    assert set(seconds) == {"preparing", "activations", "trials", "retrain", "total"}
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.05)
    assert min(seconds.values()) > 0
    assert set(report["versions"]) >= {"python", "wastetune", "keras", "optuna", "mlflow"}
    assert report["retrain"]["largest_difference"] < 0.02


def test_what_was_retrained_is_what_the_trial_had_stored(first, report):
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{first[0] / 'wastetune.db'}")
    best = study.trials[report["best"]["number"]]
    assert report["best"] == {"number": best.number, "score": best.value, "config": best.user_attrs["config"]}
    assert report["retrain"]["epochs"] == best.user_attrs["config"]["epochs"]
    assert best.value == max(trial.value for trial in study.trials)
    (opening,) = study.user_attrs["test_openings"]
    assert (opening["study"], opening["trials"]) == ("tiny", report["final"]["members"])
    assert opening == report["openings"][0]
    assert abs(datetime.fromisoformat(opening["when"]).timestamp() - time.time()) < 3600


def test_all_files_are_there_and_whole(first, report):
    folder = first[0] / "results" / "tiny"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {
        "report.json",
        "report.md",
        "report.html",
        "confusion_matrix.png",
        "predictions.csv",
        "split.csv",
        "bundle/model.keras",
        "bundle/bundle.json",
        "bundle/centres.npy",
    }
    assert files == wanted
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "report.md").read_text().startswith("# tiny: mobilenet_v3_small_minimalistic on pictures")
    bundle = json.loads((folder / "bundle" / "bundle.json").read_text())
    assert (bundle["classes"], bundle["input_size"], bundle["config"]) == (
        ["box", "leaf"],
        32,
        report["best"]["config"],
    )
    assert (bundle["test"], bundle["fingerprint"]) == (report["test"], report["fingerprint"])
    with (folder / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for side in ("train", "val", "test"):
        assert sum(row["split"] == side for row in rows) == report["counts"][side]


def test_the_predictions_are_those_that_were_scored(first, report):
    with (first[0] / "results" / "tiny" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == paths_of_test(first[0])
    said = [[(row["true"], row["predicted"]) for row in rows].count((a, b)) for a in CLASSES for b in CLASSES]
    assert said == [count for row in report["test"]["confusion_matrix"] for count in row]
    hits = [row["true"] == row["predicted by default"] for row in rows]
    assert sum(hits) / len(rows) == pytest.approx(report["default_test"]["accuracy"])
    for row in rows:
        chances = {name: float(row[f"probability of {name}"]) for name in CLASSES}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert max(chances, key=chances.get) == row["predicted"]


CLASSES = ("box", "leaf")


def paths_of_test(folder):
    with (folder / "results" / "tiny" / "split.csv").open(newline="") as file:
        return {row["path"] for row in csv.DictReader(file) if row["split"] == "test"}


def test_the_page_shows_this_study(first, report):
    page = (first[0] / "results" / "tiny" / "report.html").read_text()
    assert f"{report['test']['f1_macro']:.3f}" in page
    wrong = report["counts"]["test"] - sum(row[i] for i, row in enumerate(report["test"]["confusion_matrix"]))
    assert page.count("data:image/jpeg;base64,") == wrong
    assert report["command"].startswith("wastetune run --study ")
    assert report["command"] in page.replace("&#39;", "'")
    assert report["class_counts"]["box"]["test"] == report["test"]["per_class"]["box"]["support"]
    low, high = report["gain"]["accuracy"]
    assert low <= report["test"]["accuracy"] - report["default_test"]["accuracy"] <= high
    assert report["model"]["parameters"] > report["model"]["trained"] > 0


def test_mlflow_has_the_study_its_trials_and_the_final_model(first, report):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{first[0] / 'mlruns' / 'mlflow.db'}")
    (experiment,) = (found for found in client.search_experiments() if found.name == "pictures")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"tiny", "trial 0", "trial 1", "trial 2", "tiny final"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    best = runs[f"trial {report['best']['number']}"]
    assert best.data.metrics["best_score"] == report["best"]["score"]
    shown = runs["tiny final"].data.metrics["test_f1_macro"]  # in four digits
    assert shown == pytest.approx(report["test"]["f1_macro"], rel=1e-3)
    artifacts = first[0] / "mlruns" / "artifacts" / runs["tiny final"].info.run_id / "artifacts"
    assert (artifacts / "bundle" / "model.keras").is_file()


CLEAN = """
import csv, json, sys
import numpy as np
import keras
assert "wastetune" not in sys.modules
bundle, pictures = sys.argv[1:]
model = keras.saving.load_model(f"{bundle}/model.keras")
assert "wastetune" not in sys.modules
from PIL import Image
from wastetune.data.image import resize_picture
description = json.load(open(f"{bundle}/bundle.json"))
rows = [row for row in csv.DictReader(open(f"{bundle}/../split.csv")) if row["split"] == "test"]
size = description["input_size"]
pixels = [resize_picture(Image.open(f"{pictures}/{row['path']}").convert("RGB"), size) for row in rows]
made = np.asarray(model.predict(np.stack(pixels).astype("float32"), verbose=0))
right = [description["classes"][p] == row["class"] for p, row in zip(made.argmax(1), rows)]
print(json.dumps({"shape": made.shape, "sums": made.sum(1).tolist(), "right": right}))
"""


def test_the_bundle_loads_with_keras_alone_and_scores_as_reported(first, report, pictures):
    bundle = first[0] / "results" / "tiny" / "bundle"
    command = [sys.executable, "-c", CLEAN, bundle, pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["shape"] == [report["counts"]["test"], 2]
    assert made["sums"] == pytest.approx([1.0] * made["shape"][0], abs=1e-5)
    assert sum(made["right"]) / len(made["right"]) == pytest.approx(report["test"]["accuracy"])


def test_running_again_computes_nothing_and_one_trial_more_adds_one(finished, run_cli, tiny_mobilenet):
    folder = finished / "results" / "tiny"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = run_cli("run", "--study", tiny_mobilenet, **CACHE)
    assert (again.returncode, again.stderr) == (0, "")
    assert "3 of 3 trials are finished" in again.stdout
    assert not re.search(r"activations,|decoding|retraining|^trial", again.stdout, re.MULTILINE)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert len(trials_of(finished)) == 3

    more = run_cli("run", "--study", tiny_mobilenet, "--trials", 4, **CACHE)
    assert (more.returncode, more.stderr) == (0, "")
    assert re.findall(r"^trial +(\d+) ", more.stdout, re.MULTILINE) == ["3"]
    assert trials_of(finished) == [("COMPLETE", None)] * 4
    report = json.loads((folder / "report.json").read_text())
    assert report["trials"]["complete"] == 4
    assert ("retraining" in more.stdout) == (3 in report["final"]["considered"])
    assert len(report["openings"]) == 1 + (3 in report["final"]["members"])


def test_a_limit_of_time_leaves_time_for_the_report(ran, tmp_path, run_cli, tiny_heads):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    result = run_cli("run", "--study", tiny_heads, "--trials", 500, "--time-limit", 1)
    assert result.returncode == 0, result.stderr
    assert "3 trials are finished; " in result.stdout
    result = run_cli("run", "--study", tiny_heads, "--trials", 500, "--time-limit", 32)
    assert result.returncode == 0, result.stderr
    assert 3 < len(trials_of(tmp_path)) < 500
    assert "Test set:" in result.stdout
    refused = run_cli("run", "--study", tiny_heads, "--time-limit", 32, "--workers", 0)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--time-limit" in refused.stderr


def test_a_lost_page_is_written_again_without_training(finished, run_cli, tiny_mobilenet):
    page = finished / "results" / "tiny" / "report.html"
    before = page.read_bytes()
    page.unlink()
    again = run_cli("run", "--study", tiny_mobilenet, **CACHE)
    assert (again.returncode, again.stderr) == (0, "")
    assert "retraining" not in again.stdout
    assert page.read_bytes() == before


def test_a_report_from_before_there_were_pages_gets_one_without_training(finished, run_cli, tiny_mobilenet):
    folder = finished / "results" / "tiny"
    (folder / "report.html").unlink()
    (folder / "predictions.csv").unlink()
    report = json.loads((folder / "report.json").read_text())
    later = ("gain", "model", "command", "begun_with", "class_counts", "left_out")
    old = {key: value for key, value in report.items() if key not in later}
    (folder / "report.json").write_text(json.dumps(old))
    again = run_cli("run", "--study", tiny_mobilenet, **CACHE)
    assert (again.returncode, again.stderr) == (0, "")
    assert "retraining" not in again.stdout
    assert "has no predictions.csv" in (folder / "report.html").read_text()
    assert json.loads((folder / "report.json").read_text())["test"] == report["test"]


def test_a_pattern_runs_all_it_can_and_ends_with_the_table(finished, run_cli, tiny_mobilenet):
    (finished / "studies").mkdir()
    shutil.copy(tiny_mobilenet, finished / "studies" / "tiny.toml")
    (finished / "studies" / "tiny_away.toml").write_text(
        tiny_mobilenet.read_text().replace('dataset = "', 'dataset = "/away')
    )
    (finished / "studies" / "another.toml").write_text("this is no study")
    done = run_cli("run", "--study", "tiny*", **CACHE)
    assert done.returncode == 2
    away, summary = done.stderr.splitlines()
    assert away.startswith("error: tiny_away: ")
    assert "/away" in away
    assert summary == "error: 1 of 2 studies could not be run: tiny_away"
    assert "tiny (1 of 2)" in done.stdout
    table = done.stdout[done.stdout.index("study  backbone") :].splitlines()
    assert table[1].split()[:3] == ["tiny", "mobilenet_v3_small_minimalistic", "pictures"]


def test_a_study_that_changed_is_refused(finished, run_cli, tiny_mobilenet):
    changed = run_cli("run", "--study", tiny_mobilenet, "--seed", 1, **CACHE)
    assert changed.returncode == 2
    assert "study 'tiny' was begun with another seed, data and split (seed: then 0, now 1; " in changed.stderr
    assert trials_of(finished) == [("COMPLETE", None)] * 3


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(start_cli, run_cli, tmp_path, tiny, mlflow_store):
    # Many epochs, so that the second trial is in hand when the signal comes.
    space = tmp_path / "long.toml"
    space.write_text((tiny.parent / "tiny_space.toml").read_text().replace("epochs = 2", "epochs = 60\npatience = 60"))
    study = tmp_path / "long_study.toml"
    study.write_text(tiny.read_text().replace(str(tiny.parent / "tiny_space.toml"), str(space)))
    command = ("run", "--study", study, "--trials", 2, "--no-retrain")
    process = start_cli(*command, fresh=True, PYTHONUNBUFFERED="1")
    for line in process.stdout:
        if line.startswith("trial   0"):
            break
    wait_for_trial(tmp_path / "wastetune.db", 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr == f"\nstopped; what is finished is kept. Go on with:\n  wastetune {' '.join(map(str, command))}\n"
    assert trials_of(tmp_path, "long_study") == [("COMPLETE", None), ("FAIL", "interrupted")]

    on = run_cli(*command)
    assert (on.returncode, on.stderr) == (0, "")
    assert "1 of 2 trials are finished" in on.stdout
    states = [state for state, _ in trials_of(tmp_path, "long_study")]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert not (tmp_path / "results" / "long_study" / "report.json").exists()


def wait_for_trial(database, number):
    """Returns when a trial of that number has been given its configuration."""
    query = "SELECT 1 FROM trials t JOIN trial_user_attributes a USING (trial_id) WHERE t.number = ? AND a.key = 'cut'"
    connection = sqlite3.connect(database)
    while not connection.execute(query, (number,)).fetchone():
        time.sleep(0.02)
    connection.close()


def test_searching_never_touches_a_test_picture(tiny, tmp_path, mlflow_store, monkeypatch):
    def sealed(positions):
        raise AssertionError("a test picture was read")

    def prepare_sealed(*arguments, **options):
        prepared = prepare_study(*arguments, **options)
        return replace(prepared, test=replace(prepared.test, read=sealed))

    monkeypatch.setattr("wastetune.study.run.prepare_study", prepare_sealed)
    monkeypatch.setenv("WASTETUNE_CACHE", str(tmp_path / "cache"))  # no activations of test pictures are there
    spec = load_study(str(tiny)).model_copy(update={"trials": 2})
    locations = Locations(f"sqlite:///{tmp_path / 'wastetune.db'}", mlflow_store, tmp_path / "results", None, None)
    assert run_study(spec, locations, open_console(), final=False) is None
    assert trials_of(tmp_path) == [("COMPLETE", None)] * 2
    with pytest.raises(AssertionError, match="a test picture was read"):
        run_study(spec, locations, open_console())
    assert {field.name for field in fields(TuningData)} == {"train", "val"}
