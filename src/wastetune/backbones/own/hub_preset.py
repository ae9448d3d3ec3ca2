"""Backbones of KerasHub: its presets, and folders of Keras, Hugging Face and timm, read without a network."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wastetune.backbones.own.flat_model import FlatModel, flatten_model
from wastetune.backbones.own.keras_file import HUB, foreign_code
from wastetune.backbones.own.scaling import Scaling, Triple
from wastetune.console import suppressed_stderr
from wastetune.errors import UserError, first_line

_ENCODERS = {"DINOV2Encoder": "layers", "ViTEncoder": "encoder_layers"}  # blocks in one layer -> where they are


@dataclass(frozen=True)
class Preset:
    """A backbone of KerasHub, taken apart, and how it wants its pixels, if the preset tells that."""

    flat: FlatModel
    size: int
    scaling: Scaling | None
    digest: str | None  # of all files of a folder


def load_preset(place: str, size: int | None) -> Preset:
    """The preset in a folder, or of that name, which KerasHub downloads.

    UserError where it cannot be read, has code of its own, or is no backbone for pictures.
    """
    folder = Path(place)
    if folder.is_dir():
        _refuse_code(folder)
    with suppressed_stderr():
        import keras
        import keras_hub

    scaling, own_size = _read_converter(place)
    try:
        loader = keras_hub.models.Backbone
        with suppressed_stderr():
            backbone = loader.from_preset(place) if size is None else _with_size(loader, place, size)
    except UserError:
        raise
    except Exception as error:  # KerasHub, its converters and Kaggle raise anything
        raise UserError(
            f"KerasHub cannot load {place!r} ({type(error).__name__}: {first_line(error, most=200)}); without a "
            "network, name a folder that holds the preset"
        ) from error
    if not (isinstance(backbone, keras.Model) and len(keras.tree.flatten(backbone.input)) == 1):
        raise UserError(f"{type(backbone).__name__} in {place!r} is no backbone for pictures")
    shape = tuple(keras.tree.flatten(backbone.input)[0].shape)
    if len(shape) != 4 or shape[3] != 3:
        raise UserError(f"{type(backbone).__name__} in {place!r} takes an input of shape {shape}, no pictures")
    side = size or shape[1] or own_size
    if side is None:
        raise UserError(f"{place} does not say for what size of pictures it is; add image_size to the study")
    flat = flatten_model(backbone, int(side), None, _unfold, _first_token if _has_class_token(backbone) else None)
    return Preset(flat, int(side), scaling, _folder_digest(folder) if folder.is_dir() else None)


def _with_size(loader: Any, place: str, size: int) -> Any:
    try:
        return loader.from_preset(place, image_shape=(size, size, 3))
    except (TypeError, ValueError) as error:  # weights of a ViT fit one size
        raise UserError(
            f"KerasHub cannot load {place!r} for pictures of {size} px ({first_line(error, most=200)}); leave "
            "image_size out"
        ) from error


def _unfold(layer: Any, tensor: Any) -> tuple[list[Any], Any] | None:
    """The layers inside an encoder, which are called one after another."""
    import keras

    if (where := _ENCODERS.get(type(layer).__name__)) is None or not type(layer).__module__.startswith(HUB):
        return None
    inside = list(getattr(layer, where))
    if where == "encoder_layers":
        return [layer.dropout, *inside, layer.layer_norm], None
    assert keras.utils.is_keras_tensor(tensor)
    return inside, None


def _has_class_token(backbone: Any) -> bool:
    """Whether the first token stands for the whole picture."""
    return type(backbone).__name__ == "DINOV2Backbone" or bool(getattr(backbone, "use_class_token", False))


def _first_token(tensor: Any) -> Any:
    return tensor[:, 0]


def _read_converter(place: str) -> tuple[Scaling | None, int | None]:
    """How a preset wants its pixels, and for what size it is; None where it does not tell."""
    import keras_hub

    try:
        with suppressed_stderr():
            converter = keras_hub.layers.ImageConverter.from_preset(place)
    except Exception:  # it has none, or its backbone has no kind of converter
        return None, None
    if converter is None:
        return None, None
    size = converter.image_size
    scale, offset = _triple(converter.scale, 1.0), _triple(converter.offset, 0.0)
    return Scaling(scale, offset), int(size[0]) if size else None


def _triple(value: Any, default: float) -> Triple:
    if value is None or isinstance(value, int | float):
        each = default if value is None else float(value)
        return (each, each, each)
    red, green, blue = (float(each) for each in value)
    return (red, green, blue)


def _refuse_code(folder: Path) -> None:
    for file in sorted(folder.glob("*.json")):
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if found := next(foreign_code(config, known=("keras", HUB)), None):
            raise UserError(f"{file} has code of its own ({found[:60]}), which is not run")


def _folder_digest(folder: Path) -> str:
    """The SHA-256 of all files in a folder, with their names."""
    digest = hashlib.sha256()
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(f"{file.relative_to(folder)}\n".encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
