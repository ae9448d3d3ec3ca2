"""`import wastetune` in a program: a study run, its report and trials read, pictures told, mistakes in a sentence."""

import json
import shutil
import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import pytest
from PIL import Image

import wastetune
from wastetune import UserError
from wastetune.data.image import read_picture, resize_picture
from wastetune.datasets.synthetic import write_sample
from wastetune.models.bundle import load_model
from wastetune.storage.database import open_storage
from wastetune.training.config import BACKBONE, OWN_HEAD, TrialConfig


@pytest.fixture(scope="module")
def bundle(ran):
    return ran / "results" / "tiny" / "bundle"


@pytest.fixture(scope="module")
def report(ran):
    """What `run_study` gave."""
    return json.loads((ran / "given.json").read_text())


def test_importing_it_loads_nothing_heavy_and_offers_what_it_says():
    code = "import sys, wastetune; print(*sys.modules); print(*dir(wastetune))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded, offered = done.splitlines()
    heavy = {"keras", "tensorflow", "optuna", "mlflow", "pandas", "numpy", "PIL", "cv2", "sqlalchemy", "pydantic"}
    assert not heavy & set(loaded.split())
    assert set(offered.split()) >= set(wastetune.__all__)


def test_every_name_it_offers_is_documented_and_no_file_of_the_same_name_can_hide_it():
    code = (
        "import pkgutil, wastetune; files = {each.name for each in pkgutil.iter_modules(wastetune.__path__)};"
        "print(files & set(wastetune.__all__), [n for n in wastetune.__all__ if not getattr(wastetune, n).__doc__])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert done == "set() []\n"
    with pytest.raises(AttributeError, match="no attribute 'predct'"):
        _ = wastetune.predct


def test_the_report_is_the_one_that_was_written_and_is_loaded_again(ran, report, tiny_heads):
    written = json.loads((ran / "results" / "tiny" / "report.json").read_text())
    assert report == written
    assert report["trials"]["complete"] + report["trials"]["pruned"] == 3
    assert wastetune.load_report("tiny", results=ran / "results") == written
    assert wastetune.load_report(tiny_heads, results=ran / "results") == written


def test_quiet_prints_nothing_and_running_again_goes_on_where_it_stopped(ran, report, tiny_heads, tmp_path, capfd):
    folder = shutil.copytree(ran, tmp_path / "ran")
    store = f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
    places = {"tracking_uri": store, "results": folder / "results", "quiet": True}
    again = wastetune.run_study(tiny_heads, storage=f"sqlite:///{folder / 'wastetune.db'}", **places)
    assert again == report
    assert capfd.readouterr() == ("", "")


def test_trials_are_a_table_with_a_row_for_each_and_its_configuration(ran, report):
    url = f"sqlite:///{ran / 'wastetune.db'}"
    table = wastetune.load_trials("tiny", storage=url)
    known = optuna.load_study(study_name="tiny", storage=open_storage(url)).trials
    assert list(table["number"]) == [0, 1, 2]
    assert list(table.columns[:5]) == ["number", "state", "score", "seconds", "cut"]
    assert set(TrialConfig.model_fields) - {*OWN_HEAD, BACKBONE} < set(table.columns)
    assert not {*OWN_HEAD, BACKBONE} & set(table.columns)
    assert list(table["score"]) == [trial.value for trial in known]
    best = table.loc[table["number"] == report["best"]["number"]].iloc[0]
    assert best["score"] == report["best"]["score"]
    for key, value in report["best"]["config"].items():
        assert pd.isna(best[key]) if value is None else best[key] == value
    assert (table["seconds"] > 0).all()
    assert list(table["cut"]) == [trial.user_attrs["cut"] for trial in known]


def test_the_environment_names_the_database_and_an_argument_goes_before(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("WASTETUNE_STORAGE", f"sqlite:///{ran / 'wastetune.db'}")
    assert len(wastetune.load_trials("tiny")) == 3
    with pytest.raises(UserError, match="there is no study 'tiny' in this database"):
        wastetune.load_trials("tiny", storage=f"sqlite:///{tmp_path / 'other.db'}")


def test_a_failed_trial_stands_in_the_table_with_its_reason_and_no_score(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="sad", storage=open_storage(url), direction="maximize")
    fail = {"state": optuna.trial.TrialState.FAIL}
    study.add_trial(optuna.trial.create_trial(**fail, user_attrs={"failure": "out of memory"}))
    study.add_trial(optuna.trial.create_trial(**fail, user_attrs={"failure": "not run", "void": True}))
    (row,) = wastetune.load_trials("sad", storage=url).to_dict("records")
    assert (row["state"], row["failure"]) == ("failed", "out of memory")
    assert pd.isna(row["score"])


def test_a_prediction_is_what_the_model_says_of_the_picture_as_training_saw_it(ran, bundle, pictures):
    path = pictures / "leaf" / "leaf003.jpg"
    (row,) = wastetune.predict(bundle, path).to_dict("records")
    pixels = resize_picture(read_picture(path), 32)[None].astype(np.float32)
    said = np.asarray(load_model(bundle).predict_on_batch(pixels))[0]
    assert [row["probability of box"], row["probability of leaf"]] == pytest.approx(said, abs=1e-6)
    assert row["class"] == ("box", "leaf")[said.argmax()]
    assert row["probability"] == pytest.approx(said.max(), abs=1e-6)
    assert (row["picture"], row["problem"]) == (str(path), "")


def test_predictions_are_those_of_the_test_set_where_the_pictures_are(ran, bundle, pictures):
    written = pd.read_csv(ran / "results" / "tiny" / "predictions.csv")
    said = wastetune.predict(bundle, [pictures / path for path in written["path"]])
    for column in ("probability of box", "probability of leaf"):
        assert list(said[column]) == pytest.approx(list(written[column]), abs=0.01)


def test_a_broken_picture_and_a_missing_one_stop_nothing(bundle, tmp_path):
    folder = write_sample(tmp_path / "new", classes=("box", "leaf"), per_class=35, size=40)
    (folder / ".hidden.jpg").write_bytes(b"not looked at")
    said = wastetune.predict(bundle, [folder, tmp_path / "nowhere.jpg"])
    bad = said[said["problem"] != ""]
    assert len(said) == 74  # more than one batch: 70 drawn, three odd ones, the one that is missing
    assert [path.rpartition("/")[2] for path in bad["picture"]] == ["broken.jpg", "nowhere.jpg"]
    assert bad["class"].isna().all()
    assert bad["probability of leaf"].isna().all()
    assert "broken: " in bad["problem"].iloc[0]
    good = said[said["problem"] == ""]
    assert good["probability"].between(0.5, 1).all()
    assert list(good["picture"]) == sorted(good["picture"])
    (broken,) = folder.rglob("broken.jpg")
    assert wastetune.predict(bundle, broken)["probability"].dtype == float
    with pytest.raises(UserError, match=r"there is no file or folder .*nowhere\.jpg"):
        wastetune.predict(bundle, tmp_path / "nowhere.jpg")


def test_a_picture_on_its_side_is_set_upright_first(bundle, pictures, tmp_path):
    upright = Image.open(pictures / "box" / "box001.jpg")
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    first, second = wastetune.predict(bundle, tmp_path).to_dict("records")
    assert first["probability of box"] == pytest.approx(second["probability of box"], abs=1e-6)


def mistaken(folder, **changes):
    return lambda: wastetune.run_study(**{"study": "demo", "results": folder / "results", "quiet": True, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": "dmeo"}, "did you mean demo?"),
        ({"trials": 0}, "study 'demo': trials = 0, but it must be a whole number, at least 1"),
        ({"trials": "3"}, 'trials = "3", but it must be a whole number'),
        ({"timeout": 0}, "timeout is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"data": "nowhere"}, "here or in nowhere, and no known data set"),
        ({"tracking_uri": "file:./mlruns"}, "MLflow keeps runs in a database or on a server"),
    ],
)
def test_a_mistake_in_a_run_is_one_sentence(tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        mistaken(tmp_path, **changes)()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_one_sentence(bundle, tmp_path):
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"")
    for call, words in [
        (lambda: wastetune.load_report("tiny", results=tmp_path), "there is no report of study 'tiny' in"),
        (lambda: wastetune.predict(tmp_path, picture), "is no model: neither a study's bundle"),
        (lambda: wastetune.predict(bundle, []), "there is no picture in"),
    ]:
        with pytest.raises(UserError) as caught:
            call()
        assert words in str(caught.value)
    broken = shutil.copytree(bundle, tmp_path / "bundle")
    (broken / "model.keras").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"the model in .*bundle cannot be read: .*model\.keras"):
        wastetune.predict(broken, picture)
    (broken / "bundle.json").write_text("{")
    with pytest.raises(UserError, match=r"bundle\.json is damaged"):
        wastetune.predict(broken, picture)
