"""A prepared study: what its fingerprint knows."""

import shutil

import pytest
from optuna_dashboard import get_note

from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.search.choice import describe_search
from wastetune.storage.study import find_study, read_study_info, write_study_info
from wastetune.study.summary import summarize_search
from wastetune.tuning.prepare import fingerprint_digest, join_study, prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.progress import describe_status, render_status


def prepare(tiny, **changes):
    spec = load_study(str(tiny)).model_copy(update=changes)
    return prepare_study(spec, data=None, weights=None, console=open_console(quiet=True))


def test_a_random_split_is_another_study_and_its_leak_is_counted(tiny, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    twice = tmp_path / "twice"
    shutil.copytree(pictures, twice)
    for file in list(twice.rglob("*.*")):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    grouped, alone = (prepare(tiny, dataset=str(twice), split=split) for split in ("grouped", "random"))
    assert "split" not in grouped.fingerprint  # as before there was this key
    assert alone.fingerprint["split"] == "random"
    assert alone.fingerprint["data and split"] != grouped.fingerprint["data and split"]
    for prepared, leaked in ((grouped, 0), (alone, len(alone.splits.test))):
        url = f"sqlite:///{prepared.fingerprint.get('split', 'grouped')}.db"
        study = join_study(prepared, url, open_console(quiet=True))
        study.add_trial(complete_default())
        summary = summarize_search(study, prepared, study.trials[0])
        assert leaked // 2 < summary.leaked <= leaked or summary.leaked == leaked == 0


def test_another_sampler_is_another_study_and_its_trackers_tell_it(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = open_console(quiet=True)
    usual = prepare(tiny)
    assert {"sampler", "pruner"}.isdisjoint(usual.fingerprint)
    assert fingerprint_digest(usual) == fingerprint_digest(prepare(tiny, sampler="tpe", pruner="median"))
    other = prepare(tiny, sampler={"class": "tpe", "n_startup_trials": 4}, pruner="none")
    assert other.fingerprint == usual.fingerprint | {"sampler": "tpe(n_startup_trials=4)", "pruner": "none"}
    join_study(usual, "sqlite:///w.db", console)
    words = (
        r"another sampler, pruner \(sampler: then tpe, now tpe\(n_startup_trials=4\); pruner: then median, now none\)"
    )
    with pytest.raises(UserError, match=words):
        join_study(other, "sqlite:///w.db", console)
    assert describe_search(read_study_info(join_study(usual, "sqlite:///w.db", console)).tags) == ""
    study = join_study(other, "sqlite:///other.db", console)
    assert describe_search(read_study_info(study).tags) == "sampler tpe(n_startup_trials=4), pruner none"
    assert "| search | sampler tpe(n_startup_trials=4), pruner none |" in get_note(study)
    told = "\nsampler tpe(n_startup_trials=4), pruner none\n"
    assert told in render_status(describe_status(study))


def test_an_earlier_study_learns_which_pictures_it_has(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = prepare(tiny)
    study = join_study(prepared, "sqlite:///w.db", open_console(quiet=True))
    info = read_study_info(study)
    assert info.data.content
    old = info.to_dict()
    del old["data"]["content"], old["data"]["sketch"]
    write_study_info(study, type(info).from_dict(old))
    assert read_study_info(study).data.content == ""
    join_study(prepared, "sqlite:///w.db", open_console(quiet=True))
    assert read_study_info(find_study(study._storage, study.study_name)) == info


def test_a_name_of_its_data_set_changes_what_a_study_is_called_and_nothing_else(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = open_console(quiet=True)
    unnamed, named = prepare(tiny), prepare(tiny, dataset_name="litter")
    assert unnamed.fingerprint == named.fingerprint

    def name_of(prepared):
        study = join_study(prepared, "sqlite:///w.db", console)
        info = read_study_info(study)
        study.add_trial(complete_default())
        assert summarize_search(study, prepared, study.trials[0]).dataset == info.data.name == info.tags["dataset"]
        return info.data.name

    assert name_of(unnamed) == "pictures"
    assert name_of(named) == "litter"
    assert name_of(unnamed) == "litter"  # it keeps its name until another is given


def complete_default():
    from optuna.trial import TrialState, create_trial

    return create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs={"config": {}, "default": True})
