"""What a study's `backbone` names: a row of the catalog, a Keras or ONNX file, or a preset of KerasHub.

Everything that can be told without loading it is checked here, before anything is computed.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from wastetune.backbones.catalog import Preprocessing, find_architecture
from wastetune.backbones.own.keras_file import HUB
from wastetune.errors import UserError, install_command

Kind = Literal["catalog", "keras", "onnx", "keras_hub"]

_HUB = f"{HUB}:"
_OTHERS = (".h5", ".hdf5", ".pt", ".pth", ".safetensors", ".tflite", ".pb", ".pkl")


@dataclass(frozen=True)
class Source:
    """A backbone that is there: its kind, its short name, and its file, folder or preset."""

    kind: Kind
    name: str  # of a row of the catalog, or of a file; it can be a folder's name
    place: str = ""  # a path, or a preset's name


def find_source(
    name: str,
    near: Path,
    *,
    weights: str = "imagenet",
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
) -> Source:
    """The backbone of that name; a relative path starts at the folder `near`.

    UserError for an unknown name, a file that is not there, a package that is missing, and keys that do not fit it.
    """
    if name.startswith(_HUB):
        source = _find_preset(name.removeprefix(_HUB), near)
    elif (suffix := Path(name).suffix) in (".keras", ".onnx"):
        source = _find_file(near / Path(name).expanduser(), "keras" if suffix == ".keras" else "onnx")
    elif suffix in _OTHERS:
        raise UserError(
            f"a backbone of your own is a .keras or .onnx file, not {suffix}: with Keras, load the model and call its "
            f'save("model.keras"); with PyTorch, torch.onnx.export writes model.onnx'
        )
    else:
        find_architecture(name)
        source = Source("catalog", name)
    if source.kind == "catalog" and (preprocessing or layer):
        key = "preprocessing" if preprocessing else "layer"
        raise UserError(f"{key} is for files of one's own: wastetune knows it of {name}; leave it out")
    if source.kind != "catalog" and weights != "imagenet":
        raise UserError("its weights are in its file; leave the key weights, and --weights with a file or none, out")
    if source.kind == "keras_hub" and layer:
        raise UserError("layer is for .keras and .onnx files: the top of a KerasHub backbone is its features")
    if source.kind == "onnx" and preprocessing is None:
        raise UserError(needs_preprocessing(name))
    return source


def needs_preprocessing(name: str) -> str:
    """What to do where neither the file nor the study tells how pixels are scaled."""
    return (
        f'{name} does not say how it wants its pixels: add preprocessing = "inside" (0 to 255), "unit" (0 to 1), '
        '"signed" (-1 to 1), "torch" (as torchvision and timm) or "caffe" to the study'
    )


def _find_file(path: Path, kind: Kind) -> Source:
    if not path.is_file():
        raise UserError(f"there is no file {path}; a relative path starts at the folder of the study's file")
    packages = ("onnx", "onnxruntime", "tf2onnx") if kind == "onnx" else ()
    if missing := [package for package in packages if find_spec(package) is None]:
        raise UserError(f"a backbone in an .onnx file needs {', '.join(missing)}: {install_command('onnx')}")
    return Source(kind, _as_folder(path.name), str(path))


def _find_preset(preset: str, near: Path) -> Source:
    if not preset:
        raise UserError(f'a preset or its folder is missing: "{_HUB}FOLDER" or "{_HUB}dinov2_small"')
    if find_spec(HUB) is None:
        raise UserError(f"KerasHub is not installed; {install_command('hub')}")
    folder = near / Path(preset).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} has no config.json, so it is no preset of KerasHub, Hugging Face or timm")
        return Source("keras_hub", _as_folder(folder.resolve().name), str(folder))
    if preset.startswith((".", "/", "~")):
        raise UserError(f"there is no folder {folder}; a relative path starts at the folder of the study's file")
    return Source("keras_hub", _as_folder(preset), preset)


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "own"
