"""The whole job, from a study's file to its report."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune import database, storage, tracking
from wastetune.bundle import MODEL_FILE, save_description, save_model
from wastetune.checks import FOLDER as EXPORTS
from wastetune.checks import export_metrics
from wastetune.dashboard import note_study
from wastetune.data.splits import write_split_table
from wastetune.errors import UserError
from wastetune.export import remove
from wastetune.history import read_history
from wastetune.interrupts import heeded_interrupts
from wastetune.launch import goes_on, parent_process, run_workers
from wastetune.metrics import gain_intervals, scores_dict
from wastetune.mirroring import AllTrials, FinalReport, mirrored
from wastetune.page.page import FILE as PAGE
from wastetune.page.page import MISTAKES, write_page
from wastetune.places import Places
from wastetune.predictions import Predictions, confident_mistakes, read_predictions, write_predictions
from wastetune.prepare import Prepared, prepare_study
from wastetune.progress import render_found, render_trial
from wastetune.record import count_seconds, describe_study, package_versions
from wastetune.registry import register_model
from wastetune.report import read_report, write_report
from wastetune.retrain import Final, retrain
from wastetune.spec import StudySpec
from wastetune.terminal import Terminal
from wastetune.training import TrainingFailed
from wastetune.worker import run_worker

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def run_study(
    spec: StudySpec,
    places: Places,
    terminal: Terminal,
    *,
    timeout: float | None = None,
    final: bool = True,
    workers: int | None = None,
    renew_after: int | None = None,
) -> dict[str, Any] | None:
    """Runs a study up to its number of trials, retrains the winner and gives the report.

    With `workers`, so many processes of this machine run the trials, and with 0 of them, others do; else this process
    does. Whatever was finished before is not done again. None where nothing was retrained: `final` is false, or no
    trial is complete yet. On Ctrl-C what was finished is kept and the KeyboardInterrupt goes on.
    """
    begun = time.perf_counter()
    tracking.check_uri(places.tracking_uri)
    prepared = prepare_study(spec, data=places.data, weights=places.weights, terminal=terminal)
    for line in render_found(prepared):
        terminal.say(line)
    study = _join(prepared, places.storage, terminal)
    storage.remember(study, "trials", spec.trials)
    folder = places.results / spec.name
    write_split_table(prepared.index, prepared.splits, folder / "split.csv")
    preparing = time.perf_counter() - begun

    with mirrored(partial(open_mirror_of, study, places.tracking_uri), terminal, places.tracking_uri) as post:
        posted: set[int] = set()

        def post_ended(*_: object) -> None:
            for trial in storage.read_trials(study):
                if trial.state.is_finished() and trial.number not in posted:
                    posted.add(trial.number)
                    post(trial)

        def on_trial(trial: "FrozenTrial") -> None:
            terminal.say(render_trial(trial, study))
            post_ended()

        terminal.say(f"{len(storage.finished_trials(study))} of {spec.trials} trials are finished")
        post_ended()
        with heeded_interrupts() as check:
            if workers is None:
                run_worker(
                    study,
                    prepared.setting,
                    trials=spec.trials,
                    timeout=timeout,
                    bar=terminal.bar,
                    on_trial=on_trial,
                    check=check,
                )
            elif len(storage.finished_trials(study)) < spec.trials:
                run_workers(
                    _worker_arguments(spec, places, timeout, renew_after),
                    {"WASTETUNE_STORAGE": places.storage},
                    workers,
                    study=study,
                    trials=spec.trials,
                    timeout=timeout,
                    say=terminal.say,
                    tick=post_ended,
                )
        report = None
        if not final:
            pass
        elif storage.best_trial(study) is None or storage.default_trial(study) is None:
            terminal.say("no trial with a score yet, so there is nothing to retrain")
        else:
            report = _finish(study, prepared, folder, terminal, preparing)
            note_study(study, report, folder)
            post(FinalReport(report, folder))
        post(AllTrials(tuple(storage.read_trials(study))))
    return report


def run_one_worker(
    spec: StudySpec,
    places: Places,
    terminal: Terminal,
    *,
    timeout: float | None,
    renew_after: int,
    check: Callable[[], None],
) -> bool:
    """Works on a study beside others until it has its trials; true where the process is to be renewed."""
    prepared = prepare_study(spec, data=places.data, weights=places.weights, terminal=terminal)
    parent = parent_process()
    study = _join(prepared, places.storage, terminal)
    trials = storage.recall(study, "trials", spec.trials)
    if parent is None:
        for line in render_found(prepared):
            terminal.say(line)
        terminal.say(f"{len(storage.finished_trials(study))} of {trials} trials are finished")
    return run_worker(
        study,
        prepared.setting,
        trials=trials,
        timeout=timeout,
        bar=terminal.bar,
        on_trial=lambda trial: terminal.say(render_trial(trial, study)),
        check=check,
        renew_after=renew_after,
        parent=parent,
        name=f"{socket.gethostname()} {os.getpid()}",
    )


def sync_study(study: "optuna.Study", uri: str, results: Path) -> tracking.Changes:
    """Brings MLflow to what the study says, its report included where that is in the results folder."""
    mirror = open_mirror_of(study, uri)
    changes = tracking.sync_trials(mirror, storage.read_trials(study))
    folder = results / study.study_name
    if report := read_report(folder):
        tracking.mirror_final(mirror, report, folder)
        changes = replace(changes, model=register_model(mirror, report, folder))
        tracking.mirror_exports(mirror, export_metrics(folder / EXPORTS), folder / EXPORTS)
    return changes


def log_exports(study: "optuna.Study", uri: str, folder: Path) -> None:
    """Copies the exports in a study's results folder, and what was found of them, to the `final` run in MLflow."""
    tracking.check_uri(uri)
    tracking.mirror_exports(open_mirror_of(study, uri), export_metrics(folder / EXPORTS), folder / EXPORTS)


def open_mirror_of(study: "optuna.Study", uri: str) -> tracking.Mirror:
    """The study's place in an MLflow store; everything it takes is in the study."""
    about = storage.recall(study, "about")
    if about is None:
        raise UserError(f"study {study.study_name!r} was not begun by wastetune; nothing is known of its data")
    return tracking.open_mirror(
        uri,
        study=study.study_name,
        study_id=storage.recall(study, "id"),
        data=tracking.DataSource(**about["data"]),
        tags=about["tags"],
        note=about["question"],
    )


def _join(prepared: Prepared, url: str, terminal: Terminal) -> "optuna.Study":
    """The study in its database, with what was lost there told to be."""
    spec = prepared.setting.spec
    opened = database.open_storage(url, patient=goes_on())  # a successor must not end because the database is away
    study = storage.open_study(opened, spec.name, prepared.fingerprint)
    if storage.recall(study, "about") is None:
        dataset = prepared.index.folder.resolve().name
        tags = {"backbone": spec.backbone, "dataset": dataset, **package_versions()}
        about = {"question": spec.question, "metric": spec.metric, "data": asdict(_data_source(prepared)), "tags": tags}
        storage.remember(study, "about", about)
        note_study(study)
    for number in storage.fail_lost(study):
        terminal.say(f"trial {number} was in the hands of a process that is gone: failed")
    return study


def _worker_arguments(spec: StudySpec, places: Places, timeout: float | None, renew_after: int | None) -> list[str]:
    options = {
        "--study": spec.source,
        "--seed": spec.seed,
        "--data": places.data,
        "--weights": places.weights or spec.weights,
        "--timeout": timeout,
        "--renew-after": renew_after,
    }
    return [str(word) for pair in options.items() if pair[1] is not None for word in pair]


def _finish(
    study: "optuna.Study", prepared: Prepared, folder: Path, terminal: Terminal, preparing: float
) -> dict[str, Any]:
    """The report, written to its folder; the winner is retrained unless that was done."""
    best, default = storage.best_trial(study), storage.default_trial(study)
    assert best is not None
    assert default is not None
    fingerprint = hashlib.sha256(json.dumps(prepared.fingerprint).encode()).hexdigest()[:16]
    before = read_report(folder) if (folder / "bundle" / MODEL_FILE).exists() else None
    answered = (fingerprint, best.number, best.user_attrs["config"])
    if before and (before["fingerprint"], before["best"]["number"], before["best"]["config"]) == answered:
        # The last two came later than the others: a report may be without them.
        kept = ("test", "default_test", "retrain", "test_opened_for", "versions", "gain", "model")
        measured = {key: before[key] for key in kept if key in before}
        retrain_seconds = before["seconds"]["retrain"]
    else:
        terminal.say("retraining the default configuration and the winner on train + validation")
        opened = list(dict.fromkeys([*storage.recall(study, "test_opened_for", ()), best.number]))
        storage.remember(study, "test_opened_for", opened)
        setting, test = prepared.setting, prepared.test

        def train_again(trial: "FrozenTrial", keep: Callable[[Any], None]) -> Final:
            number, attrs = trial.number, trial.user_attrs
            try:
                return retrain(setting, test, number=number, attrs=attrs, bar=terminal.bar, keep=keep)
            except TrainingFailed as error:
                raise UserError(f"retraining trial {number} came to nothing: {error}; the trials are kept") from error

        beside = None if best.number == default.number else train_again(default, lambda model: None)
        winner = train_again(best, lambda model: save_model(folder / "bundle", model))
        remove(folder / EXPORTS)  # they are of another winner
        beside = beside or winner
        paths = tuple(prepared.index.pictures[row].path for row in prepared.splits.test)
        said, by_default = winner.probabilities, beside.probabilities
        write_predictions(Predictions(setting.classes, paths, test.labels, said, by_default.argmax(axis=1)), folder)
        measured = {
            "test": scores_dict(winner.scores),
            "default_test": scores_dict(beside.scores),
            "retrain": {"epochs": winner.epochs, "largest_difference": winner.largest_difference},
            "test_opened_for": opened,
            "versions": package_versions(),
            "gain": gain_intervals(test.labels, said, by_default),
            "model": {
                "parameters": winner.parameters,
                "trained": best.user_attrs.get("trainable_parameters"),
                "bytes": (folder / "bundle" / MODEL_FILE).stat().st_size,
            },
        }
        retrain_seconds = winner.seconds + (0.0 if beside is winner else beside.seconds)
    report = {
        **describe_study(study, prepared, best),
        **measured,
        "seconds": count_seconds(study, preparing, retrain_seconds),
        "fingerprint": fingerprint,
    }
    if before and {**before, "seconds": None} == json.loads(json.dumps({**report, "seconds": None})):
        if not (folder / PAGE).exists():
            _write_page(before, study, prepared, folder)
        return before  # nothing is new, so not even the time it took to find that out
    write_report(report, folder)
    _write_page(report, study, prepared, folder)
    save_description(
        folder / "bundle",
        {key: report[key] for key in ("study", "backbone", "dataset", "classes", "fingerprint", "versions", "test")}
        | {"input_size": prepared.setting.backbone.size, "config": report["best"]["config"]},
    )
    return report


def _write_page(report: dict[str, Any], study: "optuna.Study", prepared: Prepared, folder: Path) -> None:
    predictions = read_predictions(folder, report["classes"], report["test"]["confusion_matrix"])
    mistakes = None if predictions is None else confident_mistakes(predictions, MISTAKES)
    write_page(report, read_history(study), mistakes, prepared.index.folder, folder)


def _data_source(prepared: Prepared) -> tracking.DataSource:
    splits, index = prepared.splits, prepared.index
    return tracking.DataSource(
        name=index.folder.resolve().name,
        folder=str(index.folder.resolve()),
        digest=prepared.fingerprint["data and split"],
        classes=index.classes,
        counts={"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
    )
