"""A study honours corrections, and one without them is what it was."""

import pytest

from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.storage.study import best_trial
from wastetune.study.summary import summarize_search
from wastetune.tuning.prepare import join_study, prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.progress import render_preparation
from wastetune.tuning.workers.worker import run_worker

DROPPED, RELABELLED = "box/box003.jpg", "leaf/leaf004.jpg"


@pytest.fixture
def with_corrections(tmp_path, monkeypatch, tiny):
    """That study with these lines of corrections, ready to run."""
    monkeypatch.chdir(tmp_path)

    def prepare(*lines):
        (tmp_path / "mine.csv").write_text("\n".join(["path,decision,value", *lines]))
        study = tmp_path / "mine.toml"
        study.write_text(tiny.read_text() + '\ncorrections = "mine.csv"\n')
        return prepare_study(load_study(str(study)), data=None, weights=None, console=open_console(quiet=True))

    return prepare


def test_without_decisions_the_study_is_the_same(with_corrections, prepared):
    same = with_corrections(f"{DROPPED},,", f"{RELABELLED},keep,")
    assert same.fingerprint == prepared.fingerprint
    assert same.splits == prepared.splits
    assert "corrections" not in prepared.fingerprint


def test_decisions_change_pictures_labels_and_the_split_alone(with_corrections, prepared):
    changed = with_corrections(f"{DROPPED},drop,", f"{RELABELLED},relabel,box")
    assert {key for key in prepared.fingerprint if changed.fingerprint[key] != prepared.fingerprint[key]} == {
        "data and split"
    }
    data = changed.context.data
    label_of = {
        path: label
        for part in (data.train, data.val, changed.test)
        for path, label in zip(part.paths, part.labels.tolist(), strict=True)
    }
    assert DROPPED not in label_of
    assert label_of[RELABELLED] == changed.context.classes.index("box")
    told = list(render_preparation(changed))
    assert "  corrected by hand: 1 dropped, 1 relabelled" in told
    assert f"  left out: {DROPPED}: dropped by mine.csv" in told


def test_a_mistake_names_the_study_the_file_and_the_line(with_corrections):
    with pytest.raises(
        UserError, match=r"mine\.toml: corrections = 'mine\.csv': mine\.csv, line 2: 'no' is no decision"
    ):
        with_corrections(f"{DROPPED},no,")


def test_pictures_keep_their_pixels_and_are_not_decoded_again(with_corrections, prepared, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("pictures are decoded again")

    monkeypatch.setattr("wastetune.data.pixels._write", refuse)
    changed = with_corrections(f"{DROPPED},drop,")
    before, after = prepared.context.data.train, changed.context.data.train
    assert DROPPED in (*before.paths, *prepared.context.data.val.paths, *prepared.test.paths)
    for place, path in enumerate(after.paths):
        earlier = before.paths.index(path)
        pixels = after.read(range(place, place + 1))
        assert (pixels == before.read(range(earlier, earlier + 1))).all()


def test_the_report_of_the_search_counts_what_was_corrected(with_corrections, prepared, tmp_path):
    changed = with_corrections(f"{DROPPED},drop,", f"{RELABELLED},relabel,box")
    told = {}
    for name, each in (("changed", changed), ("same", prepared)):
        study = join_study(each, f"sqlite:///{tmp_path}/{name}.db", open_console(quiet=True))
        trials = {"trials": 1, "timeout": None, "bar": open_console(quiet=True).bar, "on_trial": lambda trial: None}
        run_worker(study, each.context, **trials)
        told[name] = summarize_search(study, each, best_trial(study)).to_dict()
    assert told["changed"]["corrected"] == {"drop": 1, "relabel": 1}
    assert "corrected" not in told["same"]  # so that a report of an earlier version is not written anew
