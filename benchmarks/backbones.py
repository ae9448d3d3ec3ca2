"""How should a study of several backbones divide its trials?

    python benchmarks/backbones.py

Each study searches the space `head` with three backbones on a made-up response: a best score of each backbone, less
what a head loses by a wrong learning rate (the best one differs by backbone), dropout, width, batch size, augmentation
and class weighting, plus noise as of two seeds of a real head (docs/log.md, samplers). So it shows how the rules behave
where backbones are nearly equal or far apart, and not what real backbones score. The rules: `tpe`, as studies do, a key
`backbone` like any other; `turns`, a TPE for each backbone in turn; `halving`, turns until a third of the trials is
spent, then turns of the two best, and the best alone after two thirds; `known`, the best backbone alone, a bound for
all. All but the last begin with the default of each backbone. Regret: the best noise-free score minus that of the trial
with the best noisy score, which is the one that a study would choose; mean over studies and 95 % interval of the mean.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, print_table
from optuna.trial import FrozenTrial, create_trial
from samplers import EPOCHS, render_interval

from wastetune.console import silence_tensorflow
from wastetune.search.sampler import open_in_memory_study, propose, propose_this
from wastetune.search.space import SearchSpace, default_params, load_space, sample

# Best score of each backbone, and the logarithm to base 10 of its best learning rate.
CASES = {
    "nearly equal": {"a": (0.948, -3.2), "b": (0.950, -2.6), "c": (0.946, -3.6)},
    "a point apart": {"a": (0.940, -3.2), "b": (0.950, -2.6), "c": (0.930, -3.6)},
    "far apart": {"a": (0.900, -3.2), "b": (0.950, -2.6), "c": (0.870, -3.6)},
}
RULES = ("tpe", "turns", "halving", "known")
NOISE = 0.0065
SHOWN = (12, 24, 48)


def response(backbone: tuple[float, float], params: dict[str, Any]) -> float:
    """The noise-free score of a head."""
    best, rate = backbone
    units = params.get("head_units")
    lost = 0.03 * (np.log10(params["learning_rate"]) - rate) ** 2 + 0.06 * (params["dropout"] - 0.35) ** 2
    lost += 0.004 * abs(np.log2(params["batch_size"]) - 6) / 2 + 0.008 * (1 - params["augmentation"])
    lost += 0.004 * (params["class_weighting"] == "balanced")
    lost += 0.006 if units is None else 0.002 * (np.log2(units) - 9) ** 2 / 4 + 0.003 * (params["head_layers"] - 1)
    return best - float(lost)


def search(rule: str, case: dict[str, tuple[float, float]], trials: int, seed: int) -> tuple[list[float], list[str]]:
    """The noise-free score of the best trial so far, after each trial, and the backbone of each."""
    names = tuple(case)
    best = max(names, key=lambda name: case[name][0])
    spaces = {name: load_space("head") for name in names} | {"": load_space("head", backbones=names)}
    memories = {name: open_in_memory_study(epochs=EPOCHS) for name in spaces}
    known: dict[str, list[FrozenTrial]] = {name: [] for name in spaces}
    tops = dict.fromkeys(names, -np.inf)
    draws, chosen, kept, used = np.random.default_rng(seed), (-np.inf, 0.0), [], []
    for number in range(trials):
        probe = names[number] if number < len(names) and rule != "known" else ""
        owner = "" if rule == "tpe" else best if rule == "known" else probe or next_of(rule, tops, number, trials)
        resolve = partial(sample, spaces[owner])
        if probe or not known[owner]:
            proposal = propose_this(default_of(spaces[owner], probe, rule), resolve)
        else:
            proposal = propose(memories[owner], known[owner], resolve, seed=1000 * seed + number)
        backbone = owner or str(proposal.params["backbone"])
        mean = response(case[backbone], proposal.params)
        value = mean + NOISE * draws.normal()
        trial = create_trial(value=value, params=proposal.params, distributions=proposal.distributions)
        trial.number = len(known[owner])
        known[owner].append(trial)
        tops[backbone] = max(tops[backbone], value)
        chosen = max(chosen, (value, mean))
        kept.append(chosen[1])
        used.append(backbone)
    return kept, used


def default_of(space: SearchSpace, probe: str, rule: str) -> dict[str, Any]:
    return default_params(space, probe if rule == "tpe" else None)


def next_of(rule: str, tops: dict[str, float], number: int, trials: int) -> str:
    """Whose turn it is."""
    order = sorted(tops, key=lambda name: -tops[name])
    left = len(order) if rule == "turns" or 3 * number < trials else 2 if 3 * number < 2 * trials else 1
    return order[:left][number % left] if rule == "halving" else list(tops)[number % left]


def measure(asked: argparse.Namespace) -> Iterator[Row]:
    for name, case in asked.cases.items():
        best = max(score for score, _ in case.values())  # of a head that loses nothing
        winner = max(case, key=lambda each: case[each][0])
        for rule in RULES:
            runs = [search(rule, case, asked.trials, seed) for seed in range(asked.seeds)]
            scores = np.array([kept for kept, _ in runs])
            row: Row = {"backbones": name, "rule": rule}
            row |= {f"regret at {n}": render_interval(best - scores[:, n - 1]) for n in SHOWN if n <= asked.trials}
            yield row | {"share of the best": f"{np.mean([[each == winner for each in used] for _, used in runs]):.2f}"}


if __name__ == "__main__":
    silence_tensorflow()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), help="the file to write the figures to")
    asked = parser.parse_args()
    asked.cases = {name: CASES[name] for name in asked.cases}
    print_table(measure(asked), asked.json)
