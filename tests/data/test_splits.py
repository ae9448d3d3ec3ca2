"""What split_index promises: nothing leaks, nothing moves, no class is left without pictures."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wastetune.data.index import ImageIndex, Picture
from wastetune.data.splits import Splits, draw_folds, leaked_pictures, split_digest, split_index, write_split_table
from wastetune.errors import UserError


def picture(number: int, label: int, own_split: str | None = None, appearance: str | None = None) -> Picture:
    sha = f"{number:064x}"
    return Picture(f"{label}/{number}.jpg", label, sha, sha, appearance or f"look {number}", 10, 10, own_split)


def index_of(pictures: list[Picture], folder: str = "/data/set") -> ImageIndex:
    names = tuple(f"class {label}" for label in range(max(p.label for p in pictures) + 1))
    return ImageIndex(Path(folder), names, tuple(pictures), ())


def sides(index: ImageIndex, splits: Splits) -> dict[str, str]:
    named = {"train": splits.train, "val": splits.val, "test": splits.test, "left_out": splits.left_out}
    return {index.pictures[i].path: side for side, positions in named.items() for i in positions}


@pytest.fixture
def index() -> ImageIndex:
    return index_of([picture(number, number % 4) for number in range(2000)])


def test_every_picture_is_on_one_side_and_shares_are_about_right(index: ImageIndex) -> None:
    splits = split_index(index, seed=0)
    everything = [*splits.train, *splits.val, *splits.test]
    assert sorted(everything) == list(range(2000))
    assert splits.left_out == ()
    assert all(list(side) == sorted(side) for side in (splits.train, splits.val, splits.test))
    for label in range(4):
        of_class = [i for i in splits.test if index.pictures[i].label == label]
        assert 0.14 < len(of_class) / 500 < 0.26
    assert 0.12 < len(splits.val) / 2000 < 0.18


def test_the_seed_decides(index: ImageIndex) -> None:
    assert split_index(index, seed=1) == split_index(index, seed=1)
    assert split_index(index, seed=1) != split_index(index, seed=2)


def test_pictures_stay_where_they_are_when_files_come_and_go(index: ImageIndex) -> None:
    before = sides(index, split_index(index, seed=3))
    kept = [p for i, p in enumerate(index.pictures) if i % 3]
    more = index_of([picture(5000 + number, number % 4) for number in range(300)] + kept[::-1])
    after = sides(more, split_index(more, seed=3))
    assert {p.path: after[p.path] for p in kept} == {p.path: before[p.path] for p in kept}


def test_larger_shares_only_take_pictures_from_train(index: ImageIndex) -> None:
    small, large = (split_index(index, seed=0, test_fraction=share) for share in (0.1, 0.3))
    assert set(small.test) < set(large.test)


def lookalikes() -> list[Picture]:
    """300 pairs of pictures that look nearly the same, in different classes."""
    noise = np.random.default_rng(0)
    pictures = []
    for number in range(300):
        thumbnail = noise.integers(5, 250, 144, np.uint8)
        for copy in range(2):
            nearly = thumbnail + noise.integers(0, 4, 144, np.uint8)
            pictures.append(picture(2 * number + copy, (number + copy) % 3, appearance=nearly.tobytes().hex()))
    return pictures


def test_lookalikes_stay_on_one_side_also_across_classes() -> None:
    pictures = lookalikes()
    index = index_of(pictures)
    side_of = sides(index, split_index(index, seed=0))
    pairs = [(side_of[a.path], side_of[b.path]) for a, b in zip(pictures[::2], pictures[1::2], strict=True)]
    assert all(first == second for first, second in pairs)
    assert {first for first, _ in pairs} == {"train", "val", "test"}


def test_each_picture_alone_lookalikes_are_on_both_sides_and_are_counted() -> None:
    twins = index_of([picture(number, number % 2, appearance=f"look {number % 200}") for number in range(400)])
    grouped, alone = split_index(twins, seed=0), split_index(twins, seed=0, grouped=False)
    assert leaked_pictures(twins, grouped) == ()
    leaked = leaked_pictures(twins, alone)
    look = [each.appearance for each in twins.pictures]
    known = {look[i] for i in (*alone.train, *alone.val)}
    assert set(leaked) == {i for i in alone.test if look[i] in known}
    assert 0.6 < len(leaked) / len(alone.test) < 0.95  # the other of two is there with a probability of 0.8
    assert alone == split_index(twins, seed=0, grouped=False)


def test_not_grouped_a_train_picture_like_one_of_its_own_test_folder_is_kept() -> None:
    kinds = [picture(n, n % 2, own_split="train", appearance=f"look {n}") for n in range(40)]
    kinds += [picture(100 + n, n % 2, own_split="test", appearance=f"look {n}") for n in range(10)]
    own = index_of(kinds)
    assert len(split_index(own, seed=0).left_out) == 10
    kept = split_index(own, seed=0, grouped=False)
    assert kept.left_out == ()
    assert len(leaked_pictures(own, kept)) == 10


@pytest.mark.parametrize("seed", range(20))
def test_a_small_class_has_pictures_on_every_side(seed: int) -> None:
    large = [picture(number, 0) for number in range(100)]
    shared = [replace(picture(200, 1), appearance="look 0"), picture(201, 1), picture(202, 1)]
    index = index_of(large + shared)
    splits = split_index(index, seed=seed)
    for side in (splits.train, splits.val, splits.test):
        assert {index.pictures[i].label for i in side} == {0, 1}
    # Only the small class had to be helped, so only its groups may have moved.
    alone = index_of([*large, *(picture(300 + number, 1) for number in range(100))])
    elsewhere, here = sides(alone, split_index(alone, seed=seed)), sides(index, splits)
    assert all(here[p.path] == elsewhere[p.path] for p in large[1:])


def test_a_class_with_too_few_different_pictures_is_refused() -> None:
    copies = [picture(number, 1, appearance="the same") for number in range(10)]
    index = index_of([*(picture(100 + number, 0) for number in range(10)), *copies])
    with pytest.raises(UserError, match=r"'class 1' .* has 1 different pictures to split, and needs at least 3"):
        split_index(index, seed=0)


def test_classes_that_share_all_their_pictures_can_still_be_split() -> None:
    pictures = [
        picture(10 * label + number, label, appearance=f"look {number}") for label in (0, 1) for number in range(3)
    ]
    split = split_index(index_of(pictures), seed=0)
    assert [len(side) for side in (split.train, split.val, split.test)] == [2, 2, 2]


def test_folds_have_equal_shares_of_each_class_and_the_seed_decides(index: ImageIndex) -> None:
    rows = range(100, 2000)
    folds = draw_folds(index, rows, 5, seed=0)
    for label in range(4):
        of_class = folds[[index.pictures[row].label == label for row in rows]]
        assert np.ptp(np.bincount(of_class, minlength=5)) <= 1
    np.testing.assert_array_equal(folds, draw_folds(index, rows, 5, seed=0))
    assert (folds != draw_folds(index, rows, 5, seed=1)).any()


def test_lookalikes_are_in_one_fold_also_across_classes() -> None:
    folds = draw_folds(index_of(lookalikes()), range(600), 5, seed=0)
    assert set(folds) == set(range(5))
    np.testing.assert_array_equal(folds[::2], folds[1::2])


def test_fractions_that_leave_nothing_are_refused(index: ImageIndex) -> None:
    for val, test in ((0.0, 0.2), (0.15, 0.0), (0.5, 0.5), (float("nan"), 0.2)):
        with pytest.raises(UserError, match="must be above 0 and add up to less than 1"):
            split_index(index, seed=0, val_fraction=val, test_fraction=test)


def test_its_own_test_folder_is_the_test_set_and_train_pictures_like_it_are_left_out() -> None:
    train = [picture(number, number % 2, "train") for number in range(1000)]
    test = [picture(2000 + number, number % 2, "test") for number in range(100)]
    leak = [picture(3000, 0, "train", appearance="look 2001"), picture(3001, 1, "train", appearance="look 2003")]
    index = index_of(train + test + leak)
    splits = split_index(index, seed=0)
    assert splits.test == tuple(range(1000, 1100))
    assert splits.left_out == (1100, 1101)
    assert sorted([*splits.train, *splits.val]) == list(range(1000))
    assert 0.15 < len(splits.val) / 1000 < 0.23  # 0.15 / 0.8


def test_its_own_validation_part_is_kept_and_only_the_test_part_is_drawn() -> None:
    own = index_of(
        [picture(number, number % 2, own_split="train") for number in range(400)]
        + [picture(1000 + number, number % 2, own_split="val", appearance=f"look {number}") for number in range(40)]
    )
    splits = split_index(own, seed=0)
    assert {own.pictures[i].own_split for i in splits.val} == {"val"}
    assert len(splits.val) == len(splits.left_out) == 40  # the training pictures that look like them
    assert {own.pictures[i].own_split for i in (*splits.train, *splits.test)} == {"train"}
    assert len(splits.test) / 360 == pytest.approx(0.2 / 0.85, abs=0.06)


def test_with_three_parts_of_its_own_nothing_is_drawn_and_lookalikes_stay_in_the_test_part() -> None:
    own = index_of(
        [picture(number, number % 2, own_split="train") for number in range(40)]
        + [
            picture(100 + number, number % 2, own_split="val", appearance=f"look {200 + number}")
            for number in range(10)
        ]
        + [picture(200 + number, number % 2, own_split="test") for number in range(4)]
    )
    splits = split_index(own, seed=0)
    parts = {side: [own.pictures[i].own_split for i in getattr(splits, side)] for side in ("train", "val", "test")}
    assert parts == {"train": ["train"] * 40, "val": ["val"] * 6, "test": ["test"] * 4}
    assert [own.pictures[i].own_split for i in splits.left_out] == ["val"] * 4


def test_a_class_missing_from_its_own_test_folder_is_refused() -> None:
    pictures = [picture(number, number % 2, "train") for number in range(20)] + [picture(30, 0, "test")]
    with pytest.raises(UserError, match=r"'class 1' .* has no pictures in the test part"):
        split_index(index_of(pictures), seed=0)


def test_the_table_names_the_side_of_every_picture(index: ImageIndex, tmp_path: Path) -> None:
    index = replace(index, classes=('with "quotes", comma', "b", "c", "d"))
    splits = split_index(index, seed=0)
    path = tmp_path / "results" / "split.csv"
    write_split_table(index, splits, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["split"] for row in rows} == sides(index, splits)
    assert rows[0] == {
        "path": "0/0.jpg",
        "class": 'with "quotes", comma',
        "bytes_sha256": "0" * 64,
        "pixels_sha256": "0" * 64,
        "split": sides(index, splits)["0/0.jpg"],
    }
    assert [file.name for file in path.parent.iterdir()] == ["split.csv"]


def test_the_digest_knows_the_split_and_the_content_but_not_the_folder(index: ImageIndex) -> None:
    splits = split_index(index, seed=0)
    digest = split_digest(index, splits)
    assert digest == split_digest(replace(index, folder=Path("/elsewhere")), splits)
    assert digest != split_digest(index, split_index(index, seed=1))
    other = (replace(index.pictures[0], pixels_sha256="1" * 64), *index.pictures[1:])
    assert digest != split_digest(replace(index, pictures=other), splits)
