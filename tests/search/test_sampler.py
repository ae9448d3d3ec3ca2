"""What to try next, in memory: the same whether a worker has been there all along or has just come."""

from dataclasses import dataclass

import pytest
from optuna.trial import TrialState, create_trial

from wastetune.search.pruner import is_hopeless, is_reported
from wastetune.search.sampler import open_in_memory_study, propose, propose_at_random
from wastetune.training.config import TrialConfig

EPOCHS = 16


def resolve(trial):
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    layers = trial.suggest_int("head_layers", 0, 2)
    width = trial.suggest_int("head_units", 4, 64) if layers else None
    return TrialConfig(
        head_layers=layers, head_units=width, dropout=0.1, learning_rate=rate, batch_size=8, epochs=EPOCHS
    )


@dataclass
class Past:
    """Trials as the database would have them."""

    trials: list

    def add(self, proposal, state=TrialState.COMPLETE, value=None, scores=()):
        trial = create_trial(
            state=state,
            value=value,
            params=proposal.params,
            distributions=proposal.distributions,
            intermediate_values=dict(enumerate(scores, 1)),
        )
        trial.number = len(self.trials)
        self.trials.append(trial)
        return trial


def proposals(memory_of, count=20):
    """What is proposed when the score is the closer to 1e-2 the better, every fifth trial failing."""
    past, made = Past([]), []
    for number in range(count):
        proposal = propose(memory_of(number), past.trials, resolve, seed=number)
        made.append(proposal.config)
        if number % 5 == 4:
            past.add(proposal, TrialState.FAIL)
        else:
            past.add(proposal, value=-abs(proposal.config.learning_rate - 1e-2))
    return made


def test_a_memory_that_grows_proposes_what_a_fresh_one_proposes():
    kept = open_in_memory_study(epochs=EPOCHS)
    growing = proposals(lambda number: kept)
    fresh = proposals(lambda number: open_in_memory_study(epochs=EPOCHS))
    assert growing == fresh
    assert len({config.learning_rate for config in growing}) == 20


def test_the_sampler_learns():
    past = Past([])
    memory = open_in_memory_study(epochs=EPOCHS)
    for number in range(40):
        proposal = propose(memory, past.trials, resolve, seed=number)
        past.add(proposal, value=-abs(proposal.config.learning_rate - 1e-2))
    first, last = past.trials[:8], past.trials[-8:]
    assert sum(trial.value for trial in last) > sum(trial.value for trial in first)


def test_a_running_trial_counts_while_it_runs_and_as_what_it_came_to():
    memory, past = open_in_memory_study(epochs=EPOCHS), Past([])
    running = past.add(propose(memory, [], resolve, seed=0), TrialState.RUNNING)
    propose(memory, past.trials, resolve, seed=1)
    assert [trial.state.name for trial in memory.study.trials if trial.state is TrialState.RUNNING] == []
    assert memory.seen == set()
    running.state, running.value = TrialState.COMPLETE, 0.5
    propose(memory, past.trials, resolve, seed=2)
    propose(memory, past.trials, resolve, seed=3)
    assert [trial.value for trial in memory.study.trials if trial.state is TrialState.COMPLETE] == [0.5]


def test_what_the_sampler_is_not_asked_for_does_not_stay():
    memory = open_in_memory_study(epochs=EPOCHS)
    propose_at_random(memory, resolve, seed=1)
    assert {trial.state for trial in memory.study.trials} == {TrialState.FAIL}


@pytest.mark.parametrize(("score", "hopeless"), [(0.1, True), (0.9, False)])
def test_below_the_median_is_hopeless_but_not_too_early(score, hopeless):
    memory, past = open_in_memory_study(epochs=EPOCHS), Past([])
    for number in range(5):
        past.add(propose(memory, [], resolve, seed=number), value=0.5, scores=[0.5] * EPOCHS)
    propose(memory, past.trials, resolve, seed=9)
    assert is_hopeless(memory.study, {6: score}) is hopeless
    assert not is_hopeless(memory.study, {2: score})


@pytest.mark.parametrize(("epochs", "looks"), [(1, [1]), (6, [1, 2, 3, 4, 5, 6]), (16, [2, 4, 6, 8, 10, 12, 14, 16])])
def test_a_trial_is_reported_a_few_times(epochs, looks):
    assert [epoch for epoch in range(1, epochs + 1) if is_reported(epoch, epochs)] == looks
