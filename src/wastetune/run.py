"""The whole job, from a study's file to its report."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune import storage, tracking
from wastetune.bundle import MODEL_FILE, save_description, save_model
from wastetune.data.splits import write_split_table
from wastetune.errors import UserError
from wastetune.interrupts import heeded_interrupts
from wastetune.metrics import scores_dict
from wastetune.mirroring import FinalReport, mirrored
from wastetune.prepare import Prepared, prepare_study
from wastetune.progress import render_found, render_trial
from wastetune.record import count_seconds, describe_study, package_versions
from wastetune.report import read_report, write_report
from wastetune.retrain import Final, retrain
from wastetune.spec import StudySpec
from wastetune.terminal import Terminal
from wastetune.training import TrainingFailed
from wastetune.worker import run_worker

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves things."""

    storage: str
    tracking_uri: str
    results: Path
    data: Path | None  # a folder of data sets
    weights: Path | None  # a folder of weights files


def run_study(
    spec: StudySpec, places: Places, terminal: Terminal, *, timeout: float | None = None, final: bool = True
) -> dict[str, Any] | None:
    """Runs a study up to its number of trials, retrains the winner and gives the report.

    Whatever was finished before is not done again. None where nothing was retrained: `final` is false, or no
    trial is complete yet. On Ctrl-C what was finished is kept and the KeyboardInterrupt goes on.
    """
    begun = time.perf_counter()
    tracking.check_uri(places.tracking_uri)
    prepared = prepare_study(spec, data=places.data, weights=places.weights, terminal=terminal)
    setting = prepared.setting
    for line in render_found(prepared):
        terminal.say(line)
    database = storage.open_storage(places.storage)
    study = storage.open_study(database, spec.name, prepared.fingerprint)
    for number in storage.fail_lost(study):
        terminal.say(f"trial {number} was in the hands of a process that is gone: failed")
    folder = places.results / spec.name
    write_split_table(prepared.index, prepared.splits, folder / "split.csv")
    preparing = time.perf_counter() - begun

    open_mirror = partial(
        tracking.open_mirror,
        places.tracking_uri,
        study=spec.name,
        study_id=study.user_attrs["id"],
        data=_data_source(prepared),
        tags={"backbone": spec.backbone, "dataset": prepared.index.folder.resolve().name, **package_versions()},
    )
    with mirrored(open_mirror, terminal, partial(tracking.render_reason, uri=places.tracking_uri)) as post:

        def on_trial(trial: "FrozenTrial") -> None:
            terminal.say(render_trial(trial, study))
            post(trial)

        terminal.say(f"{len(storage.finished_trials(study))} of {spec.trials} trials are finished")
        for trial in storage.read_trials(study):
            post(trial)
        with heeded_interrupts() as check:
            run_worker(
                study,
                setting,
                trials=spec.trials,
                timeout=timeout,
                bar=terminal.bar,
                on_trial=on_trial,
                check=check,
            )
        if not final:
            return None
        if storage.best_trial(study) is None or storage.default_trial(study) is None:
            terminal.say("no trial with a score yet, so there is nothing to retrain")
            return None
        report = _finish(study, prepared, folder, terminal, preparing)
        post(FinalReport(report, folder))
    return report


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
        measured = {key: before[key] for key in ("test", "default_test", "retrain", "test_opened_for", "versions")}
        retrain_seconds = before["seconds"]["retrain"]
    else:
        terminal.say("retraining the default configuration and the winner on train + validation")
        opened = list(dict.fromkeys([*study.user_attrs.get("test_opened_for", ()), best.number]))
        study.set_user_attr("test_opened_for", opened)
        setting, test = prepared.setting, prepared.test

        def train_again(trial: "FrozenTrial", keep: Callable[[Any], None]) -> Final:
            number, attrs = trial.number, trial.user_attrs
            try:
                return retrain(setting, test, number=number, attrs=attrs, bar=terminal.bar, keep=keep)
            except TrainingFailed as error:
                raise UserError(f"retraining trial {number} came to nothing: {error}; the trials are kept") from error

        beside = None if best.number == default.number else train_again(default, lambda model: None)
        winner = train_again(best, lambda model: save_model(folder / "bundle", model))
        beside = beside or winner
        measured = {
            "test": scores_dict(winner.scores),
            "default_test": scores_dict(beside.scores),
            "retrain": {"epochs": winner.epochs, "largest_difference": winner.largest_difference},
            "test_opened_for": opened,
            "versions": package_versions(),
        }
        retrain_seconds = winner.seconds + (0.0 if beside is winner else beside.seconds)
    report = {
        **describe_study(study, prepared, best),
        **measured,
        "seconds": count_seconds(study, preparing, retrain_seconds),
        "fingerprint": fingerprint,
    }
    if before and {**before, "seconds": None} == json.loads(json.dumps({**report, "seconds": None})):
        return before  # nothing is new, so not even the time it took to find that out
    write_report(report, folder)
    save_description(
        folder / "bundle",
        {key: report[key] for key in ("study", "backbone", "dataset", "classes", "fingerprint", "versions", "test")}
        | {"input_size": prepared.setting.backbone.size, "config": report["best"]["config"]},
    )
    return report


def _data_source(prepared: Prepared) -> tracking.DataSource:
    splits, index = prepared.splits, prepared.index
    return tracking.DataSource(
        name=index.folder.resolve().name,
        folder=str(index.folder.resolve()),
        digest=prepared.fingerprint["data and split"],
        classes=index.classes,
        counts={"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
    )
