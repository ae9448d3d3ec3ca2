"""Writes what the Optuna dashboard shows of a study and its trials: notes, and the pictures in them.

A trial that was told is immutable, so its note is written before. A note never costs a trial: what cannot be written
is said once and left out.
"""

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.signals import deferred_signals
from wastetune.storage.study import get_study_attr
from wastetune.storage.trials import RunningTrial
from wastetune.tracking.artifacts import REPORT, Pictures, artifact_folder, draw_pictures, find_report, upload
from wastetune.tracking.dashboard_notes import metric_name, render_study_note, render_trial_note

if TYPE_CHECKING:
    import optuna

_CHUNK = 2045  # characters of a note in one attribute
_OURS = "wastetune:note_ver"  # the version of the study's note that was written here

_log = logging.getLogger("wastetune")


class Notes:
    """Writes the notes of one study's trials, for one worker."""

    def __init__(self, study: "optuna.Study", metric: str, classes: Sequence[str]) -> None:
        self._study, self._metric, self._classes = study, metric, tuple(classes)
        self._store = Pictures(artifact_folder(study._storage))
        self._said = False

    def write(self, trial: RunningTrial, config: Mapping[str, Any], attrs: Mapping[str, Any], *, pruned: bool) -> None:
        """Pictures and note of a trial that is about to be told, from its record. Nothing that goes wrong is raised."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            with deferred_signals(), tempfile.TemporaryDirectory() as folder:
                pictures = []
                for name, picture in draw_pictures(attrs, self._metric, self._classes):
                    file = Path(folder) / name
                    file.write_text(picture, encoding="utf-8")
                    pictures.append((file.stem.replace("_", " "), upload(self._store, file, trial)))
                note = render_trial_note(config, attrs, self._metric, self._classes, pictures, pruned=pruned)
                _save(self._study, f"dashboard:{trial.id}:", note, version=1)
        except UpdateFinishedTrialError:  # this process was taken for dead; nobody hears what it tells
            return
        except Exception as error:  # a full disk, a database that is away
            self._say(error)
        if self._store.broken is not None:
            self._say(self._store.broken)

    def _say(self, error: Exception) -> None:
        if not self._said:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            _log.warning("what the dashboard shows of trials cannot be written (%s); they go on without it", reason)
        self._said = True


def note_study(study: "optuna.Study", report: Mapping[str, Any] | None = None, folder: Path | None = None) -> None:
    """Writes the study's note; with a report, and the folder of its files, the answer and a link to it.

    A note that somebody has changed in the dashboard stays as it is. Nothing that goes wrong is raised.
    """
    try:
        about = get_study_attr(study, "about")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method is new to Optuna
            study.set_metric_names([metric_name(about["metric"])])  # the dashboard says "Objective 0" else
        pages = f"/dashboard/studies/{study._study_id}/trials?numbers="
        note = render_study_note(
            about,
            report,
            trial=f"{pages}{report['best']['number']}" if report else "",
            files=str(folder.resolve()) if folder else "",
            link=_keep_report(study, folder / REPORT) if folder and (folder / REPORT).is_file() else "",
        )
        attrs = study._storage.get_study_system_attrs(study._study_id)
        version = attrs.get("dashboard:note_ver", 0)
        if version == attrs.get(_OURS, 0):
            old = sum(key.startswith("dashboard:note_str:") for key in attrs)
            _save(study, "dashboard:", note, version=version + 1, old=old)
            study._storage.set_study_system_attr(study._study_id, _OURS, version + 1)
    except Exception as error:  # the study is whole without it
        _log.warning("the dashboard's note of the study cannot be written (%s)", type(error).__name__)


def _keep_report(study: "optuna.Study", file: Path) -> str:
    """The report as an artifact of the study, the same one however often it changes; its address."""
    store = Pictures(artifact_folder(study._storage))
    identity = find_report(study)
    if identity is None:
        return upload(store, file, study)
    with file.open("rb") as report:
        store.write(identity, report)
    return f"/artifacts/{study._study_id}/{identity}"


def _save(study: "optuna.Study", prefix: str, note: str, *, version: int, old: int = 0) -> None:
    """As optuna_dashboard.save_note does, which takes two seconds to import and reads all notes at every call."""
    parts = [note[start : start + _CHUNK] for start in range(0, len(note), _CHUNK)]
    parts += [""] * (old - len(parts))
    for number, part in enumerate(parts):
        study._storage.set_study_system_attr(study._study_id, f"{prefix}note_str:{number}", part)
    study._storage.set_study_system_attr(study._study_id, f"{prefix}note_ver", version)
