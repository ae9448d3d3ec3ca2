"""The pictures that a study has used, as its split.csv and its data set tell, found again in another folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.near_duplicates import group_near_duplicates
from wastetune.data.splits import read_split_table
from wastetune.errors import UserError
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.settings import cache_folder

_FILE = "split.csv"


@dataclass(frozen=True)
class UsedPictures:
    """The pictures of a study: sha256 of the pixels, and the appearances of those that are on this machine."""

    trained: frozenset[str] = frozenset()  # training and validation pictures: the final model is fitted on both
    test: frozenset[str] = frozenset()
    trained_looks: frozenset[str] = frozenset()
    test_looks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Overlap:
    """The pictures of an index, as positions, that a study has used."""

    trained: frozenset[int]  # the model was trained on the very same pixels
    near: frozenset[int]  # near-duplicates of pictures that it was trained on, but not the same pixels
    test: frozenset[int]  # the study's test pictures, and near-duplicates of them


def home_of(model: Path) -> Path | None:
    """The results folder of the study that a model lies in; None where it lies elsewhere."""
    folder = model.resolve().parent
    folder = folder.parent if folder.name == EXPORTS else folder
    return folder if (folder / _FILE).is_file() else None


def read_used_pictures(
    home: Path, dataset: Path | None, progress: Callable[[int, int], None] | None = None
) -> UsedPictures:
    """The pictures that split.csv in a study's results folder lists.

    `dataset` is the folder of the study's pictures; None where it is not on this machine. `progress(done, total)`
    counts its files. UserError where split.csv is damaged.
    """
    try:
        rows = read_split_table(home / _FILE)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{home / _FILE} is damaged; run the study again, which writes it anew") from None
    trained = frozenset(row.pixels_sha256 for row in rows if row.split in ("train", "val"))
    test = frozenset(row.pixels_sha256 for row in rows if row.split == "test")
    try:
        index = None if dataset is None else index_folder(dataset, cache=cache_folder(), progress=progress)
    except UserError:  # what is left of it is no data set
        index = None
    pictures = () if index is None else index.pictures
    looks = (frozenset(each.appearance for each in pictures if each.pixels_sha256 in side) for side in (trained, test))
    return UsedPictures(trained, test, *looks)


def find_overlap(index: ImageIndex, used: UsedPictures) -> Overlap:
    """The pictures of an index that a study has used.

    Near-duplicates are those that the split of a study would keep on one side (`group_near_duplicates`): the same photo
    in another size or compression has other pixels.
    """
    pixels = [each.pixels_sha256 for each in index.pictures]
    looks = [each.appearance for each in index.pictures]
    known = sorted(used.trained_looks | used.test_looks)
    keys = group_near_duplicates([*known, *looks])
    group = dict(zip([*known, *looks], keys, strict=True))
    near_trained, near_test = ({group[each] for each in side} for side in (used.trained_looks, used.test_looks))
    trained = frozenset(row for row, each in enumerate(pixels) if each in used.trained)
    test = frozenset(row for row, each in enumerate(pixels) if each in used.test) - trained
    near = frozenset(row for row, each in enumerate(looks) if group[each] in near_trained) - trained - test
    alike = frozenset(row for row, each in enumerate(looks) if group[each] in near_test) - trained - near
    return Overlap(trained, near, test | alike)
