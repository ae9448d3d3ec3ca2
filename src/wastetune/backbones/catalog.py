"""The known backbones: what builds them, what they want to see, where their blocks end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from wastetune.errors import UserError

Preprocessing = Literal["inside", "signed", "caffe"]


@dataclass(frozen=True)
class Architecture:
    """One row of the table: how `keras.applications` builds it and where its blocks end.

    `block` finds the layers that end a block; its first group names the block, and the last layer of that
    name counts. `top_block` says that layers with weights follow the last block (the 1x1 convolution of the
    MobileNets), so that cutting behind the last block is not yet cutting at the top.
    """

    builder: str
    size: int
    preprocessing: Preprocessing
    block: str
    top_block: bool = False
    block_ends_after: bool = False  # the block's end is the operation that follows the named layer
    xla: bool = False  # whether XLA trains its tails faster on a CPU: plain convolutions, not depthwise ones
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
    """The table's row for a name. UserError for a name that is not in the table."""
    try:
        return BACKBONES[name]
    except KeyError:
        raise UserError(f"backbone {name!r} is not known; the known ones are {', '.join(BACKBONES)}") from None


def weights_file_name(name: str) -> str:
    """What a weights file of this backbone is called in a folder of weights."""
    return f"{name}_notop.weights.h5"
