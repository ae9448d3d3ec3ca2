"""A study of 0.1.0 (commit 3d680ad) opens, resumes, reports and serves in this version, and in later ones.

`tests/fixtures/old_study` holds its files: the study database and the MLflow store as SQL, and its results without the
PNG. The weights in its bundle repeat, so that the file is small; the rest of it is as it was written. The pictures are
drawn here, as they were then.
"""

import asyncio
import io
import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from packaging.version import Version
from PIL import Image

import wastetune
import wastetune.storage.study as storage
from wastetune.backbones.backbone import load_backbone
from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.models.loading import open_model
from wastetune.serving.api import build_app
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.storage.study import find_study, read_records
from wastetune.study.run import run_study
from wastetune.training.config import TrialConfig
from wastetune.tuning import prepare
from wastetune.tuning.objective import run_trial
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.recipes import RECIPES
from wastetune.tuning.spec import load_study

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_study"
FIXTURE_REPORT = FIXTURE / "results" / "old" / "report.json"


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


def accept_these_weights(folder):
    """Puts the random weights that this version of Keras draws into the study's fingerprint."""
    with sqlite3.connect(folder / "wastetune.db") as connection:
        (text,) = connection.execute(
            "select value_json from study_user_attributes where key = 'fingerprint'"
        ).fetchone()
        digest = load_backbone("mobilenet_v3_small_minimalistic", "none", size=32).digest[:16]
        changed = json.dumps(json.loads(text) | {"weights": digest})
        connection.execute("update study_user_attributes set value_json = ? where key = 'fingerprint'", (changed,))


@pytest.fixture(params=["0.1.0", "0.2.0"])
def in_version(request, monkeypatch):
    """This version of wastetune, and one to come."""
    for module in (prepare, storage):
        monkeypatch.setattr(module, "version", lambda name: request.param if name == "wastetune" else version(name))


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


@pytest.mark.usefixtures("in_version")
def test_a_finished_study_is_not_run_again(old):
    accept_these_weights(old)
    results = old / "results" / "old"
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    study = find_study(open_storage("sqlite:///wastetune.db"), "old")
    if study.user_attrs["fingerprint"] != json.loads(before[results / "report.json"])["begun_with"]:
        pytest.skip("another version of Keras has other random weights, which makes it another study")
    run(old)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_one_more_trial_resumes_it_in_a_later_version(old, monkeypatch):
    monkeypatch.setattr(prepare, "version", lambda name: "0.2.0" if name == "wastetune" else version(name))
    accept_these_weights(old)
    told = json.loads((old / "results" / "old" / "report.json").read_text())
    (old / "results" / "old" / "report.json").unlink()  # so that the final model is fitted again
    report = run(old, trials=4).to_dict()
    assert report["trials"] == {"complete": 4, "pruned": 0, "failed": 0}
    assert report["begun_with"] == told["begun_with"] | {"weights": report["begun_with"]["weights"]}
    assert report["versions"]["wastetune"] == "0.2.0"
    assert [each["trials"][0] for each in report["openings"]][:1] == told["test_opened_for"]

    if Version(version("mlflow")) >= Version("3.17"):  # of the store; an older one cannot read it
        client = MlflowClient("sqlite:///mlruns/mlflow.db")
        (experiment,) = (each for each in client.search_experiments() if each.name == "pictures")
        names = sorted(each.info.run_name for each in client.search_runs([experiment.experiment_id]))
        assert names == ["old", "old final", "trial 0", "trial 1", "trial 2", "trial 3"]
    assert len(wastetune.load_trials("old", storage="sqlite:///wastetune.db")) == 4
    open_model(old / "results" / "old" / "bundle")  # the one that replaced it


def test_a_raised_recipe_makes_it_another_study_and_says_so(old, monkeypatch):
    accept_these_weights(old)
    for name in ("views", "tail training"):  # its space has no tails
        monkeypatch.setitem(RECIPES, name, "2")
    monkeypatch.setattr(storage, "version", lambda name: "0.2.0")
    with pytest.raises(UserError) as refused:
        run(old)
    assert str(refused.value) == (
        "study 'old' was begun with another recipe of views (recipe of views: then 1, now 2); by this version of "
        "wastetune (0.2.0) its configurations have other scores than by the one that began it (0.1.0), which cannot be "
        "compared: go on with that version, copy the study's file to a new name, or give another --storage"
    )


def test_its_trials_score_the_same(old):
    """The pictures, the split, the trunk and the head of then, but for rounding."""
    accept_these_weights(old)
    prepared = prepare_study(load_study("old.toml"), data=None, weights=None, console=open_console(quiet=True))
    study = find_study(open_storage("sqlite:///wastetune.db"), "old")
    if study.user_attrs["fingerprint"]["weights"] != json.loads(FIXTURE_REPORT.read_text())["begun_with"]["weights"]:
        pytest.skip("another version of Keras has other random weights")
    for record in read_records(study):
        result = run_trial(
            TrialConfig.model_validate(record.config),
            record.number,
            prepared.context,
            open_console(quiet=True).bar,
            lambda epoch: None,
        )
        assert [epoch.loss for epoch in result.fit.history] == pytest.approx(
            [epoch["loss"] for epoch in record.epochs], rel=1e-3
        )
        assert result.fit.best.score == record.score


def test_its_bundle_predicts_and_serves(old):
    said = [[0.829, 0.171], [0.829, 0.171]]
    colours = ((200, 60, 40), (40, 180, 60))
    model = open_model(old / "results" / "old" / "bundle")
    pixels = np.array(colours, np.uint8)[:, None, None].repeat(32, axis=1).repeat(32, axis=2)
    np.testing.assert_allclose(model.run(pixels), said, atol=0.02)
    report = wastetune.load_report("old", results=old / "results")
    assert (model.about.fingerprint, model.classes) == (report["fingerprint"], ("can", "leaf"))
    files = []
    for number, colour in enumerate(colours):
        content = io.BytesIO()
        Image.new("RGB", (40, 30), colour).save(content, "PNG")
        files.append(("files", (f"{number}.png", content.getvalue())))

    async def ask():
        app = build_app(model)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            card, answer = await client.get("/model"), await client.post("/predict", files=files)
            return card.json(), answer.json()["predictions"]

    with ThreadPoolExecutor(1) as thread:  # where tests of pages ran before, Playwright's loop is in this one
        card, answers = thread.submit(asyncio.run, ask()).result()
    assert (card["study"], card["fingerprint"]) == ("old", report["fingerprint"])
    for answer, shares in zip(answers, said, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(shares, abs=0.02)
