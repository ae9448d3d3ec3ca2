"""Which sampler finds the best head in how many trials?

    python benchmarks/samplers.py collect --folder samplers
    python benchmarks/samplers.py search --folder samplers
    python benchmarks/samplers.py compare --folder samplers

`collect` trains heads of random configurations of the space `head`, keeps their validation scores, and trains the first
20 with a second seed; it goes on where it was stopped. `search` lets each sampler search a surrogate: a random forest
fitted on these scores (as in Eggensperger et al. 2015), plus noise as of two seeds of a configuration above the median.
Every study begins with the default; nothing is pruned. `compare` prints the forest's out-of-fold correlation, and the
regret of the studies after so many trials: the best noise-free score that any study or 16,384 points of a Sobol
sequence reach, minus that of the trial with the best noisy score, which is the one that a study would choose. Means
over studies with the 95 % interval of the mean, also of the difference to TPE with the same seeds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from common import Row, prepare, print_table, write_study
from optuna.trial import create_trial

from wastetune.console import open_console, silence_tensorflow
from wastetune.search.choice import GRID, QMC, TPE
from wastetune.search.points import sobol_points, walk_grid
from wastetune.search.sampler import (
    Proposal,
    open_in_memory_study,
    propose,
    propose_at_random,
    propose_by,
    propose_this,
)
from wastetune.search.space import default_params, load_space, sample
from wastetune.tuning.objective import choose_config, run_trial

BACKBONE = {"backbone": "mobilenet_v3_small_075", "weights": "imagenet", "space": "head"}
SAMPLERS = ("tpe", "gp", "cmaes", "random", "qmc", "grid", "optuna.samplers.NSGAIISampler")
ARGUMENTS = {"optuna.samplers.NSGAIISampler": {"population_size": 20}}  # 50 would be half of the trials
REPEATED = 20
SHOWN = (10, 25, 50, 100)
EPOCHS = 40
LOG = ("learning_rate", "weight_decay", "head_units")
Score = Callable[[dict[str, Any]], float]


def collect(case: str, count: int, seconds: float, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as here, chdir(here):
        context = prepare(write_study("study", dataset=case, **BACKBONE)).context
    memory, console = open_in_memory_study(epochs=EPOCHS), open_console(quiet=True)
    started = time.monotonic()
    path = folder / f"{case}.jsonl"
    done = [row["number"] for row in read_rows(path)] if path.exists() else []
    with path.open("a") as file:
        for number in range(max(done, default=-1) + 1, count):
            proposal = propose_at_random(memory, lambda trial: choose_config(trial, context), seed=number)
            for seed in (number, number + 10_000)[: 2 if number < REPEATED else 1]:
                fitted = run_trial(proposal.config, seed, context, console.bar, lambda epoch: None).fit
                row = {"number": number, "seed": seed, "params": proposal.params, "score": fitted.best.score}
                print(json.dumps(row), file=file, flush=True)
            if time.monotonic() - started > seconds:
                break


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def search_all(asked: argparse.Namespace) -> None:
    space = load_space("head")
    for case in asked.cases:
        score, noise = fit_surrogate(read_rows(asked.folder / f"{case}.jsonl"), case)
        for name in asked.samplers:
            seeds = range(min(asked.seeds, asked.gp_seeds) if name == "gp" else asked.seeds)
            runs = [search(name, space, score, noise, asked.trials, seed) for seed in seeds]
            kept = {"scores": [scores for scores, _ in runs], "seconds": [spent for _, spent in runs]}
            (asked.folder / f"{case}-{name}.json").write_text(json.dumps(kept))
            print(case, name, "done", flush=True)


def compare(asked: argparse.Namespace) -> Iterator[Row]:
    space = load_space("head")
    for case in asked.cases:
        score, _ = fit_surrogate(read_rows(asked.folder / f"{case}.jsonl"), case)
        spread = islice(sobol_points(space, seed=0, place=0), 2**14)
        best = score([propose_this(each, partial(sample, space)).params for each in spread]).max()
        files = {name: asked.folder / f"{case}-{name}.json" for name in asked.samplers}
        found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
        best = max(best, *(np.max(each["scores"]) for each in found.values()))
        for name, each in found.items():
            scores = np.array(each["scores"])  # (studies, trials)
            row: Row = {"data": case, "sampler": name.rpartition(".")[2], "studies": len(scores)}
            for shown in SHOWN:
                if shown <= scores.shape[1]:
                    row[f"regret at {shown}"] = render_interval(best - scores[:, shown - 1])
            if TPE in found and name != TPE:  # the studies of a seed have the same default and the same draws of noise
                theirs = np.array(found[TPE]["scores"])[: len(scores)]
                row |= {f"more than tpe at {n}": render_interval((theirs - scores)[:, n - 1]) for n in SHOWN[-2:]}
            yield row | {"s a proposal, the last 10": float(np.mean(np.array(each["seconds"])[:, -10:]))}


def render_interval(values: Any) -> str:
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.4f} ± {half:.4f}"


def fit_surrogate(rows: list[dict[str, Any]], case: str) -> tuple[Any, float]:
    """The mean scores of parameters, as a forest predicts them, and the standard deviation of one score."""
    from scipy.stats import spearmanr
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.model_selection import cross_val_predict

    single = {row["number"]: row for row in reversed(rows)}
    pairs = [[row["score"] for row in rows if row["number"] == number] for number in range(REPEATED)]
    scores = np.array([np.mean([r["score"] for r in rows if r["number"] == number]) for number in single])
    encoder = DictVectorizer(sparse=False).fit([encode(row["params"]) for row in single.values()])
    features = encoder.transform([encode(row["params"]) for row in single.values()])
    forest = RandomForestRegressor(300, min_samples_leaf=2, max_features=0.5, random_state=0)
    held_out = cross_val_predict(forest, features, scores, cv=10)
    good = scores >= np.median(scores)
    noise = float(np.sqrt(np.mean([np.var(pair, ddof=1) for pair in pairs if np.mean(pair) >= np.median(scores)])))
    print(
        f"{case}: {len(scores)} configurations, scores {scores.min():.3f} to {scores.max():.3f}, noise {noise:.4f}; "
        f"forest out of fold: Spearman {spearmanr(held_out, scores)[0]:.2f} "
        f"(of the better half {spearmanr(held_out[good], scores[good])[0]:.2f}), "
        f"root mean squared error {np.sqrt(np.mean((held_out - scores) ** 2)):.4f}",
        flush=True,
    )
    forest.fit(features, scores)
    return lambda many: forest.predict(encoder.transform([encode(params) for params in many])), noise


def encode(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as features: choices as texts, some on a log scale; one that has no effect lies below all others."""
    told = {key: np.log(value) if key in LOG else value for key, value in params.items()}
    told["batch_size"] = np.log2(params["batch_size"])
    return {"weight_decay": np.log(1e-8), "head_units": np.log(8)} | told


def search(name: str, space: Any, score: Any, noise: float, trials: int, seed: int) -> tuple[list[float], list[float]]:
    """The noise-free score of the best trial so far, after each trial, and the seconds of each proposal."""
    memory, known, kept, spent = open_in_memory_study(epochs=EPOCHS), [], [], []
    draws = np.random.default_rng(seed)
    best = (-np.inf, 0.0)
    for number in range(trials):
        started = time.perf_counter()
        proposal = propose_next(name, space, memory, known, seed)
        spent.append(time.perf_counter() - started)
        (mean,) = score([proposal.params])
        value = mean + noise * draws.normal()
        trial = create_trial(
            value=value, params=proposal.params, distributions=proposal.distributions, system_attrs=dict(proposal.notes)
        )
        trial.number = number
        known.append(trial)
        best = max(best, (value, mean))
        kept.append(best[1])
    return kept, spent


def propose_next(name: str, space: Any, memory: Any, known: list[Any], seed: int) -> Proposal:
    """As a worker proposes, but that nothing is tried twice, which hardly happens here."""
    place, own = len(known) - 1, 1000 * seed + len(known)

    def resolve(trial: optuna.trial.BaseTrial) -> Any:
        return sample(space, trial)

    if not known:
        return propose_this(default_params(space), resolve)
    if name in (GRID, QMC):
        walk = (
            walk_grid(space, 3, seed=seed, place=place) if name == GRID else sobol_points(space, seed=seed, place=place)
        )
        return propose_this(next(islice(walk, 1)), resolve)
    if name == TPE:
        return propose(memory, known, resolve, seed=own)
    choice = {"class": name} | ARGUMENTS[name] if name in ARGUMENTS else name
    return propose_by(choice, space, known, resolve, name=f"study {seed}", seed=own)


if __name__ == "__main__":
    silence_tensorflow()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["collect", "search", "compare"])
    parser.add_argument("--cases", "--case", nargs="+", default=["trashnet", "wid"])
    parser.add_argument("--count", type=int, default=300, help="configurations to collect")
    parser.add_argument("--minutes", type=float, default=12.5, help="the most for collecting a case")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--gp-seeds", type=int, default=15, help="of gp, whose proposals take long")
    parser.add_argument("--folder", type=Path, default=Path("samplers"))
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), help="the file to write the figures to")
    asked = parser.parse_args()
    if asked.part == "collect":
        for case in asked.cases:
            collect(case, asked.count, 60 * asked.minutes, asked.folder)
    elif asked.part == "search":
        search_all(asked)
    else:
        print_table(compare(asked), asked.json)
