"""Keeps the MLflow mirror up to date while a study runs.

A thread imports MLflow, opens the store and copies trials that have ended. Items that cannot be copied stay queued and
are tried again until the study is over. It is a thread and not a process because copying a trial costs some 35 ms in
either, and a process would import MLflow on the same cores.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from wastetune.console import Console
from wastetune.errors import UserError
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.models.parity import export_metrics
from wastetune.report.results import Report, read_report
from wastetune.storage.study import get_study_attr, read_study_info, read_trials
from wastetune.tracking.mlflow_runs import Changes, mirror_exports, mirror_final, mirror_trials, sync_trials
from wastetune.tracking.mlflow_store import Mirror, open_mirror
from wastetune.tracking.mlflow_uri import check_uri, render_reason
from wastetune.tracking.model_registry import register_model

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# Seconds between two rounds of copying: most of the short trials then run without it.
_INTERVAL = 5.0
# Seconds at the end of a study after which the console says what it waits for.
_NOTICE_AFTER = 1.5
# Seconds that Ctrl-C leaves to the copy in progress. The next run makes an unfinished copy again.
_GRACE = 3.0


@dataclass(frozen=True)
class FinalReport:
    """The report of a study, and its results folder."""

    report: Report
    folder: Path


@dataclass(frozen=True)
class AllTrials:
    """All trials of a study: afterwards the mirror has these and no others."""

    trials: "tuple[FrozenTrial, ...]"


Item: TypeAlias = "FrozenTrial | FinalReport | AllTrials"
Submit = Callable[[Item], None]


@contextmanager
def mirrored(open_store: Callable[[], Mirror], console: Console, uri: str) -> Iterator[Submit]:
    """A function that queues items, which are copied in the background; the end of the block waits for the rest.

    The console says once that a store is unavailable, with its `uri` but no password, and at the end that items are
    missing. A KeyboardInterrupt does not wait: the next run copies the rest.
    """
    queue = _Queue()
    thread = threading.Thread(
        target=_copy_in_rounds, args=(queue, open_store, console, uri), name="mlflow", daemon=True
    )
    thread.start()
    try:
        yield queue.submitted.put
    except KeyboardInterrupt:
        queue.cancelled.set()
        queue.closing.set()
        thread.join(_GRACE)
        raise
    except BaseException:
        _wait(queue, thread, console)
        raise
    _wait(queue, thread, console)


@dataclass
class _Queue:
    """The state that the study and the thread share."""

    submitted: SimpleQueue[Item] = field(default_factory=SimpleQueue)
    closing: threading.Event = field(default_factory=threading.Event)  # one more round
    cancelled: threading.Event = field(default_factory=threading.Event)  # not even that
    pending: list[Item] = field(default_factory=list)  # not copied yet; of the thread alone until it ends


def _wait(queue: _Queue, thread: threading.Thread, console: Console) -> None:
    queue.closing.set()
    thread.join(_NOTICE_AFTER)
    if thread.is_alive():
        console.print("copying to MLflow; Ctrl-C leaves the rest to the next run")
        thread.join()
    if queue.pending:
        console.print("MLflow lacks a part of this study; run the same command again to copy it")


def _copy_in_rounds(queue: _Queue, open_store: Callable[[], Mirror], console: Console, uri: str) -> None:
    """Copies every few seconds until the study is over, and once more then."""
    mirror, warned = None, False
    last = False
    while not last:
        last = queue.closing.is_set()
        queue.pending += _take_all(queue.submitted)
        try:
            if mirror is None:
                mirror = open_store()
                if mirror.notice:
                    console.print(mirror.notice)
            _copy(mirror, queue.pending, queue.cancelled.is_set, console.print)
            queue.pending.clear()
        except Exception as error:  # whatever a database, a server or a network may raise
            if not warned:
                console.print(f"MLflow does not answer ({render_reason(error, uri)}); the study goes on without it")
            warned = True
            last = last or queue.closing.is_set()  # the attempt took until the end
            queue.pending += _take_all(queue.submitted)
        if not last:
            queue.closing.wait(_INTERVAL)


def _copy(mirror: Mirror, items: list[Item], stop: Callable[[], bool], echo: Callable[[str], None]) -> None:
    mirror_trials(mirror, (item for item in items if not isinstance(item, FinalReport | AllTrials)), stop)
    for item in items:
        if isinstance(item, FinalReport) and not stop():
            mirror_final(mirror, item.report, item.folder)
            if registered := register_model(mirror, item.report, item.folder):
                echo(registered)
        elif isinstance(item, AllTrials) and not stop():
            sync_trials(mirror, item.trials)


def _take_all(submitted: SimpleQueue[Item]) -> Iterator[Item]:
    while True:
        try:
            yield submitted.get_nowait()
        except Empty:
            return


def sync_study(study: "optuna.Study", uri: str, results: Path) -> Changes:
    """Copies to MLflow what it lacks of the study, with the report and exports of its results folder."""
    mirror = open_mirror_of(study, uri)
    changes = replace(sync_trials(mirror, read_trials(study)), notice=mirror.notice)
    folder = results / study.study_name
    if report := read_report(folder):
        mirror_final(mirror, report, folder)
        changes = replace(changes, model=register_model(mirror, report, folder))
        mirror_exports(mirror, export_metrics(folder / EXPORTS), folder / EXPORTS)
    return changes


def log_exports(study: "optuna.Study", uri: str, folder: Path) -> None:
    """Copies the exports in a study's results folder, and their metrics, to the `final` run in MLflow."""
    check_uri(uri)
    mirror_exports(open_mirror_of(study, uri), export_metrics(folder / EXPORTS), folder / EXPORTS)


def open_mirror_of(study: "optuna.Study", uri: str) -> Mirror:
    """The experiment and parent run of a study in an MLflow store, from what the study has stored of itself."""
    info = read_study_info(study)
    if info is None:
        raise UserError(f"study {study.study_name!r} was not begun by wastetune; nothing is known of its data")
    return open_mirror(
        uri,
        study=study.study_name,
        study_id=get_study_attr(study, "id"),
        data=info.data,
        tags=info.tags,
        note=info.question,
    )
