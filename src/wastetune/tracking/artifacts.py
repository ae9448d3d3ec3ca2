"""The pictures in the dashboard's notes, as Optuna's artifacts: files in a folder, or drawn when they are looked at.

A picture follows from its trial's record. So workers on many machines need no folder in common: where a file is not,
`wastetune ui` draws it again. Optuna's own dashboard shows only what lies in its --artifact-dir.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from wastetune.storage.database import engine_of
from wastetune.storage.study import get_study_attr
from wastetune.storage.trials import RunningTrial
from wastetune.tracking.dashboard_notes import metric_name
from wastetune.tracking.trial_svg import draw_confusion, draw_learning_curve

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

REPORT = "report.html"
_PREFIX = "artifacts:"  # how Optuna's attributes of artifacts begin


def artifact_folder(storage: "BaseStorage") -> Path | None:
    """Where the pictures lie: WASTETUNE_ARTIFACTS, or beside a SQLite file; None for other databases."""
    if named := os.environ.get("WASTETUNE_ARTIFACTS"):
        return Path(named).expanduser()
    engine = engine_of(storage)
    file = engine.url.database if engine is not None and engine.url.get_backend_name() == "sqlite" else None
    return Path(f"{file}.artifacts") if file and file != ":memory:" else None


def draw_pictures(attrs: Mapping[str, Any], metric: str, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The pictures of a trial's record: file name, SVG."""
    yield "learning_curve.svg", draw_learning_curve(attrs["history"], attrs["best_epoch"], metric_name(metric))
    yield "confusion_matrix.svg", draw_confusion(attrs["confusion_matrix"], classes)


class Pictures:
    """Optuna's artifact store in a folder. Without one, or where it cannot be written to, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.broken: OSError | None = None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keeps a file, whole or not at all; what was in the way stands in `broken`."""
        if self.folder is None:
            return
        part = self.folder / f"{artifact_id}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content_body.read())
            part.replace(self.folder / artifact_id)
        except OSError as error:
            self.broken = error

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """A file. Optuna's ArtifactNotFound where it is not there."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        try:
            if self.folder is None:
                raise FileNotFoundError
            return (self.folder / Path(artifact_id).name).open("rb")
        except OSError as error:
            raise ArtifactNotFound(artifact_id) from error

    def remove(self, artifact_id: str) -> None:
        """Deletes a file, if it is there."""
        if self.folder is not None:
            (self.folder / Path(artifact_id).name).unlink(missing_ok=True)


class DrawnPictures(Pictures):
    """The same, with what has no file drawn from its trial's record, and the report read where it lies."""

    def __init__(self, study: "optuna.Study", folder: Path | None, results: Path) -> None:
        super().__init__(folder)
        self._study, self._report = study, results / study.study_name / REPORT

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """A file, or what belongs there. Optuna's ArtifactNotFound where nothing is known of it."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        if self._report.is_file() and artifact_id == find_report(self._study):
            return self._report.open("rb")
        try:
            return super().open_reader(artifact_id)
        except ArtifactNotFound:
            return io.BytesIO(self._draw(artifact_id).encode())

    def _draw(self, artifact_id: str) -> str:
        from optuna.artifacts.exceptions import ArtifactNotFound

        about = get_study_attr(self._study, "about", {})
        for trial in self._study.get_trials(deepcopy=False):
            meta = trial._system_attrs.get(f"{_PREFIX}{artifact_id}")
            if meta and "confusion_matrix" in trial.user_attrs and "data" in about:
                drawn = draw_pictures(trial.user_attrs, about["metric"], about["data"]["classes"])
                return next(picture for name, picture in drawn if f'"{name}"' in meta)
        raise ArtifactNotFound(artifact_id)


def upload(store: Pictures, file: Path, owner: "RunningTrial | optuna.Study") -> str:
    """Makes a file an artifact of a running trial, or of a study; gives its address in the dashboard."""
    from optuna.artifacts import upload_artifact
    from optuna.trial import FrozenTrial, TrialState

    if not isinstance(owner, RunningTrial):
        identity = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=owner)
        return f"/artifacts/{owner._study_id}/{identity}"
    trial = FrozenTrial(
        number=owner.number,
        trial_id=owner.id,  # all that is read of it
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
    identity = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial, storage=owner.storage)
    return f"/artifacts/{owner.study._study_id}/{owner.id}/{identity}"


def find_report(study: "optuna.Study") -> str | None:
    """The id of the report among the study's artifacts."""
    from optuna.artifacts import get_all_artifact_meta

    return next((meta.artifact_id for meta in get_all_artifact_meta(study) if meta.filename == REPORT), None)
