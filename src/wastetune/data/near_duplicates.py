"""Near-duplicates: one picture in another size or compression, or two shots of one scene.

The appearance of a picture is a 12 x 12 grey thumbnail. Two pictures whose thumbnails correlate are near-duplicates.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Measured on TrashNet and WID: nearly all pairs that correlate above this show the same scene.
MIN_CORRELATION = 0.992
GRID = 12  # pixels per side of a thumbnail
LENGTH = 2 * GRID * GRID  # of a thumbnail in hex digits

# In grey levels (standard deviation). All pictures with less would be near-duplicates of each other.
MIN_CONTRAST = 4.0


def appearance_of(picture: Image.Image, if_flat: str) -> str:
    """The appearance of an RGB picture: a 12 x 12 grey thumbnail stretched to full contrast, as 288 hex digits.

    For a picture of almost one colour it is ``if_flat``, which equals only itself.
    """
    grey = picture.convert("L").convert("F").resize((GRID, GRID), Image.Resampling.BOX)
    levels = np.asarray(grey, np.float32)
    if levels.std() < MIN_CONTRAST:
        return if_flat
    stretched = (levels - levels.min()) * (255 / (levels.max() - levels.min()))
    return bytes(np.rint(stretched).astype(np.uint8)).hex()


def group_near_duplicates(appearances: Sequence[str], links: Iterable[tuple[str, str]] = ()) -> tuple[str, ...]:
    """For each appearance the key of its group: the first, in text order, of the appearances in the group.

    Two appearances are linked when their thumbnails correlate by at least 0.992, or by `links`; groups are the
    connected components.
    Time grows with the square of their number: about 5 s for 25,000 on two cores.
    """
    distinct = sorted(set(appearances))
    thumbnails = [appearance for appearance in distinct if len(appearance) == LENGTH]
    parent = {appearance: appearance for appearance in distinct}

    def root(appearance: str) -> str:
        while parent[appearance] != appearance:
            parent[appearance] = appearance = parent[parent[appearance]]
        return appearance

    alike = [(thumbnails[first], thumbnails[second]) for first, second in _linked_pairs(_standardized(thumbnails))]
    for first, second in (*alike, *links):
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return tuple(root(appearance) for appearance in appearances)


def _standardized(thumbnails: Sequence[str]) -> NDArray[np.float32]:
    """One row of mean 0 and length 1 per thumbnail, so that a product of two rows is their correlation."""
    content = bytes.fromhex("".join(thumbnails))
    rows = np.frombuffer(content, np.uint8).reshape(-1, GRID * GRID).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return rows


def _linked_pairs(rows: NDArray[np.float32], block: int = 512) -> list[tuple[int, int]]:
    pairs = []
    for start in range(0, len(rows), block):
        linked = rows[start : start + block] @ rows[start:].T >= MIN_CORRELATION
        pairs += [(start + int(a), start + int(b)) for a, b in np.argwhere(linked) if a < b]
    return pairs
