"""A study, a bundle or an exported file by what it is called on the command line.

A study is called by its name, by the path of its .toml file, or by its results folder. Its model and report are in its
results folder, its trials in the database; its pictures and its file are told by whichever of study file, database and
results knows them.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from wastetune.errors import UserError, did_you_mean, first_line

if TYPE_CHECKING:
    import optuna

    from wastetune.models.bundle import BundleDescription
    from wastetune.storage.study import StudyInfo


def onnx_file(study: str | None, bundle: Path | None, results: Path) -> Path:
    """The .onnx file of a study or a bundle. UserError where it does not exist."""
    path = model_path(study, bundle, results)
    if bundle is not None:
        file = bundle / "model.onnx" if bundle.is_dir() else bundle
        if bundle.exists() and not file.is_file():
            raise UserError(f"{bundle} holds no model.onnx; make it with `wastetune export --format onnx`")
        if file.suffix != ".onnx":
            raise UserError(f"{bundle} is no .onnx file; make one with `wastetune export --format onnx`")
        return file
    file = path.parent / "export" / "model.onnx"
    if not file.is_file():
        raise UserError(f"study {study!r} has no ONNX export yet; make it: {_export_command(study)}")
    return file


def check_export(file: Path, about: "BundleDescription", bundle: Path, study: str) -> None:
    """Raises UserError where the file was exported from an earlier winner than the study's bundle."""
    from wastetune.models.bundle import load_description

    if about != load_description(bundle):
        raise UserError(f"{file} is not of the study's present winner; make it anew: {_export_command(study)}")


def _export_command(study: str | None) -> str:
    return f"wastetune export --study {study} --format onnx"


def study_name(study: str) -> str:
    """The name of the study in its database and its results folder."""
    path = Path(study)
    is_path = study.endswith(".toml") or os.sep in study
    return (path.stem if study.endswith(".toml") else path.resolve().name) if is_path else study


def results_of(study: str, results: Path) -> Path:
    """The study's results folder; it need not exist. `results` is the folder of all studies' results."""
    from wastetune.report.results import FILE

    path, usual = Path(study), results / study_name(study)
    is_folder = any((path / name).exists() for name in (FILE, "bundle")) and not usual.is_dir()
    return path if is_folder or (os.sep in study and path.is_dir()) else usual


def model_path(study: str | None, bundle: Path | None, results: Path) -> Path:
    """The path of a model: the given bundle, or the bundle in the results of a study."""
    if (study is None) == (bundle is None):
        raise UserError("name either a study with --study or a model with --bundle")
    if bundle is not None:
        return bundle
    folder = results_of(str(study), results)
    if not (path := folder / "bundle").is_dir():
        meant = _suggest(str(study), results)
        raise UserError(
            f"study {study_name(str(study))!r} has no model in {folder}; run it first, or name the folder with "
            f"--results{meant}"
        )
    return path


def lookup_study(study: str, url: str) -> "optuna.Study":
    """A study in its database."""
    from sqlalchemy.exc import SQLAlchemyError

    from wastetune.storage.database import open_storage
    from wastetune.storage.study import find_study
    from wastetune.tracking.mlflow_uri import sqlite_file

    with contextlib.suppress(SQLAlchemyError):  # open_storage tells what is wrong
        file = sqlite_file(url)
        if file is not None and not file.exists():  # a question must not make one
            raise UserError(f"there is no study database {file}; name another --storage, or run the study first")
    return find_study(open_storage(url), study_name(study))


def study_file(study: str, url: str, results: Path) -> str:
    """A name or path that `load_study` accepts: the study's, else of the file that its database or report names."""
    from wastetune.search.toml_file import find_file

    try:
        find_file("studies", study)
        return study
    except UserError as mistake:
        told = next((path for path in _told_files(study, url, results) if path.is_file()), None)
        if told is None:
            raise UserError(
                f"the file of study {study_name(study)!r} is not found: {first_line(mistake)}. Neither the database "
                f"nor the report in {results_of(study, results)} names a file that is there"
            ) from None
        return str(told)


def pictures_of(study: str, url: str, data: Path, results: Path) -> Path:
    """The folder of a study's pictures: as its file names it, else as its database does, else as its bundle does."""
    from wastetune.datasets.catalog import find_dataset
    from wastetune.models.bundle import load_description
    from wastetune.tuning.spec import load_study

    try:
        return find_dataset(load_study(study_file(study, url, results)).dataset, data)
    except UserError as error:
        mistake = error
    info = _info(study, url)
    if info is not None and (folder := Path(info.data.folder)).is_dir():
        return folder
    with contextlib.suppress(UserError):
        return find_dataset(str(load_description(results_of(study, results) / "bundle").dataset), data)
    raise UserError(f"the pictures of study {study_name(study)!r} are not found: {first_line(mistake)}") from None


def find_pictures(named: str, url: str, data: Path, results: Path) -> Path:
    """The folder of a data set that is known, named in `data` or given as a path; or of the pictures of a study."""
    from wastetune.datasets.catalog import find_dataset

    if named.endswith(".toml"):
        return pictures_of(named, url, data, results)
    try:
        return find_dataset(named, data)
    except UserError as mistake:
        try:
            return pictures_of(named, url, data, results)
        except UserError:
            raise mistake from None


def _info(study: str, url: str) -> "StudyInfo | None":
    """What the database knows of a study; None where it does not know it or does not answer."""
    from wastetune.storage.study import read_study_info

    try:
        return read_study_info(lookup_study(study, url))
    except UserError:
        return None


def _told_files(study: str, url: str, results: Path) -> Iterator[Path]:
    """The study's file as the database tells it, and as its report's command does."""
    from wastetune.report.results import read_report

    if (info := _info(study, url)) and info.source:
        yield Path(info.source)
    if report := read_report(results_of(study, results)):
        words = shlex.split(report.command)
        yield from (Path(word) for flag, word in pairwise(words) if flag == "--study")


def _suggest(study: str, results: Path) -> str:
    """`; did you mean ...?` with studies that have results or a file; empty where the study itself has a file."""
    from wastetune.tuning.spec import study_names

    there = [path.name for path in results.iterdir() if (path / "bundle").is_dir()] if results.is_dir() else []
    name, names = study_name(study), {*study_names(), *there}
    meant = "" if name in names else did_you_mean(name, sorted(names))
    return f"; {meant}" if meant else ""
