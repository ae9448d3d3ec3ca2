"""The mirror kept up to date beside a study: a thread of its own copies what ended, so that MLflow costs no trial.

The study posts what it has; importing MLflow, opening the store and copying happen in the thread. What cannot be
copied stays posted and is tried again, until the study is over. Why a thread and not a process: copying a trial is
some 35 ms of work wherever it is done, and a process would import MLflow on the same cores.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from wastetune.console import Console
from wastetune.errors import UserError
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.models.parity import export_metrics
from wastetune.report.results import read_report
from wastetune.storage.study import get_study_attr, read_trials
from wastetune.tracking.mlflow_runs import Changes, mirror_exports, mirror_final, mirror_trials, sync_trials
from wastetune.tracking.mlflow_store import DataSource, Mirror, check_uri, open_mirror, render_reason
from wastetune.tracking.model_registry import register_model

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# Seconds between two rounds of copying: most of the short trials then run without it.
_BETWEEN = 5.0
# Seconds until a person is told what is being waited for.
_SILENCE = 1.5
# Seconds that Ctrl-C leaves to the one copy in hand. One that does not end is made anew by the next run.
_GRACE = 3.0


@dataclass(frozen=True)
class FinalReport:
    """The report of a study, and the folder of its files."""

    report: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class AllTrials:
    """All trials of a study: afterwards the mirror has these, and nothing else."""

    trials: "tuple[FrozenTrial, ...]"


Item: TypeAlias = "FrozenTrial | FinalReport | AllTrials"
Post = Callable[[Item], None]


@contextmanager
def mirrored(open_store: Callable[[], Mirror], console: Console, uri: str) -> Iterator[Post]:
    """Inside, whatever is given to the value gets copied beside what else happens; the end waits for the rest.

    A store that is away is said once, by its `uri` without a password, and what it lacks at the end. After a
    KeyboardInterrupt nobody waits: the next run copies the rest.
    """
    box = _Box()
    thread = threading.Thread(target=_keep_up, args=(box, open_store, console, uri), name="mlflow", daemon=True)
    thread.start()
    try:
        yield box.posted.put
    except KeyboardInterrupt:
        box.leaving.set()
        box.closing.set()
        thread.join(_GRACE)
        raise
    except BaseException:
        _wait(box, thread, console)
        raise
    _wait(box, thread, console)


@dataclass
class _Box:
    """What the study and the thread share."""

    posted: SimpleQueue[Item] = field(default_factory=SimpleQueue)
    closing: threading.Event = field(default_factory=threading.Event)  # one round more
    leaving: threading.Event = field(default_factory=threading.Event)  # not even that
    lacking: list[Item] = field(default_factory=list)  # the thread's; to be read after its end


def _wait(box: _Box, thread: threading.Thread, console: Console) -> None:
    box.closing.set()
    thread.join(_SILENCE)
    if thread.is_alive():
        console.print("copying to MLflow; Ctrl-C leaves the rest to the next run")
        thread.join()
    if box.lacking:
        console.print("MLflow lacks a part of this study; run the same command again to copy it")


def _keep_up(box: _Box, open_store: Callable[[], Mirror], console: Console, uri: str) -> None:
    """Round after round, until the study is over and a round more has been tried."""
    mirror, said = None, False
    last = False
    while not last:
        last = box.closing.is_set()
        box.lacking += _take_all(box.posted)
        try:
            mirror = mirror or open_store()
            _copy(mirror, box.lacking, box.leaving.is_set, console.print)
            box.lacking.clear()
        except Exception as error:  # whatever a database, a server or a network may raise
            if not said:
                console.print(f"MLflow does not answer ({render_reason(error, uri)}); the study goes on without it")
            said = True
            last = last or box.closing.is_set()  # it was tried long enough
            box.lacking += _take_all(box.posted)
        if not last:
            box.closing.wait(_BETWEEN)


def _copy(mirror: Mirror, items: list[Item], stop: Callable[[], bool], echo: Callable[[str], None]) -> None:
    mirror_trials(mirror, (item for item in items if not isinstance(item, FinalReport | AllTrials)), stop)
    for item in items:
        if isinstance(item, FinalReport) and not stop():
            mirror_final(mirror, item.report, item.folder)
            if registered := register_model(mirror, item.report, item.folder):
                echo(registered)
        elif isinstance(item, AllTrials) and not stop():
            sync_trials(mirror, item.trials)


def _take_all(posted: SimpleQueue[Item]) -> Iterator[Item]:
    while True:
        try:
            yield posted.get_nowait()
        except Empty:
            return


def sync_study(study: "optuna.Study", uri: str, results: Path) -> Changes:
    """Brings MLflow to what the study says, its report included where that is in the results folder."""
    mirror = open_mirror_of(study, uri)
    changes = sync_trials(mirror, read_trials(study))
    folder = results / study.study_name
    if report := read_report(folder):
        mirror_final(mirror, report, folder)
        changes = replace(changes, model=register_model(mirror, report, folder))
        mirror_exports(mirror, export_metrics(folder / EXPORTS), folder / EXPORTS)
    return changes


def log_exports(study: "optuna.Study", uri: str, folder: Path) -> None:
    """Copies the exports in a study's results folder, and what was found of them, to the `final` run in MLflow."""
    check_uri(uri)
    mirror_exports(open_mirror_of(study, uri), export_metrics(folder / EXPORTS), folder / EXPORTS)


def open_mirror_of(study: "optuna.Study", uri: str) -> Mirror:
    """The study's place in an MLflow store; everything it takes is in the study."""
    about = get_study_attr(study, "about")
    if about is None:
        raise UserError(f"study {study.study_name!r} was not begun by wastetune; nothing is known of its data")
    return open_mirror(
        uri,
        study=study.study_name,
        study_id=get_study_attr(study, "id"),
        data=DataSource(**about["data"]),
        tags=about["tags"],
        note=about["question"],
    )
