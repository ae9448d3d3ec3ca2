"""`wastetune doctor`: what it finds, what is wrong, and that it leaves nothing behind."""

import sqlite3
from importlib.metadata import version

import pytest

from wastetune.checks import doctor as module
from wastetune.checks.doctor import Finding, examine, render_findings
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.storage.study import open_study


@pytest.fixture
def places(tmp_path, tmp_path_factory, monkeypatch):
    """An empty folder to work in, and the default places."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WASTETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # Keras writes its settings there

    def at(storage="sqlite:///wastetune.db", tracking="sqlite:///mlruns/mlflow.db", **changes):
        folders = {"results": tmp_path / "results", "data": tmp_path / "data", "weights": None} | changes
        return Locations(storage, tracking, **folders)

    return at


def found(locations):
    return {finding.what: finding for finding in examine(locations)}


def problems(locations):
    return [finding.problem for finding in examine(locations) if finding.problem]


def test_in_an_empty_folder_nothing_is_wrong_and_nothing_is_made(places, tmp_path):
    findings = found(places())
    assert [each.problem for each in findings.values() if each.problem] == []
    assert findings["keras"].state == version("keras")
    assert findings["wastetune"].state == version("wastetune")
    assert findings["study database"].state.endswith("wastetune.db: not there yet")
    assert findings["MLflow store"].state.endswith("mlflow.db: not there yet")
    assert findings["runtime"].state in ("keras", "openvino")
    assert list(tmp_path.iterdir()) == []


def test_places_come_with_their_sizes(places, url, tmp_path):
    study = open_study(open_storage(url), "mine", {})
    for _ in range(3):
        study.ask()
    for folder, names in {"data/litter/can": 3, "cache": 2, "weights": 1}.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(names):
            (tmp_path / folder / f"{number}.bin").write_bytes(b"x" * 500_000)
    findings = found(places(storage=url, weights=tmp_path / "weights"))
    assert findings["data sets"].state == f"{tmp_path / 'data'}: 3 files, 1.5 MB"
    assert findings["cache"].state.startswith(f"{tmp_path / 'cache'}: 2 files, 1.0 MB; ")
    assert findings["weights"].state == f"{tmp_path / 'weights'}: 1 file, 500.0 kB"
    assert findings["study database"].state.endswith(", 1 study, 3 trials")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WASTETUNE_CACHE_GB", "much", "WASTETUNE_CACHE_GB is 'much', but must be a number of gigabytes"),
        ("WASTETUNE_LEASE", "0", "WASTETUNE_LEASE is '0', but must be a number of seconds"),
        ("WASTETUNE_RUNTIME", "fast", "WASTETUNE_RUNTIME is 'fast', but must be auto, keras or openvino"),
        ("WASTETUNE_CASHE", "x", "WASTETUNE_CASHE means nothing to wastetune; did you mean WASTETUNE_CACHE"),
    ],
)
def test_a_wrong_setting_is_told_with_what_to_do(places, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    (problem,) = problems(places())
    assert problem.startswith(words)


def test_places_that_are_something_else_are_told(places, tmp_path):
    for name in ("results", "other.db", "store.db"):
        (tmp_path / name).write_text("no database at all, but a text of more than sixteen characters")
    told = problems(
        places("sqlite:///other.db", "sqlite:///store.db", weights=tmp_path / "nowhere", results=tmp_path / "results")
    )
    assert len(told) == 4
    for words, problem in zip(("weights", "is no folder", "other.db cannot be opened", "store.db"), told, strict=True):
        assert words in problem


def test_a_server_that_does_not_answer_is_told_without_its_password(places):
    told = problems(places("postgresql+psycopg://me:secret@127.0.0.1:9/x", "http://me:secret@127.0.0.1:9"))
    assert len(told) == 2
    assert "check --storage" in told[0]
    assert "check --tracking-uri" in told[1]
    assert "secret" not in "".join(told)


def test_missing_packages_and_a_broken_tensorflow_are_told(places, monkeypatch):
    def broken():
        raise ImportError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(module, "_NEEDED", ("keras", "no-such-package"))
    monkeypatch.setattr(module, "_OPTIONAL", {"no-such-extra": "app"})
    monkeypatch.setattr(module, "list_gpus", broken)
    findings = found(places())
    assert findings["no-such-package"].problem == "no-such-package is not installed: pip install wastetune"
    assert findings["no-such-extra"] == Finding("no-such-extra", "not installed; pip install 'wastetune[app]' adds it")
    assert "TensorFlow cannot be imported (ImportError: libcudart.so" in findings["GPU"].problem


def test_it_ends_with_what_is_wrong():
    assert render_findings([Finding("a", "1")]).endswith("\n\nNothing is wrong.")
    text = render_findings([Finding("a", "1", "a is not 2; write 2"), Finding("bb", "3")])
    assert text == "a   1\nbb  3\n\nOne thing is wrong:\n- a is not 2; write 2"


def test_the_command_ends_with_1_where_something_is_wrong(run_cli, tmp_path):
    fine = run_cli("doctor")
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout.endswith("\nNothing is wrong.\n")
    with sqlite3.connect(tmp_path / "wastetune.db") as connection:
        connection.execute("create table mine (x)")
    assert "0 studies, 0 trials" in run_cli("doctor").stdout
    wrong = run_cli("doctor", WASTETUNE_CACHE_GB="much")
    assert (wrong.returncode, wrong.stderr) == (1, "")
    assert "One thing is wrong:\n- WASTETUNE_CACHE_GB is 'much'" in wrong.stdout
