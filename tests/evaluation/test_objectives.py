"""The objectives of a study: what a file may say, the limits, the Pareto front."""

import numpy as np
import optuna
import pytest

from wastetune.evaluation.objectives import Goals, pareto_front, read_objectives, render_brief, render_costs


def test_objectives_imply_the_metric_and_no_pruner_and_the_score_comes_first():
    read = read_objectives({"objectives": ["latency_ms", "accuracy", "parameters"], "max_latency_ms": 5})
    assert read["objectives"] == ("accuracy", "latency_ms", "parameters")
    assert (read["metric"], read["pruner"]) == ("accuracy", "none")
    assert read_objectives(read) == read
    assert read_objectives({"trials": 3}) == {"trials": 3}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objectives": ["macro_f1"]}, "one score .* and at least one cost"),
        ({"objectives": ["latency_ms"]}, "one score"),
        ({"objectives": ["macro_f1", "accuracy", "latency_ms"]}, "one score"),
        ({"objectives": ["macro_f1", "latency_ms", "latency_ms"]}, "one score"),
        ({"objectives": "macro_f1"}, "must be a list"),
        ({"objectives": [1, "latency_ms"]}, "must be a list"),
        ({"objectives": ["macro_f1", "latncy_ms"]}, "did you mean latency_ms"),
        ({"max_latency_ms": 5}, 'max_latency_ms = 5 needs .*"latency_ms"'),
        ({"objectives": ["macro_f1", "parameters"], "max_megabytes": 5}, "is no objective: add megabytes"),
        ({"objectives": ["macro_f1", "parameters"], "metric": "accuracy"}, "leave metric out"),
        ({"objectives": ["macro_f1", "parameters"], "pruner": "median"}, "leave pruner out"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(values, words):
    with pytest.raises(ValueError, match=words) as error:
        read_objectives(values)
    assert "\n" not in str(error.value)


def test_the_front_is_optunas():
    rng = np.random.default_rng(0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    values = [[float(one) for one in rng.integers(0, 8, 3)] for _ in range(60)]
    for each in values:
        study.add_trial(optuna.trial.create_trial(values=each))
    front = pareto_front(values)
    assert {tuple(values[i]) for i in front} == {tuple(trial.values) for trial in study.best_trials}
    assert len({tuple(values[i]) for i in front}) == len(front)  # of equal ones, one
    assert [values[i][1] for i in front] == sorted(values[i][1] for i in front)


def test_a_limit_is_kept_up_to_its_value():
    goals = Goals(("latency_ms",), {"latency_ms": 4.0})
    assert goals.allow({"latency_ms": 4.0})
    assert not goals.allow({"latency_ms": 4.1})
    assert goals.excess({"latency_ms": 5.0}) == {"latency_ms": 0.25}
    assert Goals().allow({})


def test_costs_are_told_with_their_units():
    costs = {"latency_ms": 2.9, "megabytes": 2.813, "parameters": 696414.0}
    assert render_costs(costs, {"latency_ms": 5}) == (
        "latency 2.9 ms (limit 5 ms), file size 2.813 MB, parameters 696,414"
    )
    assert render_brief(costs) == "2.9 ms, 2.813 MB, 696,414 parameters"
