"""The pictures in the dashboard's notes as Optuna artifacts: files in a folder, or drawn on request.

A picture is drawn from its trial's attributes, so workers on several machines need no common folder: `wastetune ui`
draws again what has no file. Optuna's own dashboard shows only the files in its --artifact-dir.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wastetune.evaluation.metrics import METRICS
from wastetune.files import write_whole
from wastetune.settings import ARTIFACTS
from wastetune.storage.database import engine_of
from wastetune.storage.records import TrialAttrs, read_attrs
from wastetune.storage.study import read_study_info
from wastetune.storage.trials import RunningTrial
from wastetune.tracking.trial_svg import draw_confusion, draw_learning_curve

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

REPORT = "report.html"
_PREFIX = "artifacts:"  # of the keys of Optuna's attributes of artifacts


def artifact_folder(storage: "BaseStorage") -> Path | None:
    """The folder of the pictures: WASTETUNE_ARTIFACTS, or beside a SQLite file; None for other databases."""
    if named := ARTIFACTS.resolve():
        return Path(named).expanduser()
    engine = engine_of(storage)
    file = engine.url.database if engine is not None and engine.url.get_backend_name() == "sqlite" else None
    return Path(f"{file}.artifacts") if file and file != ":memory:" else None


def draw_pictures(attrs: TrialAttrs, metric: str, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The pictures of a trial from its attributes: (file name, SVG)."""
    assert attrs.best_epoch is not None
    assert attrs.confusion_matrix is not None
    yield "learning_curve.svg", draw_learning_curve(attrs.history, attrs.best_epoch, METRICS[metric][0])
    yield "confusion_matrix.svg", draw_confusion(attrs.confusion_matrix, classes)


class Pictures:
    """An Optuna artifact store in a folder. Without a folder, or where it cannot be written to, nothing is stored."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.error: OSError | None = None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Stores a file whole or not at all; where that fails, the attribute `error` has the reason."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / artifact_id, lambda part: part.write_bytes(content_body.read()))
        except OSError as error:
            self.error = error

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
    """The same store, which draws missing pictures and reads the report from the results folder."""

    def __init__(self, study: "optuna.Study", folder: Path | None, results: Path) -> None:
        super().__init__(folder)
        self._study, self._report = study, results / study.study_name / REPORT

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """A file, or a picture drawn instead. Optuna's ArtifactNotFound for an unknown artifact."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        if self._report.is_file() and artifact_id == find_report(self._study):
            return self._report.open("rb")
        try:
            return super().open_reader(artifact_id)
        except ArtifactNotFound:
            return io.BytesIO(self._draw(artifact_id).encode())

    def _draw(self, artifact_id: str) -> str:
        from optuna.artifacts.exceptions import ArtifactNotFound

        info = read_study_info(self._study)
        for trial in self._study.get_trials(deepcopy=False):
            meta = trial._system_attrs.get(f"{_PREFIX}{artifact_id}")
            attrs = read_attrs(trial)
            if meta and attrs.confusion_matrix and info:
                drawn = draw_pictures(attrs, info.metric, info.data.classes)
                return next(picture for name, picture in drawn if f'"{name}"' in meta)
        raise ArtifactNotFound(artifact_id)


def upload(store: Pictures, file: Path, owner: "RunningTrial | optuna.Study") -> str:
    """Makes a file an artifact of a running trial or of a study; its address in the dashboard."""
    from optuna.artifacts import upload_artifact
    from optuna.trial import FrozenTrial, TrialState

    if not isinstance(owner, RunningTrial):
        identity = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=owner)
        return f"/artifacts/{owner._study_id}/{identity}"
    trial = FrozenTrial(
        number=owner.number,
        trial_id=owner.id,  # nothing else is read
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
