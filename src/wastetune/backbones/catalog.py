"""The known backbones: their builders in Keras, their input and the ends of their blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from wastetune.errors import UserError, suggest

Preprocessing = Literal["inside", "unit", "signed", "caffe", "torch"]


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
    block_ends_after: bool = False  # the block's end is the operation that takes the named layer's output
    xla: bool = False  # whether XLA trains its tails faster on a CPU: true for full, not for depthwise convolutions
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


_MOBILENET_BLOCK = r"^(expanded_conv(?:_\d+)?)_(?:add|project_bn)$"
_RESNET_BLOCK = r"^(conv\d_block\d+)_out$"


def _mobilenet(builder: str, **options: Any) -> Architecture:
    return Architecture(builder, 224, "inside", _MOBILENET_BLOCK, top_block=True, options=options)


def _efficientnet_v2(builder: str, size: int) -> Architecture:
    return Architecture(builder, size, "inside", r"^(block\d[a-z])_(?:add|project_bn)$", top_block=True)


def _convnext(builder: str) -> Architecture:
    return Architecture(builder, 224, "inside", r"^(.*stage_\d_block_\d+)_identity$", block_ends_after=True)


def _densenet(builder: str) -> Architecture:
    # Each concatenation carries all features of its dense block so far, so it is a place to cut.
    return Architecture(builder, 224, "torch", r"^(conv\d_block\d+)_concat$")


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
        "efficientnet_v2_b0": _efficientnet_v2("EfficientNetV2B0", 224),
        "convnext_tiny": _convnext("ConvNeXtTiny"),
        "efficientnet_v2_b1": _efficientnet_v2("EfficientNetV2B1", 240),
        "efficientnet_v2_b2": _efficientnet_v2("EfficientNetV2B2", 260),
        "efficientnet_v2_b3": _efficientnet_v2("EfficientNetV2B3", 300),
        "efficientnet_v2_s": _efficientnet_v2("EfficientNetV2S", 384),
        "convnext_small": _convnext("ConvNeXtSmall"),
        "convnext_base": _convnext("ConvNeXtBase"),
        "resnet101": Architecture("ResNet101", 224, "caffe", _RESNET_BLOCK),
        "resnet50_v2": Architecture("ResNet50V2", 224, "signed", _RESNET_BLOCK),
        "resnet101_v2": Architecture("ResNet101V2", 224, "signed", _RESNET_BLOCK),
        "resnet152_v2": Architecture("ResNet152V2", 224, "signed", _RESNET_BLOCK),
        "densenet121": _densenet("DenseNet121"),
        "densenet169": _densenet("DenseNet169"),
        "densenet201": _densenet("DenseNet201"),
        # A cell of NASNet takes the outputs of two cells, so only its last one is a place to cut: the top.
        "nasnet_mobile": Architecture("NASNetMobile", 224, "signed", r"^(normal_concat_12)$"),
        # Keras numbers the additions that end Xception's blocks, so a block is named by the layer before it.
        "xception": Architecture(
            "Xception", 299, "signed", r"^(block\d+)_(?:pool|sepconv3_bn)$", top_block=True, block_ends_after=True
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
