"""A trial or the final model fitted again: the same to the last bit, or what differs is named."""

import hashlib
import json
import shutil
import sqlite3
from dataclasses import asdict, replace

import optuna
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

import wastetune
from wastetune.checks import differences
from wastetune.checks.differences import compare_pictures, find_differences
from wastetune.checks.reproduce import find_trial, render_reproduction, reproduce_final, reproduce_trial
from wastetune.cli.main import main
from wastetune.console import open_console
from wastetune.data.splits import read_split_table
from wastetune.errors import UserError
from wastetune.storage.database import open_storage
from wastetune.storage.study import find_study
from wastetune.training.config import TrialConfig
from wastetune.tuning.objective import run_trial
from wastetune.tuning.prepare import package_versions, prepare_study
from wastetune.tuning.spec import load_study

CONSOLE = open_console(quiet=True)


@pytest.fixture(scope="module")
def study(ran):
    return find_study(open_storage(f"sqlite:///{ran / 'wastetune.db'}"), "tiny")


@pytest.fixture(scope="module")
def ready(tiny_heads):
    """The study, prepared again."""
    return prepare_study(load_study(str(tiny_heads)), data=None, weights=None, console=CONSOLE)


@pytest.fixture
def results(ran):
    return ran / "results" / "tiny"


@pytest.fixture
def copied(ran, tmp_path):
    """A copy of the study's database, to add trials to."""
    with sqlite3.connect(ran / "wastetune.db") as source, sqlite3.connect(tmp_path / "study.db") as target:
        source.backup(target)
    return find_study(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "tiny")


def add(study, state, value=None, **attrs):
    """A trial of the first one's configuration; gives its number."""
    config = study.trials[0].user_attrs["config"]
    study.add_trial(optuna.trial.create_trial(state=state, value=value, user_attrs={"config": config, **attrs}))
    return study.trials[-1].number


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def test_a_trial_is_the_same_to_the_last_bit_and_nothing_is_written(study, ready, results):
    before, trials = digests(results), study.get_trials()
    for number in (0, 1):
        again = reproduce_trial(study, ready, number, results, CONSOLE)
        ((then, now),) = again.scores.values()
        assert then == now == study.trials[number].value
        assert again.differences == ()
        assert again.detail == "Loss and score of 2 epochs are equal to the last bit."
        said = render_reproduction(again)
        assert said.startswith("Pictures, split, settings, weights and versions are as then.")
        assert said.endswith("Reproduced: the same score.")
    assert digests(results) == before
    assert study.get_trials() == trials


def test_the_final_model_has_the_same_probabilities_and_nothing_is_written(study, ready, results):
    before, attrs = digests(results), study.user_attrs
    again = reproduce_final(study, ready, results, CONSOLE)
    report = wastetune.load_report("tiny", results=results.parent)
    assert again.scores["test macro F1"] == (report["test"]["f1_macro"],) * 2
    assert again.scores["test accuracy"] == (report["test"]["accuracy"],) * 2
    assert again.detail == f"All probabilities of {report['counts']['test']} test pictures are equal to the last bit."
    assert again.differences == ()
    assert digests(results) == before
    assert study.user_attrs == attrs


def test_a_final_model_that_was_fitted_for_fewer_epochs_is_fitted_for_as_many_again(study, ready, results, tmp_path):
    other = shutil.copytree(results, tmp_path / "tiny")
    report = json.loads((other / "report.json").read_text())
    for epochs, same in ((2, True), (1, False)):  # it was fitted for two
        report["final"]["epochs"] = [epochs] * len(report["final"]["members"])
        (other / "report.json").write_text(json.dumps(report))
        again = reproduce_final(study, ready, other, CONSOLE)
        assert ("equal to the last bit" in again.detail) == same


def test_another_final_model_is_not_taken_for_the_same(study, ready, results, tmp_path):
    other = shutil.copytree(results, tmp_path / "tiny")
    text = (other / "report.json").read_text()
    report = wastetune.load_report("tiny", results=tmp_path)
    (other / "report.json").write_text(text.replace(str(report["test"]["f1_macro"]), "0.123", 1))
    (other / "predictions.csv").unlink()
    again = reproduce_final(study, ready, other, CONSOLE)
    assert not again.is_same()
    assert "no predictions.csv" in again.detail
    assert "NOT REPRODUCED, although nothing that is recorded differs: perhaps" in render_reproduction(again)
    assert "Reproduced within 1." in render_reproduction(again, 1.0)


def test_a_pruned_trial_is_compared_at_the_epoch_where_it_ended(copied, ready, results):
    config = TrialConfig.model_validate(copied.trials[0].user_attrs["config"])
    whole = run_trial(config, len(copied.trials), ready.context, CONSOLE.bar, lambda epoch: None)
    first = whole.fit.history[0]
    assert len(whole.fit.history) == 2
    number = add(copied, optuna.trial.TrialState.PRUNED, history=[asdict(first)])
    again = reproduce_trial(copied, ready, number, results, CONSOLE)
    ((name, pair),) = again.scores.items()
    assert name.endswith("of epoch 1, where it was pruned")
    assert pair == (first.score, first.score)
    assert again.detail == "Loss and score of 1 epoch are equal to the last bit."


def test_where_two_runs_differ_first_is_told(copied, ready, results):
    first, last = copied.trials[0].user_attrs["history"]
    history = [first | {"loss": first["loss"] + 0.25}, last]
    number = add(copied, optuna.trial.TrialState.COMPLETE, value=0.125, history=history)
    again = reproduce_trial(copied, ready, number, results, CONSOLE)
    assert not again.is_same()
    assert "The first difference is in epoch 1 of 2: loss" in again.detail


@pytest.mark.parametrize(
    ("state", "attrs", "complaint"),
    [
        (
            optuna.trial.TrialState.FAIL,
            {"failure": "the loss became nan"},
            r"no score to reproduce: the loss became nan; trial 0 is of the same configuration",
        ),
        (optuna.trial.TrialState.PRUNED, {}, "no record of its epochs"),
        (optuna.trial.TrialState.RUNNING, {}, "has not ended yet"),
    ],
    ids=["failed", "pruned before an epoch", "running"],
)
def test_a_trial_without_a_score_is_refused(copied, state, attrs, complaint):
    number = add(copied, state, **attrs)
    with pytest.raises(UserError, match=complaint):
        find_trial(copied, number)


def test_pictures_that_differ_are_named(ready, results):
    first, second, third, fourth, *others = read_split_table(results / "split.csv")
    then = (
        replace(first, pixels_sha256="0", bytes_sha256="0"),
        replace(second, bytes_sha256="0"),
        replace(third, split="elsewhere"),
        replace(fourth, path="box/gone.jpg"),
        *others,
    )
    assert compare_pictures(then, ready) == [
        f"1 picture changed: {first.path}",
        "1 picture missing: box/gone.jpg",
        f"1 picture new: {fourth.path}",
        f"1 picture written anew with the same pixels: {second.path}",
        f"1 picture on another side of the split: {third.path}",
    ]
    many = tuple(replace(row, pixels_sha256="0") for row in (first, second, third, fourth, *others))
    assert compare_pictures(many, ready)[0].endswith(f" and {len(many) - 5} more")


def test_versions_runtime_settings_and_weights_that_differ_are_named(study, ready, results, monkeypatch):
    versions = package_versions()
    then = {**versions, "keras": "3.0.0"}
    then.pop("openvino", None)
    now = {**versions, "openvino": "2099.1"}
    monkeypatch.setattr(differences, "package_versions", lambda: now)
    changed = replace(ready, fingerprint=ready.fingerprint | {"weights": "other", "views": "9"})
    assert find_differences(study, changed, results, then) == [
        "views: 2 then, 9 now",
        f"weights: {ready.fingerprint['weights']} then, other now",
        "runtime of the trunk: keras then, openvino now",
        f"keras: 3.0.0 then, {versions['keras']} now",
    ]


def test_the_command_names_the_changed_picture_and_runs_all_the_same(ran, tiny_heads, pictures, tmp_path):
    mine = shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "tiny.toml").write_text(tiny_heads.read_text().replace(f'"{pictures}"', f'"{mine}"'))

    def invoke(*arguments):
        places = ("--storage", f"sqlite:///{ran / 'wastetune.db'}", "--results", str(ran / "results"))
        return CliRunner().invoke(main, ["reproduce", "--study", str(tmp_path / "tiny.toml"), *arguments, *places])

    done = invoke("--trial", "1")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "Reproduced: the same score.")
    for wrong, complaint in (
        (("--trial", "7"), "trial 7 of study 'tiny' does not exist; the study has 3 trials"),
        ((), "either --trial N or --final"),
        (("--trial", "1", "--final"), "either --trial N or --final"),
    ):
        done = invoke(*wrong)
        assert done.exit_code == 2
        assert complaint in done.stderr

    row = next(row for row in read_split_table(ran / "results" / "tiny" / "split.csv") if row.split == "train")
    file = mine / row.path
    picture = Image.open(file).convert("RGB")
    picture.putpixel((0, 0), (255, 0, 255))
    ImageOps.mirror(picture).save(file, quality=95)
    done = invoke("--trial", "1")
    assert "What differs from then:" in done.stdout
    assert f"changed: {row.path}" in done.stdout
    assert done.exit_code in (0, 1)
    assert ("NOT REPRODUCED; the result is of what differs above." in done.stdout) == (done.exit_code == 1)
