"""The known backbones: their builders in Keras, their input and the ends of their blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from wastetune.errors import UserError, suggest

Preprocessing = Literal["inside", "signed", "caffe"]


@dataclass(frozen=True)
class Architecture:
    """One row of the catalog: its builder in `keras.applications` and the ends of its blocks.

    `block` matches the layers that end a block; its first group is the block's name, and the last layer with that
    name is the end. `top_block` is true if layers with weights follow the last block (the 1x1 convolution of the
    MobileNets), so that a cut after the last block is not the top.
    """

    builder: str
    size: int
    preprocessing: Preprocessing
    block: str
    top_block: bool = False
    block_ends_after: bool = False  # the block's end is the operation that follows the named layer
    xla: bool = False  # whether XLA trains its tails faster on a CPU: true for full, not for depthwise convolutions
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


_MOBILENET_BLOCK = r"^(expanded_conv(?:_\d+)?)_(?:add|project_bn)$"
_RESNET_BLOCK = r"^(conv\d_block\d+)_out$"


def _mobilenet(builder: str, **options: Any) -> Architecture:
    return Architecture(builder, 224, "inside", _MOBILENET_BLOCK, top_block=True, options=options)


BACKBONES: Mapping[str, Architecture] = MappingProxyType(
    {
        "inception_v3": Architecture("InceptionV3", 299, "signed", r"^(mixed\d+)$", xla=True),
        "resnet152": Architecture("ResNet152", 224, "caffe", _RESNET_BLOCK, xla=True),
        "resnet50": Architecture("ResNet50", 224, "caffe", _RESNET_BLOCK, xla=True),
        "mobilenet_v3_large": _mobilenet("MobileNetV3Large"),
        "mobilenet_v3_large_075": _mobilenet("MobileNetV3Large", alpha=0.75),
        "mobilenet_v3_large_minimalistic": _mobilenet("MobileNetV3Large", minimalistic=True),
        "mobilenet_v3_small": _mobilenet("MobileNetV3Small"),
        "mobilenet_v3_small_075": _mobilenet("MobileNetV3Small", alpha=0.75),
        "mobilenet_v3_small_minimalistic": _mobilenet("MobileNetV3Small", minimalistic=True),
        "efficientnet_v2_b0": Architecture(
            "EfficientNetV2B0", 224, "inside", r"^(block\d[a-z])_(?:add|project_bn)$", top_block=True
        ),
        "convnext_tiny": Architecture(
            "ConvNeXtTiny", 224, "inside", r"^(.*stage_\d_block_\d+)_identity$", block_ends_after=True
        ),
    }
)


def find_architecture(name: str) -> Architecture:
    """The backbone of that name. Raises UserError for an unknown name."""
    try:
        return BACKBONES[name]
    except KeyError:
        raise UserError(f"backbone {name!r} is not known; {suggest(name, BACKBONES)}") from None


def weights_file_name(name: str) -> str:
    """The name of this backbone's file in a folder of weights."""
    return f"{name}_notop.weights.h5"
