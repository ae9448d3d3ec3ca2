"""Pictures of noise, which every process draws alike."""

import numpy as np

from wastetune.data.pixels import PictureSet

SIZE = 32


def draw_noise(count):
    """A set of so many pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    keys = tuple(f"picture {number}" for number in range(count))

    def read(rows):
        return pixels[rows.start : rows.stop]

    return PictureSet(read, keys, np.zeros(count, np.int64), keys, decode=read)
