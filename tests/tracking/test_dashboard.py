"""What the Optuna dashboard shows of a study: notes and pictures, as it reads them, and what a worker does without."""

import logging
import threading

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import get_note, save_note, wsgi
from werkzeug.test import Client

from support.reports import a_report, scores
from wastetune.console import open_console
from wastetune.storage.budget import LOST
from wastetune.storage.database import open_storage
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import open_study as create_study
from wastetune.storage.study import set_study_attr
from wastetune.storage.trials import begin_trial, complete_trial, fail_trial, prune_trial, set_trial_attrs
from wastetune.tracking.artifacts import DrawnPictures, Pictures, artifact_folder
from wastetune.tracking.dashboard import Notes, note_study
from wastetune.tracking.ui import _without_records
from wastetune.tuning.workers.worker import run_worker

CLASSES = ("box", "leaf", "can")
CONFIG = {"dropout": 0.123456, "head_layers": 0, "head_units": None}
ATTRS = {
    "history": [
        {"number": 1, "loss": 0.9, "score": 0.4, "accuracy": 0.5, "seconds": 0.1},
        {"number": 2, "loss": 0.7, "score": 0.6, "accuracy": 0.65, "seconds": 0.1},
        {"number": 3, "loss": 0.6, "score": 0.5, "accuracy": 0.6, "seconds": 0.1},
    ],
    "best_epoch": 2,
    "confusion_matrix": [[9, 1, 0], [3, 5, 2], [0, 0, 0]],
    "trainable_parameters": 1234,
}
ABOUT = {
    "question": "Which is which?",
    "metric": "macro_f1",
    "data": {
        "name": "litter",
        "folder": "/data",
        "digest": "d1",
        "classes": CLASSES,
        "counts": {"train": 28, "val": 7, "test": 1000},
    },
    "tags": {"backbone": "tiny_net"},
}
SCORES = scores(0.75) | {"accuracy": 0.75, "f1_macro": 0.5}


def report_of(default_number=1):
    best = {"number": 0, "score": 0.6, "config": {}}
    return a_report(best=best, default_number=default_number, test=SCORES, default_test=SCORES | {"f1_macro": 0.25})


REPORT = report_of()


def open_study(url):
    study = create_study(open_storage(url), "mine", {"data": "d1"})
    set_study_attr(study, "about", ABOUT)
    return study


@pytest.fixture
def study(tmp_path):
    return open_study(f"sqlite:///{tmp_path / 'study.db'}")


def run_one(study, notes, *, pruned=False):
    """A trial as a worker runs it, without the training; gives it as it is afterwards."""
    trial = begin_trial(study, {}, {}, TrialAttrs(config=CONFIG))
    set_trial_attrs(trial, TrialAttrs(**ATTRS))
    notes.write(trial, CONFIG, TrialAttrs(**ATTRS), pruned=pruned)
    return prune_trial(trial) if pruned else complete_trial(trial, 0.6)


def note_of(study, trial):
    """A trial's note as the dashboard reads it."""
    return get_note(optuna.trial.Trial(study, trial._trial_id))


def pictures_in(study, note, store):
    """What a browser gets for each of the note's pictures: (status, kind, text)."""
    client = Client(wsgi(study._storage, artifact_store=store))
    addresses = [part.split(")")[0] for part in note.split("](/artifacts")[1:]]
    found = []
    for address in addresses:
        with client.get(f"/artifacts{address}") as answer:
            found.append((answer.status_code, answer.content_type, answer.text))
    return found


def check_pictures(found):
    assert [(status, kind) for status, kind, _ in found] == [(200, "image/svg+xml")] * 2
    curve, confusion = (text for _, _, text in found)
    assert "epoch" in curve
    assert all(f">{name}<" in confusion for name in CLASSES)


def test_a_trial_has_a_note_with_two_pictures_and_its_record_stays_as_it_was(url, tmp_path, monkeypatch):
    monkeypatch.setenv("WASTETUNE_ARTIFACTS", str(tmp_path / "pictures"))
    study = open_study(url)
    trial = run_one(study, Notes(study, "macro_f1", CLASSES))
    note = note_of(study, trial)
    assert note.startswith("**macro F1 0.6000**, accuracy 0.6500 on the validation pictures, in epoch 2 of 3; 1,234 ")
    assert (
        "- **leaf**: 5 of 10 found (50%), 3 taken for box\n- **box**: 9 of 10 found (90%), 1 taken for leaf\n\n" in note
    )
    assert "| dropout | 0.1235 |" in note
    assert "head_units" not in note
    check_pictures(pictures_in(study, note, Pictures(tmp_path / "pictures")))
    assert trial.user_attrs.keys() == {"config", "owner", "beat", "seconds", *ATTRS}
    assert (trial.state.name, trial.value) == ("COMPLETE", 0.6)


def test_a_pruned_trial_has_one_too(study):
    trial = run_one(study, Notes(study, "accuracy", CLASSES), pruned=True)
    assert note_of(study, trial).startswith(
        "**accuracy 0.6000** on the validation pictures, in epoch 2 of 3, then pruned;"
    )


def test_what_was_snapped_is_told_beside_what_was_drawn(study):
    drawn, config = {"augmentation": 0.811, "dropout": 0.25}, {"augmentation": 2 / 3, "dropout": 0.25}
    ranges = {key: optuna.distributions.FloatDistribution(0, 1) for key in drawn}
    trial = begin_trial(study, drawn, ranges, TrialAttrs(config=config))
    set_trial_attrs(trial, TrialAttrs(**ATTRS))
    Notes(study, "macro_f1", CLASSES).write(trial, config, TrialAttrs(**ATTRS), pruned=False)
    note = note_of(study, complete_trial(trial, 0.6))
    assert "| augmentation | 0.6667, the nearest that has an effect to 0.811 |" in note
    assert "| dropout | 0.25 |" in note


def test_the_pages_show_no_records_for_programs(study):
    trial = run_one(study, Notes(study, "macro_f1", CLASSES))
    study.set_user_attr("mine", "a word")
    client = Client(_without_records(wsgi(study._storage)))
    told = client.get(f"/api/studies/{study._study_id}").json
    assert [each["key"] for each in told["user_attrs"]] == ["mine"]
    assert {each["key"] for each in told["trials"][0]["user_attrs"]} == {"best_epoch", "trainable_parameters"}
    assert {each["key"] for each in told["union_user_attrs"]} == {"best_epoch", "trainable_parameters"}
    assert told["trials"][0]["note"]["body"].startswith("**macro F1")
    assert {"config", "history"} <= study.trials[trial.number].user_attrs.keys()  # they are stored as ever
    assert client.get("/api/studies/999").status_code == 404
    assert client.get("/api/studies").status_code == 200


def test_pictures_without_a_folder_are_drawn_when_they_are_looked_at(postgres, tmp_path):
    study = open_study(postgres.new_database())
    assert artifact_folder(study._storage) is None
    note = note_of(study, run_one(study, Notes(study, "macro_f1", CLASSES)))
    check_pictures(pictures_in(study, note, DrawnPictures(study, None, tmp_path)))
    with pytest.raises(ArtifactNotFound):
        DrawnPictures(study, None, tmp_path).open_reader("abc")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_behind_a_proxy_it_is_the_same(tmp_path):
    pytest.importorskip("grpc", reason="the proxy needs pip install 'wastetune[grpc]'")
    from optuna.storages._grpc.server import make_server

    server = make_server(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "localhost", 0)
    port = server.add_insecure_port("localhost:0")
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        study = open_study(f"grpc://localhost:{port}")
        note_study(study)
        note = note_of(study, run_one(study, Notes(study, "macro_f1", CLASSES)))
        check_pictures(pictures_in(study, note, DrawnPictures(study, None, tmp_path)))
        assert "Which is which?" in get_note(study)
    finally:
        server.stop(grace=None)
        thread.join()


def test_a_folder_that_cannot_be_written_to_is_said_once_and_costs_pictures_alone(study, tmp_path, caplog):
    (tmp_path / "study.db.artifacts").write_text("in the way")
    notes = Notes(study, "macro_f1", CLASSES)
    with caplog.at_level(logging.WARNING, "wastetune"):
        trials = [run_one(study, notes) for _ in range(3)]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert all("Worst classes" in note_of(study, trial) for trial in trials)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("what the dashboard shows of trials cannot be written")


def test_a_trial_that_was_taken_away_meanwhile_is_no_news(study, caplog):
    trial = begin_trial(study, {}, {}, TrialAttrs(config=CONFIG))
    fail_trial(trial, LOST)
    with caplog.at_level(logging.WARNING, "wastetune"):
        Notes(study, "macro_f1", CLASSES).write(trial, CONFIG, TrialAttrs(**ATTRS), pruned=False)
    assert not caplog.records


def test_a_note_that_fails_costs_no_trial(context, tmp_path, monkeypatch, caplog):
    def broken(*arguments, **options):
        raise OSError("the disk is gone")

    monkeypatch.setattr("wastetune.tracking.dashboard.draw_pictures", broken)
    study = create_study(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "mine", {"data": "d1"})
    with caplog.at_level(logging.WARNING, "wastetune"):
        run_worker(study, context, trials=2, timeout=None, bar=open_console().bar, on_trial=lambda trial: None)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "what the dashboard shows of trials cannot be written (the disk is gone); they go on without it"
    ]


def test_a_worker_leaves_a_note_with_each_of_its_trials(context, tmp_path):
    study = create_study(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "mine", {"data": "d1"})
    run_worker(study, context, trials=2, timeout=None, bar=open_console().bar, on_trial=lambda trial: None)
    for trial in study.trials:
        assert f"**macro F1 {trial.value:.4f}**" in note_of(study, trial)
    files = [path.read_text() for path in (tmp_path / "study.db.artifacts").iterdir()]
    assert len(files) == 4
    assert all(text.startswith("<svg ") for text in files)


def test_the_study_has_its_question_then_its_answer_and_a_link_to_the_report(study, tmp_path):
    note_study(study)
    assert get_note(study).startswith("**Which is which?**")
    assert "1,035 pictures (28 to train, 7 to validate, 1,000 sealed for the test)" in get_note(study)
    assert study.metric_names == ["macro F1"]
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    for text in ("<p>first</p>", "<p>second</p>"):
        (folder / "report.html").write_text(text)
        note_study(study, REPORT, folder)
    note = get_note(study)
    assert (
        "macro F1 **0.500** and accuracy **0.750** on the sealed test set; the default configuration has 0.250" in note
    )
    assert f"[Trial 0](/dashboard/studies/{study._study_id}/trials?numbers=0)" in note
    note_study(study, report_of(default_number=0), folder)
    assert "sealed test set; it is the default configuration." in get_note(study)
    assert [meta.filename for meta in get_all_artifact_meta(study)] == ["report.html"]
    kept = pictures_in(study, note, Pictures(artifact_folder(study._storage)))
    assert kept[0][0] == 200
    assert kept[0][2] == "<p>second</p>"
    (folder / "report.html").write_text("<p>third</p>")
    shown = pictures_in(study, note, DrawnPictures(study, artifact_folder(study._storage), tmp_path / "results"))
    assert shown[0][2] == "<p>third</p>"


def test_what_a_person_wrote_into_the_studys_note_stays(study):
    note_study(study)
    save_note(study, "I looked at it, and it is good.")
    note_study(study, REPORT)
    assert get_note(study) == "I looked at it, and it is good."


def test_a_shorter_note_leaves_nothing_of_a_longer_one(study):
    set_study_attr(study, "about", {**ABOUT, "question": "long " * 1000})
    note_study(study)
    set_study_attr(study, "about", ABOUT)
    note_study(study)
    assert "long" not in get_note(study)
