"""Does an audit find wrong labels? It is given 5 % of them, drawn at random, on real photos.

    python benchmarks/audit.py
    python benchmarks/audit.py --quick

Of the wrong labels, the share among the first 8 % of the pictures that the audit lists, in the list of suspected labels
alone. A wrong label on one of two pictures that look alike is found in a second way, as a contradiction, which does
not count here but is told: it needs no model. What the data sets have of wrong labels themselves stands in the list
too, in front of drawn ones, so 100 % is not to be had.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import SMALL_BACKBONE, Row, folders, options, print_table, temporary_folder

from wastetune.backbones.backbone import Backbone, load_backbone
from wastetune.checks.audit import BACKBONE, LISTED, find_suspects, predict_out_of_fold
from wastetune.console import open_console
from wastetune.data.index import ImageIndex, contradictions, index_folder, near_duplicate_groups
from wastetune.data.pixels import open_pixels
from wastetune.datasets.synthetic import write_sample
from wastetune.settings import cache_folder

SHARE, SEEDS = 0.05, (0, 1, 2)


def flip_labels(index: ImageIndex, seed: int) -> tuple[ImageIndex, set[str]]:
    """The index with 5 % of its labels replaced by another class, all being equally likely; and whose they are."""
    rng, count, classes = np.random.default_rng(seed), len(index.pictures), len(index.classes)
    move = np.zeros(count, int)
    chosen = rng.choice(count, round(SHARE * count), replace=False)
    move[chosen] = rng.integers(1, classes, len(chosen))
    pictures = tuple(
        replace(picture, label=int((picture.label + by) % classes))
        for picture, by in zip(index.pictures, move, strict=True)
    )
    return replace(index, pictures=pictures), {index.pictures[row].path for row in chosen}


def measure(folder: Path, trunk: Backbone) -> Iterator[Row]:
    cache, console = cache_folder(), open_console(quiet=True)
    index = index_folder(folder, cache=cache)
    pixels = open_pixels(index, trunk.size, cache)
    for seed in (None, *SEEDS):
        started = time.perf_counter()
        given, flipped = (index, set()) if seed is None else flip_labels(index, seed)
        suspects, wrong = find_suspects(given, predict_out_of_fold(given, pixels, trunk, seed=0, console=console))
        listed = [one.picture.path for one in suspects]
        twins = {each.path for group in near_duplicate_groups(given) for each in group}
        yield {
            "data": folder.name,
            "flips": "none" if seed is None else f"seed {seed}",
            "wrong": len(flipped),
            "listed": len(listed),
            f"in first {LISTED:.0%}": len(flipped & {*listed}) / len(flipped) if flipped else None,
            "estimate": wrong,
            "in first of them": len(flipped & {*listed[:wrong]}) / len(flipped) if flipped else None,
            "with a twin": len(flipped & twins),
            "unlisted": len(flipped & twins - {*listed}),
            "contradictions": len(contradictions(given)),
            "seconds": time.perf_counter() - started,
        }


def cases(quick: bool) -> Iterator[Row]:
    if quick:
        pictures = write_sample(Path("pictures"), classes=("box", "leaf"), per_class=40, size=48, odd_files=False)
        yield from measure(pictures, load_backbone(SMALL_BACKBONE, "none", size=48))
        return
    data, weights = folders()
    assert data is not None, "name the folder of data sets: WASTETUNE_DATA"
    trunk = load_backbone(BACKBONE, "imagenet", folder=weights)
    for name in ("trashnet", "wid"):
        yield from measure(data / name, trunk)


if __name__ == "__main__":
    asked = options(__doc__).parse_args()
    with temporary_folder():
        print_table(cases(asked.quick), asked.json)
