"""Writes the model of a results folder as MLflow keeps it."""

import contextlib
import json
import shutil
import tempfile
import warnings
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from wastetune.backbones.own.keras_file import needs_hub
from wastetune.data.image import encode_jpeg, read_picture
from wastetune.data.splits import read_split_table
from wastetune.errors import UserError
from wastetune.models.bundle import ONNX_FILE, BundleDescription, load_description, model_file
from wastetune.report.results import Report

# The modules of wastetune that are copied into a model, and the package that they are there.
_CODE = ("errors.py", "data/image.py", "tracking/model_code/loader.py")
_PACKAGE = "wastetune_model"
_CLASSES = "classes.json"  # as the loader names it; it is not imported here, because it imports MLflow
_REQUIRED = ("keras", "tensorflow", "numpy", "pillow", "pandas")
_REQUIRED_BY_ONNX = ("onnxruntime", "numpy", "pillow", "pandas")


def save_mlflow_model(path: Path, folder: Path, report: Report, model_id: str, *, pictures: Path) -> None:
    """Writes the model in a results folder as an MLflow model: signature, input example, metadata, and its own code.

    `pictures` is the folder of the data set, for the example; it may be missing.
    """
    bundle = folder / "bundle"
    about = load_description(bundle)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as temporary:
        warnings.simplefilter("ignore")  # MLflow warns about its own types
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        data, code = Path(temporary) / "model", Path(temporary) / _PACKAGE
        data.mkdir()
        file = model_file(bundle)
        shutil.copyfile(file, data / file.name)
        (data / _CLASSES).write_text(json.dumps(report.classes), encoding="utf-8")
        _copy_code(code)
        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.binary)]),
            outputs=Schema([ColSpec(DataType.double, name) for name in report.classes]),
        )
        # MLflow checks no input against it then, because the loader takes more than one type of pictures.
        signature._is_signature_from_type_hint = True
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=f"{_PACKAGE}.tracking.model_code.loader",
            data_path=str(data),
            code_paths=[str(code)],
            mlflow_model=Model(model_id=model_id),
            signature=signature,
            input_example=[_example(folder, pictures, about.input_size)],
            pip_requirements=[f"{package}=={_version(report, package)}" for package in _required(file)],
            metadata=_describe(report, about),
        )


def _copy_code(target: Path) -> None:
    """Copies the modules that a model needs of wastetune, under a name that does not hide an installed wastetune."""
    for name in _CODE:
        source = files("wastetune").joinpath(name).read_text(encoding="utf-8")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(source.replace("from wastetune.", f"from {_PACKAGE}."), encoding="utf-8")


def _required(model: Path) -> tuple[str, ...]:
    """The packages that a model needs."""
    if model.name == ONNX_FILE:
        return _REQUIRED_BY_ONNX
    return (*_REQUIRED, "keras-hub") if needs_hub(model) else _REQUIRED


def _version(report: Report, package: str) -> str:
    return report.versions.get(package) or metadata.version(package)


def _describe(report: Report, about: BundleDescription) -> dict[str, Any]:
    """What the model's own metadata tell of it."""
    return {
        "classes": list(report.classes),
        "input_size": about.input_size,
        "study": report.study,
        "dataset": report.dataset,
        "backbone": report.backbone,
        "config": report.best.config,
        "test_accuracy": report.test.accuracy,
        "test_f1_macro": report.test.f1_macro,
        "thresholds": [each.to_dict() for each in about.thresholds],
    }


def _example(folder: Path, pictures: Path, size: int) -> str:
    """A test picture in base64; a grey one where the pictures are not on this machine."""
    rows = (row for row in read_split_table(folder / "split.csv") if row.split == "test")
    path = next((path for row in rows if (path := pictures / row.path).is_file()), None)
    picture = Image.new("RGB", (size, size), "grey")
    if path is not None:
        with contextlib.suppress(UserError):  # it is another file now
            picture = read_picture(path)
            picture.thumbnail((2 * size, 2 * size))
    return encode_jpeg(picture, 85).partition(",")[2]
