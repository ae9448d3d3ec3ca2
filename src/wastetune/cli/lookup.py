"""A study, a bundle or an exported file by the name given on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from wastetune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import optuna

    from wastetune.models.bundle import BundleDescription


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


def model_path(study: str | None, bundle: Path | None, results: Path) -> Path:
    """The path of a model: the given bundle, or the bundle in the results of a study."""
    if (study is None) == (bundle is None):
        raise UserError("name either a study with --study or a model with --bundle")
    if bundle is not None:
        return bundle
    from wastetune.tuning.spec import study_name, study_names

    name = study_name(str(study))
    if not (path := results / name / "bundle").is_dir():
        names = study_names()
        meant = "" if name in names else did_you_mean(name, names)
        raise UserError(
            f"study {name!r} has no model in {results / name}; run it first, or name the folder with --results"
            + (f"; {meant}" if meant else "")
        )
    return path


def pictures_of(study: str, url: str, data: Path) -> Path:
    """The folder of a study's pictures: as its file names it, or, without the file, as its database does."""
    from wastetune.datasets.catalog import find_dataset
    from wastetune.storage.study import read_study_info
    from wastetune.tuning.spec import load_study

    try:
        return find_dataset(load_study(study).dataset, data)
    except UserError as mistake:
        try:
            info = read_study_info(lookup_study(study, url))
        except UserError:
            raise mistake from None
        if info is None or not (folder := Path(info.data.folder)).is_dir():
            raise
        return folder


def lookup_study(study: str, url: str) -> "optuna.Study":
    """A study in its database, by its name or by the path of its file."""
    from wastetune.storage.database import open_storage
    from wastetune.storage.study import find_study
    from wastetune.tuning.spec import study_name

    return find_study(open_storage(url), study_name(study))
