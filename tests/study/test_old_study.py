"""A study made by the commit before the package had rooms (3d680ad) opens, resumes and reports.

`tests/fixtures/old_study` holds its files as text: the study database and the MLflow store as SQL, and its results
without the model and the PNG. The pictures are drawn here, as they were then.
"""

import json
import shutil
import sqlite3
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from wastetune.backbones.backbone import load_backbone
from wastetune.console import open_console
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.storage.study import find_study, read_records
from wastetune.study.run import run_study
from wastetune.tuning.spec import load_study

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_study"


def draw_pictures(folder):
    generator = np.random.default_rng(0)
    for name, colour in (("can", (200, 60, 40)), ("leaf", (40, 180, 60))):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            noise = generator.integers(-40, 40, (4, 4, 3)).repeat(8, axis=0).repeat(8, axis=1)
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            (folder / name / f"{number}.ppm").write_bytes(b"P6 32 32 255\n" + pixels.tobytes())


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The working folder of the old study."""
    folder = tmp_path / "old"
    shutil.copytree(FIXTURE, folder)
    draw_pictures(folder / "pictures")
    (folder / "mlruns").mkdir()
    for script, database in (("wastetune.sql", "wastetune.db"), ("mlflow.sql", "mlruns/mlflow.db")):
        # Paths in the store are those of the folder where it was made.
        text = (folder / script).read_text().replace("/tmp/old/", f"{folder}/")
        with sqlite3.connect(folder / database) as connection:
            connection.executescript(text)
    monkeypatch.chdir(folder)
    return folder


def accept_these_versions(folder):
    """Puts what depends on installed versions into the study's fingerprint: wastetune's own, and random weights."""
    with sqlite3.connect(folder / "wastetune.db") as connection:
        (text,) = connection.execute(
            "select value_json from study_user_attributes where key = 'fingerprint'"
        ).fetchone()
        now = {
            "wastetune version": version("wastetune"),
            "weights": load_backbone("mobilenet_v3_small_minimalistic", "none", size=32).digest[:16],
        }
        changed = json.dumps(json.loads(text) | now)
        connection.execute("update study_user_attributes set value_json = ? where key = 'fingerprint'", (changed,))


def run(folder, **changes):
    locations = Locations("sqlite:///wastetune.db", "sqlite:///mlruns/mlflow.db", folder / "results", None, None)
    return run_study(load_study("old.toml").model_copy(update=changes), locations, open_console(quiet=True))


def test_its_trials_are_read(old):
    records = read_records(find_study(open_storage("sqlite:///wastetune.db"), "old"))
    assert [(each.number, each.state, each.default) for each in records] == [
        (0, "complete", True),
        (1, "complete", False),
        (2, "complete", False),
    ]
    report = json.loads((old / "results" / "old" / "report.json").read_text())
    assert records[report["best"]["number"]].score == report["best"]["score"]
    assert all(each.epochs and each.best_epoch and each.config for each in records)


def test_a_finished_study_is_not_run_again(old):
    accept_these_versions(old)
    results = old / "results" / "old"
    (results / "bundle" / "model.keras").touch()  # its content is not read
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    study = find_study(open_storage("sqlite:///wastetune.db"), "old")
    if study.user_attrs["fingerprint"] != json.loads(before[results / "report.json"])["begun_with"]:
        pytest.skip("another version of wastetune, or of Keras's random weights, makes it another study")
    run(old)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_one_more_trial_resumes_it(old):
    accept_these_versions(old)
    told = json.loads((old / "results" / "old" / "report.json").read_text())
    report = run(old, trials=4).to_dict()
    assert report["trials"] == {"complete": 4, "pruned": 0, "failed": 0}
    assert report["begun_with"].keys() == told["begun_with"].keys()
    assert report["begun_with"]["data and split"] == told["begun_with"]["data and split"]
    assert [each["trials"][0] for each in report["openings"]][:1] == told["test_opened_for"]

    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "pictures")
    names = sorted(each.info.run_name for each in client.search_runs([experiment.experiment_id]))
    assert names == ["old", "old final", "trial 0", "trial 1", "trial 2", "trial 3"]
