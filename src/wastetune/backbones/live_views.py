"""Pictures as they are at the lowest cut, the pixels: nothing is frozen below, so nothing is stored.

Augmented views are made anew in every epoch, while the optimizer works on the batch before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wastetune.backbones.augmentation import augment_picture
from wastetune.data.pixels import PictureSet


@dataclass(frozen=True)
class PixelRows:
    """The pixels of picture sets, one after the other; it is read like stored activations."""

    parts: tuple[PictureSet, ...]
    size: int  # pixels a side
    rows: npt.NDArray[np.int64] | None = None  # of the parts, in this order; None: all of them

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture."""
        return (self.size, self.size, 3)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) if self.rows is None else len(self.rows)

    def __add__(self, other: "PixelRows") -> "PixelRows":
        if self.rows is not None or other.rows is not None:
            raise ValueError("pictures are joined before rows of them are selected")
        return replace(self, parts=self.parts + other.parts)

    def select(self, rows: npt.NDArray[np.int64]) -> "PixelRows":
        """The pictures of these rows alone; nothing is read."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The pixels of these rows in 0..255, (len(rows), size, size, 3) float32."""
        return self._read(rows).astype(np.float32)

    def take_views(
        self, rows: npt.NDArray[np.int64], magnitude: float, seeds: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """As `take`, each picture augmented at this magnitude with its seed."""
        pictures = zip(self._read(rows), seeds, strict=True)
        return np.stack([augment_picture(picture, magnitude, int(seed)) for picture, seed in pictures]).astype(
            np.float32
        )

    def _read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        wanted = rows if self.rows is None else self.rows[rows]
        ends = np.cumsum([len(part) for part in self.parts])
        out = np.empty((len(wanted), *self.shape), np.uint8)
        part_of = np.searchsorted(ends, wanted, side="right")
        for number in np.unique(part_of):
            chosen, part = part_of == number, self.parts[number]
            out[chosen] = part.read((wanted[chosen] - (ends[number] - len(part))).tolist())
        return out
