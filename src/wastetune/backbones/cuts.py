"""The places where a backbone can be cut into a frozen trunk and a tail."""

import re
from dataclasses import dataclass
from typing import Any

from wastetune.backbones.catalog import Architecture


@dataclass(frozen=True)
class Cut:
    """A place to cut; all layers below are frozen. `frozen_depth` is the share of blocks below it.

    It is 0.0 at the pixels, where nothing is frozen, and 1.0 at the top.
    """

    name: str
    frozen_depth: float


PIXELS = Cut("pixels", 0.0)
TOP = Cut("top", 1.0)


def block_ends(row: Architecture, body: Any) -> dict[str, Any]:
    """Block name -> the layer whose output ends it, from the lowest block to the highest."""
    ends: dict[str, Any] = {}
    for operation in body.operations:
        if found := re.match(row.block, operation.name):
            ends[found.group(1)] = _taker(body, operation) if row.block_ends_after else operation
    return ends


def _taker(body: Any, operation: Any) -> Any:
    """The operation that takes this one's output. It need not be the next in the list: a shortcut may lie between."""
    import keras

    taken = operation.output
    return next(each for each in body.operations if any(one is taken for one in keras.tree.flatten(each.input)))


def list_cuts(row: Architecture, body: Any) -> tuple[Cut, ...]:
    """All cuts of a backbone, from the pixels to the top."""
    names = list(block_ends(row, body))
    stages = len(names) + int(row.top_block)
    return (PIXELS, *(Cut(name, (i + 1) / stages) for i, name in enumerate(names[: stages - 1])), TOP)
