"""A study with a head of the user's own, from its file to its saved model."""

import re

import numpy as np
import pytest

from wastetune.api import load_trials
from wastetune.checks.reproduce import reproduce_trial
from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.models.loading import open_model
from wastetune.storage.study import best_trial, read_trials
from wastetune.study.final import refit_winner
from wastetune.study.summary import summarize
from wastetune.tuning.prepare import check_choices, join_study, prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.progress import render_trial
from wastetune.tuning.workers.worker import run_worker

pytest.importorskip("keras_tuner")

HEAD = """
import keras

def build(hp, features, classes):
    x = features
    for number in range(hp.Int("layers", 0, 2, default=1)):
        x = keras.layers.Dense(hp.Int(f"units_{number}", 4, 8, default=6), "gelu")(x)
    return keras.layers.Dense(classes)(x)
"""


@pytest.fixture
def study_file(tmp_path, tiny_heads):
    """A study of three trials with a head that lies beside it; its space has the keys of wastetune's head, too."""
    text = tiny_heads.read_text()
    assert "head_units" in (tiny_heads.parent / "tiny_space.toml").read_text()
    (tmp_path / "own.toml").write_text(text + 'head = "my_head.py:build"\n')
    (tmp_path / "my_head.py").write_text(HEAD)
    return tmp_path / "own.toml"


def prepare(path):
    return prepare_study(load_study(str(path)), data=None, weights=None, console=open_console(quiet=True))


def test_a_mistake_in_the_head_is_told_before_pictures_are_decoded(study_file, monkeypatch):
    (study_file.parent / "my_head.py").write_text(HEAD.replace("Dense(classes)", 'Dense(classes, "softmax")'))
    monkeypatch.setattr("wastetune.tuning.prepare.open_pixels", None)
    with pytest.raises(UserError, match=r"own\.toml: head = 'my_head\.py:build': .*my_head\.py: build returned probab"):
        prepare(study_file)


@pytest.mark.parametrize("sampler", ["grid", "qmc"])
def test_a_sampler_that_lays_its_points_out_before_is_refused(study_file, sampler):
    study_file.write_text(study_file.read_text() + f'sampler = "{sampler}"\n')
    with pytest.raises(UserError, match=rf"own\.toml: sampler = '{sampler}': its points are laid out before "):
        check_choices(load_study(str(study_file)), trials=3)


@pytest.mark.slow
def test_its_parameters_stand_everywhere_and_its_model_needs_no_file(study_file, tmp_path):
    prepared, console = prepare(study_file), open_console(quiet=True)
    url = f"sqlite:///{tmp_path / 'own.db'}"
    study = join_study(prepared, url, console)
    run_worker(study, prepared.context, trials=2, timeout=None, bar=console.bar, on_trial=lambda trial: None)
    default, other = read_trials(study)
    searched = {"learning_rate": 0.01, "augmentation": 0.0, "head.layers": 1, "head.units_0": 6}
    assert default.params == searched
    for trial in (default, other):
        config = trial.user_attrs["config"]
        assert config["head"] == "my_head.py:build"
        assert {key for key in trial.params if key.startswith("head.")} == {key for key in config if "head." in key}
        assert not {"head_layers", "head_units", "dropout", "head_params"} & config.keys()
    assert "head.layers 1" in render_trial(default, None, "macro_f1", width=200)
    table = load_trials("own", storage=url)
    assert table["head.layers"].tolist() == [trial.params["head.layers"] for trial in read_trials(study)]

    refitted = refit_winner(study, prepared, tmp_path / "results", console)
    report = summarize(study, prepared, refitted, 0.0)
    assert report.best.config == best_trial(study).user_attrs["config"]
    assert report.final is not None
    assert len(report.final.members) == 2
    again = reproduce_trial(study, prepared, other.number, tmp_path / "results", console)
    assert again.is_same()

    (tmp_path / "my_head.py").rename(tmp_path / "moved.py")
    said = open_model(tmp_path / "results" / "bundle").run(prepared.test.read(range(4)))
    np.testing.assert_allclose(said, refitted.predictions.probabilities[:4], atol=0.02)

    (tmp_path / "my_head.py").write_text(HEAD.replace('"gelu"', '"relu"'))
    with pytest.raises(UserError, match=re.compile(r"begun with another head .*; copy the study's file")):
        join_study(prepare(study_file), url, console)
