"""A warm start on a real database: early, once chosen always the same, refused before anything is computed."""

from dataclasses import replace

import optuna
import pytest
from optuna.trial import create_trial
from optuna_dashboard import get_note

from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.storage.records import read_attrs
from wastetune.storage.study import get_study_attr, set_study_attr, settle_study_attr
from wastetune.storage.trials import fail_lost_trials
from wastetune.study.run import run_one_worker, run_study
from wastetune.study.summary import summarize_search
from wastetune.training.config import TrialConfig
from wastetune.tuning.prepare import join_study, prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.warm_start import check_warm_start, render_warm_starts, settle_warm_starts
from wastetune.tuning.workers.progress import describe_status, render_status
from wastetune.tuning.workers.worker import run_worker

CONSOLE = open_console(quiet=True)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/w.db"


@pytest.fixture
def join(url, prepared):
    """(study, prepared) of a name in the database, with changes of its specification."""

    def join_named(name, **changes):
        spec = prepared.context.spec.model_copy(update={"name": name, **changes})
        ours = replace(prepared, context=replace(prepared.context, spec=spec))
        return join_study(ours, url, CONSOLE), ours

    return join_named


@pytest.fixture
def source(join):
    """A study with two trials that this one can use, and one whose learning rate is beyond its bounds."""
    study, _ = join("source")
    for rate, score in ((0.02, 0.7), (0.5, 0.8), (0.03, 0.6)):
        add_trial(study, rate, score)
    return study


def add_trial(study, rate, score):
    config = TrialConfig(
        head_layers=0, dropout=0.3, learning_rate=rate, batch_size=32, frozen_depth=0.95, augmentation=1.0, epochs=7
    )
    rates = optuna.distributions.FloatDistribution(1e-3, 1)
    attrs = {"config": config.model_dump()}
    study.add_trial(
        create_trial(
            value=score, params={"learning_rate": rate}, distributions={"learning_rate": rates}, user_attrs=attrs
        )
    )


def run(study, prepared, trials, on_trial=lambda trial: None):
    run_worker(study, prepared.context, trials=trials, timeout=None, bar=CONSOLE.bar, on_trial=on_trial)


def origins(study):
    return [read_attrs(trial).origin for trial in study.get_trials(deepcopy=False)]


def test_the_best_of_an_earlier_study_run_after_the_default_and_are_told_as_such(source, join):
    study, prepared = join("new", warm_start=("source",))
    run(study, prepared, 3)
    assert origins(study) == ["", "source, trial 1", "source, trial 0"]
    configs = [read_attrs(trial).config for trial in study.trials]
    assert study.trials[0].user_attrs["default"]
    assert [config["learning_rate"] for config in configs[1:]] == [0.1, 0.02]  # 0.1 is the bound
    depths = {cut.frozen_depth for cut in prepared.context.backbone.cuts}
    assert {config["frozen_depth"] for config in configs} <= depths
    assert {(config["dropout"], config["epochs"]) for config in configs} == {(0.1, 2)}  # fixed in this space

    note = get_note(optuna.trial.Trial(study, study.trials[1]._trial_id))
    assert "A warm start: the configuration is from source, trial 1." in note
    summary = summarize_search(study, prepared, study.trials[1])
    assert summary.best.origin == "source, trial 1"
    assert [each.to_dict() for each in summary.warm_starts] == [
        {"study": "source", "trial": 1, "resplit": False},
        {"study": "source", "trial": 0, "resplit": False},
    ]
    set_study_attr(study, "trials", 3)
    best = max(study.trials, key=lambda trial: (trial.value, -trial.number))
    status = describe_status(study)
    assert status["best"]["origin"] == read_attrs(best).origin
    status["best"]["origin"] = "source, trial 1"
    assert f"(trial {best.number}, from source, trial 1)" in render_status(status)


def test_the_list_stays_as_it_was_when_the_study_began(source, join, url):
    study, prepared = join("new", warm_start="auto")
    first = settle_warm_starts(study, prepared.context)
    assert [each.trial for each in first] == [1, 0, 2]
    add_trial(source, 0.04, 0.99)
    again, _ = join("new", warm_start="auto")
    assert settle_warm_starts(again, prepared.context) == first
    other, ours = join("later", warm_start="auto")
    assert [each.trial for each in settle_warm_starts(other, ours.context)] == [3, 1, 0, 2]
    optuna.delete_study(study_name="source", storage=study._storage)
    check_warm_start(prepared.context.spec.model_copy(update={"warm_start": ("source",)}), url)
    assert settle_warm_starts(again, prepared.context) == first


def test_whoever_comes_first_decides(join):
    study, _ = join("new")
    assert settle_study_attr(study, "list", lambda: []) == []
    assert settle_study_attr(study, "list", lambda: pytest.fail("it is there")) == []


def test_a_lost_warm_start_is_tried_again_as_what_it_was(source, join):
    study, prepared = join("new", warm_start=("source",))
    run(study, prepared, 1)
    with pytest.raises(KeyboardInterrupt):
        run_worker(
            study,
            prepared.context,
            trials=2,
            timeout=None,
            bar=CONSOLE.bar,
            on_trial=lambda trial: None,
            show=interrupt,
        )
    fail_lost_trials(study)
    run(study, prepared, 2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert origins(study) == ["", "source, trial 1", "source, trial 1"]


def interrupt(number, epochs):
    raise KeyboardInterrupt


def test_a_study_without_the_key_is_what_it_was_and_one_with_another_is_refused(tiny, url, source):
    def prepare(**changes):
        spec = load_study(str(tiny)).model_copy(update=changes)
        return prepare_study(spec, data=None, weights=None, console=CONSOLE)

    plain = prepare()
    assert "warm_start" not in plain.fingerprint
    assert prepare(warm_start=()).fingerprint == plain.fingerprint
    join_study(plain, url, CONSOLE)
    message = r"begun with another warm_start \(warm_start: then None, now \[\"source\"\]\); copy the study's file"
    with pytest.raises(UserError, match=message):
        join_study(prepare(warm_start=("source",)), url, CONSOLE)


def test_what_is_told_of_a_warm_start(source, join):
    study, prepared = join("new", warm_start="auto")
    starts = settle_warm_starts(study, prepared.context)
    assert render_warm_starts(prepared.context.spec, starts) == [
        "Warm start with 3 configurations of earlier studies: source (trials 1, 0, 2)."
    ]
    assert render_warm_starts(prepared.context.spec, ()) == ["Warm start: no earlier study in this database can help."]
    unasked, plain = join("plain")
    assert render_warm_starts(plain.context.spec, settle_warm_starts(unasked, plain.context)) == []
    assert get_study_attr(unasked, "warm_starts") is None


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (
            "nowhere",
            r"tiny\.toml: warm_start = \[\"nowhere\"\]: there is no study 'nowhere' in this database \(there: empty\)",
        ),
        ("empty", "study 'empty' has no complete trial of wastetune; leave it out"),
        ("tiny", "a study cannot help itself"),
    ],
)
def test_a_study_that_cannot_help_is_named(tiny, url, tmp_path, named, words):
    optuna.create_study(study_name="empty", storage=open_storage(url))
    with pytest.raises(UserError, match=words):
        check_warm_start(load_study(with_start(tiny, tmp_path, named)), url)


def with_start(tiny, folder, named):
    file = folder / "tiny.toml"
    file.write_text(tiny.read_text() + f'warm_start = ["{named}"]\n')
    return str(file)


def test_it_is_told_before_anything_is_read(tiny, url, tmp_path, monkeypatch):
    monkeypatch.setattr("wastetune.study.run.prepare_study", lambda *_, **__: pytest.fail("nothing must be read"))
    spec = load_study(with_start(tiny, tmp_path, "nowhere"))
    locations = Locations(url, f"sqlite:///{tmp_path}/mlflow.db", tmp_path, None, None)
    with pytest.raises(UserError, match="there is no study 'nowhere'"):
        run_study(spec, locations, CONSOLE)
    with pytest.raises(UserError, match="there is no study 'nowhere'"):
        run_one_worker(spec, locations, CONSOLE, timeout=None, renew_after=9, check=lambda: None)
