"""Training, validation and test pictures of an ImageIndex, and split.csv, which records them."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wastetune.data.index import ImageIndex
from wastetune.errors import UserError
from wastetune.files import write_whole
from wastetune.seeding import seed_for


@dataclass(frozen=True)
class SplitRow:
    """One line of split.csv."""

    path: str  # posix, relative to the data set's folder
    class_name: str
    bytes_sha256: str
    pixels_sha256: str
    split: str  # "train", "val", "test" or "left_out"


_PARTS = {"val": "validation", "test": "test"}
_COLUMNS = ("path", "class", "bytes_sha256", "pixels_sha256", "split")


@dataclass(frozen=True)
class Splits:
    """Positions in ``index.pictures``, ascending; every picture is in exactly one of the four."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    left_out: tuple[int, ...] = ()  # near-duplicates of pictures in the data set's own test or validation part


def split_index(
    index: ImageIndex, *, seed: int, val_fraction: float = 0.15, test_fraction: float = 0.2, grouped: bool = True
) -> Splits:
    """The split of an index. Near-duplicates are on one side, also across classes; not `grouped`, each picture alone.

    The side of a group of near-duplicates is drawn from the seed and its key alone, so it does not change when other
    files are added or removed; shares per class vary by chance. If a class has no picture on some side, the group
    nearest to that side is moved there.

    A data set with its own test or validation part keeps it; only the missing one is drawn from its training part, with
    its share of the rest. `Grouped`, training pictures that are near-duplicates of a picture in its own test or
    validation part are left out, and so are validation pictures that are near-duplicates of one in its test part.

    Raises UserError when the fractions leave nothing for a side, or a class has too few different pictures.
    """
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise UserError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} must be above 0 and add up to less than 1."
        )
    keys = index.near_duplicate_keys if grouped else tuple(picture.path for picture in index.pictures)
    own: dict[str, set[str]] = {"test": set(), "val": set()}
    for key, picture in zip(keys, index.pictures, strict=True):
        if picture.own_split in own:
            own[picture.own_split].add(key)
    groups: dict[str, list[int]] = {}
    members: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    left_out = []
    for position, (key, picture) in enumerate(zip(keys, index.pictures, strict=True)):
        if picture.own_split == "test":
            members["test"].append(position)
        elif key in own["test"]:
            left_out.append(position)
        elif picture.own_split == "val":
            members["val"].append(position)
        elif key in own["val"]:
            left_out.append(position)
        else:
            groups.setdefault(key, []).append(position)

    fractions = {"test": test_fraction, "val": val_fraction}
    given = [side for side in fractions if own[side]]
    for side in given:
        _check_classes(index, members[side], side)
    rest = 1 - sum(fractions[side] for side in given)
    shares = {side: fraction / rest for side, fraction in fractions.items() if side not in given}
    sides = _draw_sides(index, groups, seed, shares)
    for key, positions in groups.items():
        members[sides[key]] += positions
    return Splits(
        train=tuple(sorted(members["train"])),
        val=tuple(sorted(members["val"])),
        test=tuple(sorted(members["test"])),
        left_out=tuple(left_out),
    )


def leaked_pictures(index: ImageIndex, splits: Splits) -> tuple[int, ...]:
    """The test pictures with a near-duplicate among the training or validation pictures: none, if split in groups."""
    keys = index.near_duplicate_keys
    seen = {keys[row] for row in (*splits.train, *splits.val)}
    return tuple(row for row in splits.test if keys[row] in seen)


def draw_folds(index: ImageIndex, rows: Sequence[int], folds: int, *, seed: int) -> NDArray[np.int64]:
    """The fold, 0 to `folds` - 1, of each of these pictures of the index, (len(rows),).

    Near-duplicates are in one fold. The groups of a class are dealt to the folds in turn, in an order drawn from the
    seed, so each fold has its share of each class.
    """
    keys = index.near_duplicate_keys
    labels = {keys[row]: index.pictures[row].label for row in rows}  # a contradiction counts for one of its classes
    dealt = sorted(labels, key=lambda key: (labels[key], seed_for("fold", seed, key), key))
    fold_of = {key: place % folds for place, key in enumerate(dealt)}
    return np.array([fold_of[keys[row]] for row in rows], np.int64)


def write_split_table(index: ImageIndex, splits: Splits, path: Path) -> None:
    """Writes a CSV file, complete or not at all, with a line per picture.

    Columns: path, class, bytes_sha256, pixels_sha256, split.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: part.write_bytes(_table(index, splits).encode()))


def read_split_table(path: Path) -> tuple[SplitRow, ...]:
    """The lines of that file. Raises UserError when it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(SplitRow(*(line[column] for column in _COLUMNS)) for line in csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); run the study again, which writes it") from None


def split_digest(index: ImageIndex, splits: Splits) -> str:
    """The sha256 (hex) of that table. It does not depend on where the folder is."""
    return hashlib.sha256(_table(index, splits).encode()).hexdigest()


def _draw_sides(index: ImageIndex, groups: dict[str, list[int]], seed: int, shares: dict[str, float]) -> dict[str, str]:
    """Key -> side. Each side is an interval of [0, 1), train the last; each key is a point in [0, 1)."""
    spans, start = {}, 0.0
    for side, share in shares.items():
        spans[side] = (start, start + share)
        start += share
    spans["train"] = (start, 1.0)

    points = {key: seed_for("split", seed, key) / 2**32 for key in groups}
    sides = {
        key: next((side for side, (_, end) in spans.items() if point < end), "train") for key, point in points.items()
    }
    labels = {key: {index.pictures[i].label for i in positions} for key, positions in groups.items()}
    for label, name in enumerate(index.classes):
        different = sum(1 for key in groups if label in labels[key])
        if different < len(spans):
            raise UserError(
                f"Class {name!r} in {index.folder} has {different} different pictures to split, "
                f"and needs at least {len(spans)} (those that look alike count once): add pictures or remove the class."
            )

    def count(label: int, side: str) -> int:
        return sum(1 for key in groups if label in labels[key] and sides[key] == side)

    for label, name in enumerate(index.classes):
        for side, (low, high) in spans.items():
            if count(label, side):
                continue
            # Only groups that leave another group of each of their classes on their side.
            movable = [
                key
                for key in groups
                if label in labels[key] and all(count(other, sides[key]) > 1 for other in labels[key])
            ]
            if not movable:
                raise UserError(
                    f"Class {name!r} in {index.folder} shares too many pictures with other classes "
                    "to be split: see `wastetune data check` and remove the contradictions."
                )
            nearest = min(movable, key=lambda key: (max(low - points[key], points[key] - high), key))
            sides[nearest] = side
    return sides


def _check_classes(index: ImageIndex, rows: Sequence[int], side: str) -> None:
    for label in sorted(set(range(len(index.classes))) - {index.pictures[i].label for i in rows}):
        raise UserError(
            f"Class {index.classes[label]!r} in {index.folder} has no pictures in the {_PARTS[side]} part: add some "
            "or remove the class."
        )


def _table(index: ImageIndex, splits: Splits) -> str:
    side_of = {i: side for side in ("train", "val", "test", "left_out") for i in getattr(splits, side)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for i, picture in enumerate(index.pictures):
        name = index.classes[picture.label]
        writer.writerow([picture.path, name, picture.bytes_sha256, picture.pixels_sha256, side_of[i]])
    return text.getvalue()
