"""The whole job, from a study's specification to its report: prepare, search, refit, report."""

import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from wastetune.backbones.backbone import nearest_cut
from wastetune.backbones.cuts import Cut
from wastetune.console import Console
from wastetune.data.splits import write_split_table
from wastetune.errors import UserError
from wastetune.evaluation.objectives import render_costs
from wastetune.report.results import Report
from wastetune.report.results_folder import write_results
from wastetune.search.history import read_history
from wastetune.settings import STORAGE, Locations
from wastetune.signals import raise_on_signals
from wastetune.storage.budget import is_void
from wastetune.storage.study import (
    LIMITS,
    best_trial,
    default_trial,
    finished_trials,
    get_study_attr,
    read_goals,
    read_records,
    read_trials,
    records_of,
    set_study_attr,
)
from wastetune.study.final import refit_winner
from wastetune.study.summary import summarize
from wastetune.study.time_limit import affordable, is_later, open_pace, time_left
from wastetune.tracking.dashboard import note_study
from wastetune.tracking.mlflow_mirror import AllTrials, FinalReport, Submit, mirrored, open_mirror_of
from wastetune.tracking.mlflow_uri import check_uri
from wastetune.training.config import TrialConfig
from wastetune.tuning.pictures import seldom
from wastetune.tuning.prepare import Prepared, TrialContext, check_choices, join_study, prepare_study
from wastetune.tuning.spec import StudySpec
from wastetune.tuning.warm_start import check_warm_start, render_warm_starts, settle_warm_starts
from wastetune.tuning.workers.model_costs import render_meters, settle_costs
from wastetune.tuning.workers.processes import (
    END,
    end_of_run,
    is_replacement,
    parent_process,
    run_workers,
    worker_arguments,
)
from wastetune.tuning.workers.progress import render_preparation, render_trial, show_study, show_trial
from wastetune.tuning.workers.worker import NO_LIMIT, TimeLimit, not_shown, run_worker

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def run_study(
    spec: StudySpec,
    locations: Locations,
    console: Console,
    *,
    timeout: float | None = None,
    time_limit: float | None = None,
    final: bool = True,
    workers: int | None = None,
    renew_after: int | None = None,
) -> Report | None:
    """The report of a study, after running it up to its number of trials and refitting the winner.

    The trials run in this process, or, with `workers`, in so many processes of this machine; with 0 workers, it waits
    for workers elsewhere. Finished trials and an unchanged winner are not computed again. None where nothing was
    refitted: `final` is false, or no trial has a score yet. After Ctrl-C, finished trials are kept and the
    KeyboardInterrupt is raised again.
    After `timeout` seconds no trial begins. The search ends early enough for the report to be there after about
    `time_limit` seconds, counted from the call; a default always runs.
    """
    started = time.perf_counter()
    end = None if time_limit is None else time.monotonic() + time_limit
    if end is not None and workers == 0:
        raise UserError("--time-limit is for workers that this command starts, not for --workers 0; give --timeout")
    check_uri(locations.tracking_uri)
    search = check_choices(spec, trials=spec.trials)
    check_warm_start(spec, locations.storage)
    prepared = prepare_study(spec, data=locations.data, weights=locations.weights, console=console)
    console.print("\n".join([*render_preparation(prepared), *search]))
    folder = locations.results / spec.name
    study = join_study(prepared, locations.storage, console, split_table=folder / "split.csv")
    set_study_attr(study, "trials", spec.trials)
    if spec.objectives:
        set_study_attr(study, LIMITS, spec.limits)
    write_split_table(prepared.index, prepared.splits, folder / "split.csv")
    for line in render_warm_starts(spec, settle_warm_starts(study, prepared.context)):
        console.print(line)
    for line in render_meters(settle_costs(study, prepared.context)):
        console.print(line)
    preparing = time.perf_counter() - started

    report = None
    with mirrored(partial(open_mirror_of, study, locations.tracking_uri), console, locations.tracking_uri) as submit:
        _search(
            study,
            prepared,
            locations,
            console,
            submit,
            timeout=timeout,
            end=end,
            workers=workers,
            renew_after=renew_after,
        )
        if end is not None:
            console.print(f"{len(finished_trials(study))} trials are finished; {max(time_left(end), 0):.0f} s are left")
        if final and (best_trial(study) is None or default_trial(study) is None):
            console.print(_nothing_to_retrain(study))
        elif final:
            prepared.check_pictures()
            refitted = refit_winner(study, prepared, folder, console, end)
            report = summarize(study, prepared, refitted, preparing)
            write_results(report, refitted.predictions, read_history(study), prepared.index.folder, folder)
            note_study(study, report, folder)
            submit(FinalReport(report, folder))
        submit(AllTrials(tuple(read_trials(study))))
    return report


def _nothing_to_retrain(study: "optuna.Study") -> str:
    limits, records = read_goals(study).limits, read_records(study)
    if not limits or default_trial(study) is None:
        return "no trial with a score yet, so there is nothing to retrain"
    least = {key: min((each.costs[key] for each in records if key in each.costs), default=0.0) for key in limits}
    told = render_costs(least, limits)
    return f"no trial is within the limits, so there is nothing to retrain; the lowest so far: {told}"


def _search(
    study: "optuna.Study",
    prepared: Prepared,
    locations: Locations,
    console: Console,
    submit: Submit,
    *,
    timeout: float | None,
    end: float | None,
    workers: int | None,
    renew_after: int | None,
) -> None:
    """Runs trials, here or in worker processes, and submits each one that has ended to the MLflow mirror."""
    spec = prepared.context.spec
    metric, submitted = spec.metric, set[int]()
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    stops = min(deadline, math.inf if end is None else end)

    def submit_new(trials: Sequence["FrozenTrial"]) -> list["FrozenTrial"]:
        new = [trial for trial in trials if trial.state.is_finished() and trial.number not in submitted]
        for trial in new:
            submitted.add(trial.number)
            submit(trial)
        return new

    console.print(f"{len(finished_trials(study))} of {spec.trials} trials are finished")
    submit_new(read_trials(study))
    showing = show_study(console, metric, spec.trials, running=workers is not None, end=stops)
    with raise_on_signals() as check, showing as show:

        def on_change(_: object = None) -> None:
            trials = read_trials(study)
            show(trials)
            for trial in submit_new(trials):  # also those of other processes
                if not is_void(trial):
                    console.print(render_trial(trial, best_trial(study), metric, console.width))

        on_change()
        if workers is None:
            run_worker(
                study,
                prepared.context,
                trials=spec.trials,
                timeout=timeout,
                bar=console.bar,
                on_trial=on_change,
                show=partial(show_trial, console, metric),
                check=check,
                before_trial=seldom(prepared.check_pictures),
                limit=_limit_time(prepared.context, end),
            )
        elif len(finished_trials(study)) < spec.trials:
            run_workers(
                worker_arguments(spec, locations, timeout, renew_after),
                {STORAGE.variable: locations.storage, **({} if end is None else {END: str(end)})},
                workers,
                study=study,
                trials=spec.trials,
                timeout=timeout if end is None else 0.0,  # they end when they have no time for another trial
                echo=console.print,
                tick=on_change,
            )


def _limit_time(context: TrialContext, end: float | None) -> TimeLimit:
    """The limit that leaves time for the final model until a moment of `time.monotonic`; None: none."""
    if end is None:
        return NO_LIMIT
    pace = open_pace(context)

    def cut_of(config: TrialConfig) -> Cut:
        return nearest_cut(context.of(config.backbone).backbone, config.frozen_depth)

    return TimeLimit(
        lambda known, config: affordable(config, cut_of(config), records_of(known), time_left(end), pace),
        lambda known, config: is_later(cut_of(config), known),
    )


def run_one_worker(
    spec: StudySpec,
    locations: Locations,
    console: Console,
    *,
    timeout: float | None,
    renew_after: int,
    check: Callable[[], None],
) -> bool:
    """Runs trials of a study beside other workers until it has its trials; true where the process should restart."""
    search = check_choices(spec, trials=None)  # the study's own number counts, not its file's
    patient = is_replacement()  # which must not end because the database is unavailable
    check_warm_start(spec, locations.storage, patient=patient)
    prepared = prepare_study(spec, data=locations.data, weights=locations.weights, console=console)
    parent = parent_process()
    study = join_study(prepared, locations.storage, console, patient=patient)
    trials = get_study_attr(study, "trials", spec.trials)
    if parent is None:
        console.print("\n".join([*render_preparation(prepared), *search]))
        console.print(f"{len(finished_trials(study))} of {trials} trials are finished")

    def on_trial(trial: "FrozenTrial") -> None:
        if parent is None:  # `wastetune run` itself shows the trials of the workers that it started
            console.print(render_trial(trial, best_trial(study), spec.metric, console.width))

    return run_worker(
        study,
        prepared.context,
        trials=trials,
        timeout=timeout,
        bar=console.bar,
        on_trial=on_trial,
        show=partial(show_trial, console, spec.metric) if parent is None else not_shown,
        check=check,
        before_trial=seldom(prepared.check_pictures),
        limit=_limit_time(prepared.context, end_of_run()),
        renew_after=renew_after,
        parent=parent,
        name=f"{socket.gethostname()} {os.getpid()}",
    )
