"""A limit of time: what may still begin, and what the final model can be made of, by pure functions over trials."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from wastetune.backbones.cuts import PIXELS, TOP, Cut
from wastetune.storage.records import TrialRecord
from wastetune.study.members import find_candidates
from wastetune.study.time_limit import (
    REPORT_SECONDS,
    Pace,
    affordable,
    is_later,
    open_pace,
    retraining_seconds,
    trim_candidates,
)
from wastetune.training.config import TrialConfig
from wastetune.tuning.workers.worker import NotTimed

# An epoch of the whole network takes 3 s, and one of the final model 1.5 times that.
PACE = Pace(
    train=100,
    everything=150,
    views=4,
    forward=lambda backbone: 0.01,
    epoch=lambda config: 3 * (1 - config.frozen_depth),
)
WHOLE = TrialConfig(
    head_layers=0, dropout=0.1, learning_rate=1e-3, batch_size=32, frozen_depth=0.0, epochs=10, patience=10
)
HEAD = WHOLE.model_copy(update={"frozen_depth": 1.0})
HALF = WHOLE.model_copy(update={"frozen_depth": 0.5})
MIDDLE = Cut("middle", 0.5)


def trial(number, score, *, seconds, cut=TOP, default=False, epochs=10):
    return TrialRecord(
        number=number,
        state="complete",
        score=score,
        seconds=seconds * epochs,
        parameters=1,
        default=default,
        config={"epochs": epochs, "frozen_depth": cut.frozen_depth},
        drawn={},
        epochs=[{"seconds": seconds}] * epochs,
        best_epoch=1,
        failure="",
        cut=cut.name,
    )


DEFAULT = trial(0, 0.8, seconds=0.1, default=True)  # fitted again twice: 1 s + 1.5 s


def test_a_head_has_to_leave_time_to_fit_it_and_the_others_again():
    # 1 s for the trial, 1 s and 1.5 s to fit it again, and 2.5 s for the default
    assert affordable(HEAD, TOP, [DEFAULT], REPORT_SECONDS + 6.1, PACE) == HEAD
    assert affordable(HEAD, TOP, [DEFAULT], REPORT_SECONDS + 5.9, PACE) is None


def test_what_a_tail_takes_is_presumed_and_known_after_the_first_one():
    # 30 s for the trial, 45 s for the final model, 2.5 s for the default
    assert affordable(WHOLE, PIXELS, [DEFAULT], REPORT_SECONDS + 78, PACE) == WHOLE
    known = [DEFAULT, trial(1, 0.5, seconds=1.0, cut=PIXELS)]  # is not averaged with a better head
    assert affordable(WHOLE, PIXELS, known, REPORT_SECONDS + 28, PACE) == WHOLE


def test_a_tail_that_is_too_long_has_fewer_epochs_but_at_least_half_or_twelve():
    shorter = affordable(WHOLE, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 7.5 * 6.5, PACE)
    assert shorter == WHOLE.model_copy(update={"epochs": 6})
    assert affordable(WHOLE, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 7.5 * 4.5, PACE) is None
    many = WHOLE.model_copy(update={"epochs": 48})
    assert affordable(many, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 7.5 * 12.5, PACE).epochs == 12
    assert affordable(many, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 7.5 * 11.5, PACE) is None


def test_a_tail_is_not_stopped_by_its_patience_because_it_would_be_fitted_again_to_be_compared():
    impatient = {"patience": 3}
    whole, head = WHOLE.model_copy(update=impatient), HEAD.model_copy(update=impatient)
    assert affordable(whole, PIXELS, [DEFAULT], REPORT_SECONDS + 78, PACE) == WHOLE
    shorter = affordable(whole, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 7.5 * 6.5, PACE)
    assert (shorter.epochs, shorter.patience) == (6, 6)
    assert affordable(head, TOP, [DEFAULT], REPORT_SECONDS + 7.0, PACE) == head


def test_a_step_is_timed_only_where_there_may_be_time():
    def epoch(config):
        pytest.fail("a step was timed")

    # 5 epochs, the fewest, of 100 and of 150 pictures, for two passes at least: 25 s
    pace = replace(PACE, epoch=epoch)
    assert affordable(WHOLE, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 24.9, pace) is None
    with pytest.raises(pytest.fail.Exception):
        affordable(WHOLE, PIXELS, [DEFAULT], REPORT_SECONDS + 2.5 + 25.1, pace)


@pytest.mark.parametrize(("frozen_depth", "live_depth"), [(0.0, 0.0), (2 / 3, 0.0), (2 / 3, 1.0)])
def test_a_step_of_a_tail_is_timed_and_leaves_the_backbone_as_it_was(prepared, frozen_depth, live_depth):
    context, before = prepared.context, prepared.context.backbone.body.get_weights()
    changes = {"frozen_depth": frozen_depth, "live_depth": live_depth, "augmentation": 0.5, "batch_size": 4}
    config = WHOLE.model_copy(update=changes)
    pace = open_pace(context)
    for _ in ("a step", "a forward pass"):
        with pytest.raises(NotTimed) as unknown:
            pace.epoch(config)
        unknown.value.measure()
    assert 1e-4 < (epoch := pace.epoch(config)) < 100
    assert pace.epoch(config) == epoch
    after = context.backbone.body.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_tail_has_to_leave_time_for_the_heads_beside_it():
    known = [DEFAULT, trial(1, 0.9, seconds=0.2)]
    # 30 s for the trial, 45 s for the final model, 2.5 s for the default and 5 s for the head
    assert affordable(WHOLE, PIXELS, known, REPORT_SECONDS + 82.6, PACE) == WHOLE
    assert affordable(WHOLE, PIXELS, known, REPORT_SECONDS + 82.4, PACE).epochs == 9


def test_another_tail_has_to_leave_time_for_the_best_before_it_too():
    known = [DEFAULT, trial(1, 0.9, seconds=2.0, cut=PIXELS)]
    # 20 s for the trial, twice 30 s for the final model, 1 s and 1.5 s for the default
    assert affordable(WHOLE, PIXELS, known, REPORT_SECONDS + 82.6, PACE) == WHOLE
    assert affordable(WHOLE, PIXELS, known, REPORT_SECONDS + 82.4, PACE).epochs == 9


def test_an_unknown_cut_also_needs_its_activations():
    # an epoch of half of the layers is 1.5 s: 15 s and 22.5 s; activations of 4 x 150 pictures and 50 more: 6.5 s
    assert affordable(HALF, MIDDLE, [DEFAULT], REPORT_SECONDS + 2.5 + 37.5 + 6.6, PACE) == HALF
    assert affordable(HALF, MIDDLE, [DEFAULT], REPORT_SECONDS + 2.5 + 37.5 + 6.4, PACE).epochs == 9


def test_views_that_are_live_need_no_stored_ones_and_their_own_known_trials():
    # 3 s an epoch: 30 s and 45 s; activations of the plain pictures alone, the test's too: 2 s
    pace = replace(PACE, epoch=lambda config: 3.0 if config.has_live_views else 1.5)
    live = HALF.model_copy(update={"live_depth": 0.5, "augmentation": 1.0})
    left = REPORT_SECONDS + 2.5 + 75 + 2.1
    assert affordable(live, MIDDLE, [DEFAULT], left, pace) == live
    assert affordable(live, MIDDLE, [DEFAULT], left - 0.2, pace).epochs == 9
    stored = trial(1, 0.5, seconds=9.0, cut=MIDDLE)
    assert affordable(live, MIDDLE, [DEFAULT, stored], left, pace) == live
    known = replace(stored, config={"epochs": 10, "frozen_depth": 0.5, "live_depth": 0.5})
    assert affordable(live, MIDDLE, [DEFAULT, known], left, pace) is None


def test_what_the_trunk_makes_of_the_validation_and_the_test_pictures_is_reckoned_at_each_cut():
    first = replace(DEFAULT, activation_seconds=20.0)  # of 100 pictures; 50 more take 10 s
    tail = trial(1, 0.9, seconds=2.0, cut=MIDDLE)
    whole = trial(2, 0.9, seconds=2.0, cut=PIXELS)
    assert retraining_seconds([first], PACE) == pytest.approx(2.5 + 10)
    assert retraining_seconds([first, tail], PACE) == pytest.approx(2.5 + 30 + 20)
    assert retraining_seconds([first, whole], PACE) == pytest.approx(2.5 + 30 + 10)


def test_tails_come_after_some_heads_and_heads_at_once():
    heads = [create_trial(value=0.5, user_attrs={"cut": TOP.name}) for _ in range(20)]
    lost = create_trial(state=TrialState.FAIL, user_attrs={"cut": TOP.name})
    assert [is_later(MIDDLE, known) for known in (heads[:-1], [*heads[:-1], lost], heads)] == [True, True, False]
    assert not is_later(TOP, heads[:1])


def test_what_was_stopped_early_is_fitted_once_more_to_be_compared():
    whole = trial(1, 0.9, seconds=2.0, cut=PIXELS)
    stopped = replace(whole, epochs=whole.epochs[:6])
    assert retraining_seconds([whole], PACE) == pytest.approx(30)
    assert retraining_seconds([stopped], PACE) == pytest.approx(50)


@pytest.mark.parametrize(("left", "members"), [(100, [2, 1, 0]), (62, [2, 0]), (0, [2, 0])])
def test_as_many_are_averaged_as_there_is_time_for_the_winner_and_the_default_in_any_case(left, members):
    trials = [DEFAULT, trial(1, 0.9, seconds=2.0, cut=PIXELS), trial(2, 0.95, seconds=2.0, cut=PIXELS)]
    assert retraining_seconds(trials, PACE) == pytest.approx(62.5)
    trimmed = trim_candidates(find_candidates(trials, validated=1), PACE, left + REPORT_SECONDS)
    assert [each.number for each in trimmed.together] == members


@pytest.mark.parametrize(("left", "members", "epochs"), [(33, [1, 0], {}), (25, [1, 0], {1: 7}), (17, [1, 0], {})])
def test_a_whole_network_is_rather_fitted_further_for_fewer_epochs(left, members, epochs):
    # 2.5 s for the default, and 3 s for each of 10 epochs, of which half are left at least
    trials = [DEFAULT, trial(1, 0.9, seconds=2.0, cut=PIXELS)]
    trimmed = trim_candidates(find_candidates(trials, validated=100), PACE, left + REPORT_SECONDS)
    assert ([each.number for each in trimmed.trials], trimmed.epochs) == (members, epochs)


def test_a_network_with_too_little_time_is_left_out_before_a_better_head():
    trials = [DEFAULT, trial(1, 0.94, seconds=2.0, cut=PIXELS), trial(2, 0.95, seconds=0.2)]
    for left, members, epochs in ((40, [2, 0, 1], {}), (30, [2, 0, 1], {1: 7}), (20, [2, 0], {})):
        trimmed = trim_candidates(find_candidates(trials, validated=1000), PACE, left + REPORT_SECONDS)
        assert (sorted(each.number for each in trimmed.trials), trimmed.epochs) == (sorted(members), epochs)
