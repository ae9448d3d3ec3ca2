"""A study of two backbones from its file to its report and model, and what other commands make of it."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout

import pytest

import wastetune
from wastetune.checks.reproduce import reproduce_final, reproduce_trial
from wastetune.console import open_console
from wastetune.models.loading import open_model
from wastetune.report.text import render_report
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.storage.study import find_study, read_records, read_study_info
from wastetune.study.run import run_study
from wastetune.training.config import TrialConfig
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.progress import describe_status, render_status

pytestmark = pytest.mark.slow

NAMES = ("mobilenet_v3_small_minimalistic", "mobilenet_v3_large_minimalistic")
SPACE = """\
head_layers = 0
dropout = { float = [0.0, 0.5], default = 0.1, when = "backbone == 'mobilenet_v3_small_minimalistic'" }
learning_rate = { float = [1e-3, 1e-1], log = true, default = 1e-2 }
batch_size = 16
epochs = 2
"""


def run(folder):
    """Runs the study as `wastetune run` does; gives what it printed."""
    locations = Locations("sqlite:///wastetune.db", "sqlite:///mlruns/mlflow.db", folder / "results", None, None)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as stdout:
        patch.chdir(folder)
        patch.setenv("WASTETUNE_CACHE", "cache")
        report = run_study(load_study("duo.toml"), locations, open_console())
        return stdout.getvalue() + render_report(report)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures, empty_store):
    """The folder of a finished study of two backbones, and what its run printed."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "mlruns").mkdir()
    shutil.copyfile(empty_store, folder / "mlruns" / "mlflow.db")
    (folder / "space.toml").write_text(SPACE)
    lines = {"dataset": str(pictures), "backbone": NAMES, "space": "space.toml", "trials": 5, "weights": "none"}
    lines |= {"image_size": 32, "views": 1}
    (folder / "duo.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items()))
    return folder, run(folder)


@pytest.fixture
def there(finished, monkeypatch):
    """That folder as the working directory."""
    monkeypatch.chdir(finished[0])
    return finished[0]


@pytest.fixture
def report(there):
    return wastetune.load_report("duo")


def records():
    return read_records(find_study(open_storage("sqlite:///wastetune.db"), "duo"))


def test_each_backbone_runs_its_default_once_and_the_report_tells_how_the_trials_were_divided(there, report):
    trials = records()
    probes = [each for each in trials if each.default]
    assert sorted(each.config["backbone"] for each in probes) == sorted(NAMES)
    assert len(trials) == 5
    divided = {each["name"]: each for each in report["backbones"]}
    assert list(divided) == [each.config["backbone"] for each in sorted(probes, key=lambda each: each.number)]
    for name, told in divided.items():
        own = [each for each in trials if each.config["backbone"] == name]
        complete = [each for each in own if each.state == "complete"]
        assert told["trials"] == len([each for each in own if each.state in ("complete", "pruned")])
        assert told["score"] == max(each.score for each in complete)
        assert told["default"] == next(each.score for each in own if each.default)
        assert told["seconds"] == pytest.approx(sum(each.seconds for each in own), abs=0.1)
        assert report["latency_ms"][name] > 0
    assert 2 * divided[NAMES[0]]["parameters"] < divided[NAMES[1]]["parameters"]
    for trial in trials:
        assert trial.drawn.keys() - {"backbone", "learning_rate"} == (
            {"dropout"} if trial.config["backbone"] == NAMES[0] else set()
        )


def test_the_final_model_is_of_the_winner_s_backbone_and_is_compared_with_its_default(there, report, pictures):
    winner = report["best"]["config"]["backbone"]
    assert report["backbone"] == winner == max(report["backbones"], key=lambda each: each["score"])["name"]
    trials = {each.number: each for each in records()}
    assert {trials[number].config["backbone"] for number in report["final"]["considered"]} == {winner}
    default = trials[report["default_number"]]
    assert (default.default, default.config["backbone"]) == (True, winner)
    assert report["default_number"] in report["final"]["considered"]
    model = open_model(there / "results" / "duo" / "bundle")
    assert (model.about.backbone, model.size) == (winner, 32)
    (said,) = wastetune.predict("results/duo/bundle", pictures / "leaf" / "leaf000.jpg")["class"]
    assert said in ("box", "leaf")


def test_trackers_and_commands_read_well(finished, there, report):
    name, stdout = report["backbone"], finished[1]
    assert f"duo: {name} (best of 2) on pictures" in stdout
    assert re.search(r"trial +1  macro F1 .*  \S+_minimalistic", stdout)  # its beginning where there is room
    table = wastetune.load_trials("duo")
    assert set(table["backbone"]) == set(NAMES)
    page = (there / "results" / "duo" / "report.html").read_text()
    assert 'id="backbones"' in page
    assert "## Backbones" in (there / "results" / "duo" / "report.md").read_text()
    info = read_study_info(find_study(open_storage("sqlite:///wastetune.db"), "duo"))
    assert info.tags["backbone"] == ", ".join(NAMES)


def test_status_tells_each_backbone(there):
    study = find_study(open_storage("sqlite:///wastetune.db"), "duo")
    lines = [line.strip() for line in render_status(describe_status(study)).splitlines()]
    for name in NAMES:
        assert any(line.startswith(f"{name}: ") and " trial" in line and "best 0." in line for line in lines), lines


def test_trials_of_either_backbone_and_the_final_model_are_reproduced(there, monkeypatch):
    monkeypatch.setenv("WASTETUNE_CACHE", "cache")
    console, folder = open_console(quiet=True), there / "results" / "duo"
    prepared = prepare_study(load_study("duo.toml"), data=None, weights=None, console=console)
    study = find_study(open_storage("sqlite:///wastetune.db"), "duo")
    again = [reproduce_trial(study, prepared, each.number, folder, console) for each in records() if each.default]
    for each in (*again, reproduce_final(study, prepared, folder, console)):
        assert (each.is_same(), each.differences) == (True, ())


def test_running_again_computes_nothing(there):
    before = (there / "results" / "duo" / "report.json").read_bytes()
    assert "retraining" not in run(there)
    assert (there / "results" / "duo" / "report.json").read_bytes() == before


def test_a_study_of_one_backbone_names_it_in_no_configuration():
    config = TrialConfig(head_layers=0, dropout=0.1, learning_rate=1e-3, batch_size=8, epochs=1)
    assert "backbone" not in config.model_dump()
    assert config.model_copy(update={"backbone": "resnet50"}).model_dump()["backbone"] == "resnet50"
