"""What to try next, in memory: the same whether a worker has been there all along or has just come."""

from dataclasses import dataclass

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from wastetune.search.pruner import build_pruner, is_hopeless, is_reported, open_pruning
from wastetune.search.sampler import open_in_memory_study, propose, propose_at_random, propose_by
from wastetune.search.space import sample
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
            system_attrs=dict(proposal.notes),
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


SPACE = """\
head_layers = { int = [1, 6], default = 1 }
head_units = 8
weight_decay = { float = [1e-6, 1e-2], default = 1e-4, when = "head_layers < 6" }
dropout = { float = [0.0, 0.5], default = 0.3 }
learning_rate = { float = [1e-4, 1e-1], log = true, default = 1e-3 }
batch_size = 8
epochs = 16
"""


@pytest.fixture
def space(write_space):
    return write_space(SPACE)


def search(choice, space, count):
    """The trials of a study by this sampler; each is proposed as by a worker that has just come."""
    past = Past([])
    for number in range(count):
        proposal = propose_by(choice, space, past.trials, lambda trial: sample(space, trial), name="x", seed=number)
        score = 0.1 * proposal.config.head_layers - abs(proposal.config.dropout - 0.1)
        past.add(proposal, TrialState.PRUNED if number % 5 == 4 else TrialState.COMPLETE, value=score)
    return past.trials


@pytest.mark.parametrize(
    "choice",
    ["random", "cmaes", {"class": "tpe", "n_startup_trials": 3}, {"class": "optuna.samplers.NSGAIISampler"}],
    ids=str,
)
def test_any_sampler_proposes_the_same_after_the_same_trials(space, choice):
    if choice == "cmaes":
        pytest.importorskip("cmaes")
    trials = search(choice, space, 20)
    assert [trial.params for trial in trials] == [trial.params for trial in search(choice, space, 20)]
    assert len({trial.params["dropout"] for trial in trials}) == 20


def test_a_genetic_sampler_reaches_later_generations_with_what_was_noted(space):
    choice = {"class": "optuna.samplers.NSGAIISampler", "population_size": 5}
    trials = search(choice, space, 30)
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in trials]
    assert (generations[0], generations[-1]) == (0, 4)
    assert sum(trial.value for trial in trials[-8:]) > sum(trial.value for trial in trials[:8])


def test_cma_es_reaches_later_generations_where_a_condition_leaves_a_key_out(space):
    """With the keys of all trials so far it would model weight_decay, miss it later, and draw at random for ever."""
    pytest.importorskip("cmaes")
    trials = search("cmaes", space, 60)
    first = next(number for number, trial in enumerate(trials) if "weight_decay" not in trial.params)
    assert trials[first].system_attrs["cma:generation"] >= 1
    assert trials[-1].system_attrs["cma:generation"] >= 4
    assert sum(trial.value for trial in trials[-10:]) > sum(trial.value for trial in trials[:10]) + 0.5


@pytest.mark.parametrize("choice", ["successive_halving", "hyperband", "percentile"])
def test_any_pruner_decides_as_in_a_study_of_optunas(choice):
    """Each trial is judged by a worker that has just come, from what was stored with the trials before it."""
    pruner = build_pruner(choice, epochs=16)
    study = optuna.create_study(study_name="mine", direction="maximize", pruner=pruner)
    past, decided = Past([]), []
    for number in range(40):
        level, noted = (number * 7) % 20 / 20, {}
        judge = open_pruning(choice, past.trials, epochs=16, name="mine", number=number, note=noted.__setitem__)
        trial, scores = study.ask(), {}
        for epoch in range(2, 17, 2):
            scores[epoch] = level + epoch / 100
            trial.report(scores[epoch], epoch)
            hopeless = judge(epoch, scores[epoch])
            assert hopeless == trial.should_prune()
            if hopeless:
                break
        state = TrialState.PRUNED if hopeless else TrialState.COMPLETE
        study.tell(trial, None if hopeless else level, state=state)
        assert noted == study.trials[-1].system_attrs
        past.trials.append(
            create_trial(state=state, value=None if hopeless else level, intermediate_values=scores, system_attrs=noted)
        )
        past.trials[-1].number = number
        decided.append(len(scores))
    assert 8 in decided
    assert min(decided) < 8


def test_other_workers_may_have_created_trials_since():
    judge = open_pruning("hyperband", [], epochs=16, name="mine", number=3, note=lambda *_: None)
    assert not judge(2, 0.5)
