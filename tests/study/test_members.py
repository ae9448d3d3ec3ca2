"""What the final model is made of: pure functions over trials and held-out probabilities."""

import numpy as np
import pytest

from wastetune.evaluation.objectives import Goals
from wastetune.storage.records import TrialRecord
from wastetune.study.members import HEADS, TAILS, find_candidates, select_members


def trial(number, score, *, default=False, cut="top", state="complete", backbone=None, ms=None):
    return TrialRecord(
        number=number,
        state=state,
        score=score,
        seconds=1.0,
        parameters=10,
        default=default,
        config={"backbone": backbone} if backbone else {},
        drawn={},
        epochs=(),
        best_epoch=1,
        failure="",
        cut=cut,
        costs={} if ms is None else {"latency_ms": ms},
    )


def candidates_of(trials, **options):
    return find_candidates(trials, **{"validated": 100, **options})


def numbers(trials):
    return [each.number for each in trials]


def test_the_best_heads_and_the_default_are_averaged():
    trials = [trial(0, 0.1, default=True), *(trial(n, 0.5 + n / 100) for n in range(1, 9))]
    found = candidates_of(trials)
    assert numbers(found.together) == [8, 7, 6, 5, 4, 0]
    assert len(found.together) == HEADS + 1
    assert numbers(found.trials) == numbers(found.together)


def test_heads_that_are_surely_below_the_best_one_are_left_out_but_not_the_default():
    trials = [trial(0, 0.6, default=True), trial(1, 0.9), trial(2, 0.82), trial(3, 0.8)]
    assert numbers(candidates_of(trials, validated=100).together) == [1, 2, 0]  # .09
    assert numbers(candidates_of(trials, validated=50).together) == [1, 2, 3, 0]


def test_a_default_among_the_best_is_counted_once_and_of_equal_scores_the_earlier_is_better():
    found = candidates_of([trial(0, 0.85, default=True), trial(1, 0.85), trial(2, 0.9)])
    assert numbers(found.together) == [2, 0, 1]


def test_a_tail_is_averaged_with_tails_within_one_standard_error_and_heads_within_three():
    tails = [trial(1, 0.9, cut="block"), trial(2, 0.88, cut="block"), trial(3, 0.86, cut="top_block")]
    trials = [trial(0, 0.82, default=True), *tails, trial(4, 0.86), trial(5, 0.8)]
    assert numbers(candidates_of(trials, validated=100).together) == [1, 2, 4, 0]  # .03 and .09
    assert numbers(candidates_of(trials, validated=400).together) == [1, 4]  # .015 and .045
    assert numbers(candidates_of(trials, validated=400).trials) == [1, 4, 0]
    assert numbers(candidates_of(trials, validated=50).together) == [1, 2, 3, 4, 0, 5]  # .042 and .127


def test_a_whole_network_is_the_winner_unless_a_head_is_better_by_more_than_a_standard_error():
    heads = [trial(0, 0.5, default=True), trial(1, 0.9), trial(2, 0.89), trial(3, 0.88)]
    found = candidates_of([*heads, trial(4, 0.885, cut="pixels"), trial(5, 0.85, cut="pixels")], validated=100)  # .03
    assert numbers(found.together) == [4, 1, 2, 3]
    found = candidates_of([*heads, trial(4, 0.86, cut="pixels")], validated=100)
    assert numbers(found.together) == [1, 2, 3, 4, 0]
    found = candidates_of([*heads, trial(4, 0.885, cut="block_7")], validated=100)
    assert numbers(found.together) == [1, 2, 3, 4, 0]
    assert numbers(candidates_of([*heads, trial(4, 0.885, cut="pixels")], alone=True).together) == [1]


def test_beside_a_head_the_best_tail_is_averaged_within_three_standard_errors_and_others_within_one_of_it():
    tails = [trial(3, 0.84, cut="block"), trial(4, 0.82, cut="pixels"), trial(5, 0.8, cut="block")]
    trials = [trial(0, 0.7, default=True), trial(1, 0.9), trial(2, 0.89), *tails]
    assert numbers(candidates_of(trials, validated=100).together) == [1, 2, 3, 4, 0]  # .09 and .037
    assert numbers(candidates_of(trials, validated=220).together) == [1, 2, 3, 4, 0]  # .061 and .025
    assert numbers(candidates_of(trials, validated=240).together) == [1, 2, 0]  # .058


def test_pruned_and_failed_trials_are_no_candidates():
    trials = [trial(0, 0.5, default=True), trial(1, 0.99, state="pruned"), trial(2, None, state="failed")]
    assert numbers(candidates_of(trials).together) == [0]
    with pytest.raises(ValueError, match="default"):
        candidates_of(trials[1:])


def test_so_many_tails_and_heads_are_averaged_and_the_default():
    tails = [trial(n, 0.8 - n / 100, cut=f"block_{n}") for n in range(2, 6)]
    heads = [trial(n, 0.84 - n / 100) for n in range(10, 17)]
    found = candidates_of([trial(0, 0.6, default=True), *tails, *heads], validated=25)
    assert numbers(found.together) == [2, 3, 4, 10, 11, 12, 13, 14, 0]
    assert len(found.together) == TAILS + HEADS + 1
    assert numbers(found.trials) == numbers(found.together)


def test_a_default_with_a_tail_is_not_averaged_where_it_is_far_below_but_kept_where_it_is_better():
    trials = [trial(0, 0.5, default=True, cut="block_7"), trial(1, 0.85), trial(2, 0.9)]
    found = candidates_of(trials)
    assert numbers(found.together) == [2, 1]
    assert numbers(found.trials) == [2, 1, 0]
    better = select_members(LABELS, {2: said(0), 1: said(0), 0: said(0, 1)}, found, "accuracy")
    assert (better.kind, better.members, better.weights) == ("default", (0,), ())


def test_without_an_ensemble_the_winner_is_compared_with_the_default():
    found = candidates_of([trial(0, 0.5, default=True), trial(1, 0.85), trial(2, 0.9)], alone=True)
    assert (numbers(found.together), numbers(found.trials)) == ([2], [2, 0])


LABELS = np.array([0, 0, 1, 1])


def said(*right):
    """Probabilities that are right about these pictures and wrong about the others."""
    predicted = np.where(np.isin(np.arange(4), right), LABELS, 1 - LABELS)
    return np.eye(2)[predicted] * 0.8 + 0.1


def test_members_that_are_better_together_are_kept_together():
    found = candidates_of([trial(0, 0.5, default=True), trial(1, 0.85), trial(2, 0.9)])
    held_out = {2: said(0, 1, 2), 1: said(1, 2, 3), 0: said(0, 3)}
    chosen = select_members(LABELS, held_out, found, "accuracy")
    assert (chosen.kind, chosen.members) == ("ensemble", (2, 1, 0))
    assert (chosen.score, chosen.default_score) == (1.0, 0.5)


def test_the_tails_together_have_half_of_the_weight():
    found = candidates_of([trial(0, 0.87, default=True), trial(1, 0.86), trial(2, 0.9, cut="pixels"), trial(3, 0.85)])
    right, unsure_and_wrong = said(0, 1, 2, 3), 0.7 - 0.5 * said(0, 1, 2, 3)  # .9 and .25 for the true class
    held_out = {2: right, **dict.fromkeys((0, 1, 3), unsure_and_wrong)}
    chosen = select_members(LABELS, held_out, found, "accuracy")
    assert (chosen.members, chosen.weights) == ((2, 0, 1, 3), (0.5, 1 / 6, 1 / 6, 1 / 6))
    assert (chosen.score, chosen.default_score) == (1.0, 0.0)  # .41 for the true class with equal weights


@pytest.mark.parametrize(("alone", "kept"), [(True, ("default", (0,), 1.0)), (False, ("ensemble", (2, 1, 0), 0.25))])
def test_a_default_that_is_better_on_held_out_pictures_is_kept_unless_it_is_averaged(alone, kept):
    found = candidates_of([trial(0, 0.5, default=True), trial(1, 0.85), trial(2, 0.9)], alone=alone)
    held_out = {2: said(0), 1: said(0), 0: said(0, 1, 2, 3)}
    chosen = select_members(LABELS, held_out, found, "accuracy")
    assert (chosen.kind, chosen.members, chosen.score) == kept


def test_a_winner_alone_is_told_as_such_and_the_default_alone_as_the_default():
    tail = candidates_of([trial(0, 0.5, default=True), trial(2, 0.9, cut="block_7")], alone=True)
    chosen = select_members(LABELS, {2: said(0, 1, 2), 0: said(0, 1)}, tail, "accuracy")
    assert (chosen.kind, chosen.members) == ("best", (2,))
    alone = candidates_of([trial(0, 0.5, default=True)])
    assert select_members(LABELS, {0: said(0)}, alone, "accuracy").kind == "default"


def test_of_several_backbones_only_trials_of_the_winner_s_are_averaged_and_its_default_is_the_one():
    small = [trial(0, 0.80, default=True, backbone="small"), trial(2, 0.90, backbone="small")]
    large = [trial(1, 0.70, default=True, backbone="large"), trial(3, 0.91, backbone="large")]
    found = candidates_of([*small, *large, trial(4, 0.89, backbone="large")])
    assert numbers(found.together) == [3, 4, 1]
    assert found.default.number == 1
    assert numbers(candidates_of(small + large[:1]).together) == [2, 0]
    with pytest.raises(ValueError, match="default"):
        candidates_of([*small, large[1]])


def test_a_limit_holds_for_every_member_and_for_the_default_too():
    goals = Goals(("latency_ms",), {"latency_ms": 5.0})
    trials = [trial(0, 0.95, default=True, ms=6), trial(1, 0.9, ms=4), trial(2, 0.85, ms=5), trial(3, 0.99, ms=7)]
    found = candidates_of(trials, goals=goals)
    assert numbers(found.together) == [1, 2]
    assert numbers(found.trials) == [1, 2, 0]  # it is fitted, to be compared with
    held_out = {number: np.eye(2)[[0, 1] if number == 0 else [1, 0]] for number in (0, 1, 2)}
    chosen = select_members(np.array([0, 1]), held_out, found, "accuracy")
    assert (chosen.kind, chosen.members, chosen.default_score) == ("ensemble", (1, 2), 1.0)
    alone = candidates_of(trials, alone=True, goals=goals)
    assert select_members(np.array([0, 1]), held_out, alone, "accuracy").kind == "best"
    with pytest.raises(ValueError, match="within the limits"):
        candidates_of(trials, goals=Goals(("latency_ms",), {"latency_ms": 1.0}))


def test_of_equal_scores_the_cheaper_trial_is_better():
    found = candidates_of([trial(0, 0.7, default=True, ms=3), trial(1, 0.7, ms=2), trial(2, 0.6, ms=1)])
    assert numbers(found.together) == [1, 0, 2]
