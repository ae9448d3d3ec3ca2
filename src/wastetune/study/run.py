"""The whole job, from a study's file to its report."""

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from wastetune.console import Console
from wastetune.data.splits import write_split_table
from wastetune.report.results import Report
from wastetune.report.results_folder import write_results
from wastetune.search.history import read_history
from wastetune.settings import Locations
from wastetune.signals import raise_on_signals
from wastetune.storage.database import open_storage
from wastetune.storage.study import (
    DataSource,
    StudyInfo,
    best_trial,
    default_trial,
    finished_trials,
    get_study_attr,
    open_study,
    read_study_info,
    read_trials,
    set_study_attr,
    write_study_info,
)
from wastetune.storage.trials import fail_lost_trials
from wastetune.study.prepare import Prepared, prepare_study
from wastetune.study.processes import is_replacement, parent_process, run_workers, worker_arguments
from wastetune.study.progress import render_preparation, render_trial
from wastetune.study.refit import package_versions, refit_winner
from wastetune.study.spec import StudySpec
from wastetune.study.summary import summarize
from wastetune.study.worker import run_worker
from wastetune.tracking.dashboard import note_study
from wastetune.tracking.mlflow_mirror import AllTrials, FinalReport, mirrored, open_mirror_of
from wastetune.tracking.mlflow_uri import check_uri

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def run_study(
    spec: StudySpec,
    locations: Locations,
    console: Console,
    *,
    timeout: float | None = None,
    final: bool = True,
    workers: int | None = None,
    renew_after: int | None = None,
) -> Report | None:
    """Runs a study up to its number of trials, retrains the winner and gives the report.

    With `workers`, so many processes of this machine run the trials, and with 0 of them, others do; else this process
    does. Whatever was finished before is not done again. None where nothing was retrained: `final` is false, or no
    trial is complete yet. On Ctrl-C what was finished is kept and the KeyboardInterrupt goes on.
    """
    begun = time.perf_counter()
    check_uri(locations.tracking_uri)
    prepared = prepare_study(spec, data=locations.data, weights=locations.weights, console=console)
    for line in render_preparation(prepared):
        console.print(line)
    study = _join(prepared, locations.storage, console)
    set_study_attr(study, "trials", spec.trials)
    folder = locations.results / spec.name
    write_split_table(prepared.index, prepared.splits, folder / "split.csv")
    preparing = time.perf_counter() - begun

    with mirrored(partial(open_mirror_of, study, locations.tracking_uri), console, locations.tracking_uri) as post:
        posted: set[int] = set()

        def post_ended(*_: object) -> None:
            for trial in read_trials(study):
                if trial.state.is_finished() and trial.number not in posted:
                    posted.add(trial.number)
                    post(trial)

        def on_trial(trial: "FrozenTrial") -> None:
            console.print(render_trial(trial, study))
            post_ended()

        console.print(f"{len(finished_trials(study))} of {spec.trials} trials are finished")
        post_ended()
        with raise_on_signals() as check:
            if workers is None:
                run_worker(
                    study,
                    prepared.context,
                    trials=spec.trials,
                    timeout=timeout,
                    bar=console.bar,
                    on_trial=on_trial,
                    check=check,
                )
            elif len(finished_trials(study)) < spec.trials:
                run_workers(
                    worker_arguments(spec, locations, timeout, renew_after),
                    {"WASTETUNE_STORAGE": locations.storage},
                    workers,
                    study=study,
                    trials=spec.trials,
                    timeout=timeout,
                    echo=console.print,
                    tick=post_ended,
                )
        report = None
        if not final:
            pass
        elif best_trial(study) is None or default_trial(study) is None:
            console.print("no trial with a score yet, so there is nothing to retrain")
        else:
            refitted = refit_winner(study, prepared, folder, console)
            report = summarize(study, prepared, refitted, preparing)
            write_results(report, refitted.predictions, read_history(study), prepared.index.folder, folder)
            note_study(study, report, folder)
            post(FinalReport(report, folder))
        post(AllTrials(tuple(read_trials(study))))
    return report


def run_one_worker(
    spec: StudySpec,
    locations: Locations,
    console: Console,
    *,
    timeout: float | None,
    renew_after: int,
    check: Callable[[], None],
) -> bool:
    """Works on a study beside others until it has its trials; true where the process is to be renewed."""
    prepared = prepare_study(spec, data=locations.data, weights=locations.weights, console=console)
    parent = parent_process()
    study = _join(prepared, locations.storage, console)
    trials = get_study_attr(study, "trials", spec.trials)
    if parent is None:
        for line in render_preparation(prepared):
            console.print(line)
        console.print(f"{len(finished_trials(study))} of {trials} trials are finished")
    return run_worker(
        study,
        prepared.context,
        trials=trials,
        timeout=timeout,
        bar=console.bar,
        on_trial=lambda trial: console.print(render_trial(trial, study)),
        check=check,
        renew_after=renew_after,
        parent=parent,
        name=f"{socket.gethostname()} {os.getpid()}",
    )


def _join(prepared: Prepared, url: str, console: Console) -> "optuna.Study":
    """The study in its database, with what was lost there told to be."""
    spec = prepared.context.spec
    opened = open_storage(url, patient=is_replacement())  # a successor must not end because the database is away
    study = open_study(opened, spec.name, prepared.fingerprint)
    if read_study_info(study) is None:
        data = _data_source(prepared)
        tags = {"backbone": spec.backbone, "dataset": data.name, **package_versions()}
        write_study_info(study, StudyInfo(question=spec.question, metric=spec.metric, data=data, tags=tags))
        note_study(study)
    for number in fail_lost_trials(study):
        console.print(f"trial {number} was in the hands of a process that is gone: failed")
    return study


def _data_source(prepared: Prepared) -> DataSource:
    splits, index = prepared.splits, prepared.index
    return DataSource(
        name=index.folder.resolve().name,
        folder=str(index.folder.resolve()),
        digest=prepared.fingerprint["data and split"],
        classes=index.classes,
        counts={"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
    )
