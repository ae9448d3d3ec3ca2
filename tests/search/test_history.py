"""The search as plain values, from a real study."""

import warnings
from datetime import datetime, timedelta

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from wastetune.search.history import ENOUGH_TRIALS, rank_parameters, read_history

SPACE = {
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "layers": IntDistribution(0, 2),
    "optimizer": CategoricalDistribution(["adamw", "adam"]),
}


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize")


def add(study, state=TrialState.COMPLETE, value=None, told=(), attrs=(), **params):
    given = {"learning_rate": 1e-2, "layers": 1, "optimizer": "adam", **params}
    trial = create_trial(
        state=state,
        value=value,
        params=given,
        distributions=SPACE,
        intermediate_values=dict(told),
        user_attrs={"config": given, **dict(attrs)},
    )
    trial.datetime_start = datetime(2026, 1, 1)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=30)
    study.add_trial(trial)


def test_trials_come_with_state_score_seconds_and_what_they_left(study):
    left = {"activation_seconds": 20.0, "trainable_parameters": 99, "default": True, "best_epoch": 2}
    add(study, value=0.8, attrs={**left, "history": [{"number": 1}]})
    add(study, TrialState.PRUNED, told={2: 0.3, 1: 0.5})
    add(study, TrialState.PRUNED)
    add(study, TrialState.FAIL, attrs={"failure": "it burned"})
    add(study, TrialState.FAIL, attrs={"failure": "one too many", "void": True})
    study.ask()
    history = read_history(study)
    told = [(trial.number, trial.state, trial.score) for trial in history.trials]
    assert told == [(0, "complete", 0.8), (1, "pruned", 0.3), (2, "pruned", None), (3, "failed", None)]
    first = history.trials[0]
    assert (first.seconds, first.parameters, first.default, first.best_epoch) == (10.0, 99, True, 2)
    assert [dict(epoch) for epoch in first.epochs] == [{"number": 1}]
    assert history.trials[3].failure == "it burned"
    searched = history.searched
    assert (searched["learning_rate"].log, searched["learning_rate"].whole) == (True, False)
    assert (searched["layers"].log, searched["layers"].whole) == (False, True)
    assert searched["optimizer"].options == ("adamw", "adam")


def test_the_parameter_that_decides_ranks_first_and_the_shares_add_up(study):
    for i in range(40):
        rate = 10 ** -(1 + 3 * (i * 0.618 % 1))
        add(study, value=rate, learning_rate=rate, layers=i % 3, optimizer=["adamw", "adam"][i % 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = rank_parameters(study)
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.02, None])
def test_the_ranges_of_importances_tell_a_parameter_that_matters_from_noise(study, noise):
    rng = np.random.default_rng(0)
    for i in range(40):
        rate = float(10 ** -(1 + 3 * rng.random()))
        value = float(rng.random() if noise is None else rate + noise * rng.random())
        add(study, value=value, learning_rate=rate, layers=int(rng.integers(3)), optimizer=["adamw", "adam"][i % 2])
    history = read_history(study)
    assert history.importance_spread.keys() == history.importance.keys()
    for key, (low, high) in history.importance_spread.items():
        assert 0 <= low <= history.importance[key] <= high <= 1
    first, second, *_ = (history.importance_spread[key] for key in history.importance)
    assert (first[0] > second[1]) == (noise is not None)
    assert read_history(study).importance_spread == history.importance_spread  # the same page again


def test_ten_trials_cannot_tell_which_parameter_mattered(study):
    for i in range(ENOUGH_TRIALS - 1):
        add(study, value=i / 20, learning_rate=10 ** -(1 + i / 10), layers=i % 3)
    history = read_history(study)
    assert (history.importance, history.importance_spread) == ({}, {})
    add(study, value=0.5, learning_rate=1e-3)
    assert read_history(study).importance


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.6], [0.5] * 24])
def test_what_cannot_be_told_is_not_told(study, values):
    for i, value in enumerate(values):
        add(study, value=value, learning_rate=10 ** -(1 + i / 10), layers=i % 3)
    assert rank_parameters(study) == {}


def test_a_study_without_parameters_has_no_importance(study):
    for _ in range(6):
        study.add_trial(create_trial(value=0.5))
    assert rank_parameters(study) == {}
