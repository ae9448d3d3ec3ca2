"""Which pictures look the same: one picture in another size or compression, or two shots of one scene."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Measured on TrashNet and WID: nearly all pairs that correlate above this show the same scene.
SAME = 0.992
GRID = 12  # cells per side of a look
LENGTH = 2 * GRID * GRID  # of a look in hex digits

# Grey levels (standard deviation) below which a picture has no look: all flat pictures would be alike.
MIN_CONTRAST = 4.0


def appearance_of(picture: Image.Image, unlike_any: str) -> str:
    """The look of an RGB picture: a 12 x 12 grey thumbnail stretched to full contrast, as 288 hex digits.

    A picture that is all but flat gets the text ``unlike_any`` instead, which is alike only to itself.
    """
    grey = picture.convert("L").convert("F").resize((GRID, GRID), Image.Resampling.BOX)
    levels = np.asarray(grey, np.float32)
    if levels.std() < MIN_CONTRAST:
        return unlike_any
    stretched = (levels - levels.min()) * (255 / (levels.max() - levels.min()))
    return bytes(np.rint(stretched).astype(np.uint8)).hex()


def group_near_duplicates(looks: Sequence[str]) -> tuple[str, ...]:
    """For each look the key of its group: the first, in text order, of the looks it is linked to.

    Two looks are linked when their thumbnails correlate by at least 0.992, and through looks between them.
    Time grows with the square of the number of looks: about 5 s for 25,000 on two cores.
    """
    known = sorted(set(looks))
    thumbnails = [look for look in known if len(look) == LENGTH]
    parent = {look: look for look in known}

    def root(look: str) -> str:
        while parent[look] != look:
            parent[look] = look = parent[parent[look]]
        return look

    for first, second in _pairs(_standardised(thumbnails)):
        low, high = sorted((root(thumbnails[first]), root(thumbnails[second])))
        parent[high] = low
    return tuple(root(look) for look in looks)


def _standardised(thumbnails: Sequence[str]) -> NDArray[np.float32]:
    """One row of mean 0 and length 1 per look, so that a product of rows is their correlation."""
    content = bytes.fromhex("".join(thumbnails))
    rows = np.frombuffer(content, np.uint8).reshape(-1, GRID * GRID).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return rows


def _pairs(rows: NDArray[np.float32], block: int = 512) -> list[tuple[int, int]]:
    pairs = []
    for start in range(0, len(rows), block):
        alike = rows[start : start + block] @ rows[start:].T >= SAME
        pairs += [(start + int(a), start + int(b)) for a, b in np.argwhere(alike) if a < b]
    return pairs
