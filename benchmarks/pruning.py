"""What does pruning win, and does it lose the winner? Learning curves of whole trials, replayed under each pruner.

    python benchmarks/pruning.py [--study mobilenet_small_075_head] [--trials 50] [--seeds 3] [--json FILE]

Each seed's trials run once, to their end (early stopping as the space says), proposed as in a study that prunes
nothing. Then every pruner is shown the same curves in the same order.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from wastetune.console import open_console
from wastetune.search import pruner
from wastetune.search.pruner import is_looked_at
from wastetune.search.sampler import open_in_memory_study, propose, propose_this
from wastetune.search.space import bounds, default_params
from wastetune.study.objective import choose_config, run_trial
from wastetune.study.prepare import prepare_study
from wastetune.study.spec import load_study


def main() -> None:
    arguments = parse()
    data, weights = (Path(os.environ[name]) for name in ("WASTETUNE_DATA", "WASTETUNE_WEIGHTS"))
    os.chdir(tempfile.mkdtemp())
    console = open_console()
    rows: dict[str, list[tuple[float, float, bool]]] = {}
    for seed in range(arguments.seeds):
        spec = load_study(arguments.study).model_copy(update={"space": arguments.space, "views": arguments.views})
        context = prepare_study(spec, data=data, weights=weights, console=console).context
        epochs = int(bounds(context.space, "epochs")[1])
        curves = whole_trials(context, epochs, arguments.trials, seed, console)
        best = max(max(curve) for curve, _ in curves)
        for name, policy in pruners(epochs).items():
            seconds, found = replay(curves, policy, epochs)
            rows.setdefault(name, []).append((seconds / sum(sum(s) for _, s in curves), best - found, found == best))
    for name, runs in rows.items():
        share, lost, kept = zip(*runs, strict=True)
        print(
            f"{name:32} {np.mean(share):6.1%} of the seconds, validation score lost {np.mean(lost):.4f} "
            f"(at most {max(lost):.4f}), winner kept in {sum(kept)} of {len(kept)}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


def whole_trials(context, epochs, count, seed, console) -> list[tuple[list[float], list[float]]]:
    """Score and seconds of every epoch of trials that nothing prunes."""
    trials, curves, memory = [], [], open_in_memory_study(epochs=epochs)
    for number in range(count):

        def resolve(trial):
            return choose_config(trial, context)

        if number == 0:
            proposal = propose_this(default_params(context.space), resolve)
        else:
            proposal = propose(memory, trials, resolve, seed=1000 * seed + number)
        result = run_trial(proposal.config, 1000 * seed + number, context, console.bar, lambda epoch: None)
        curves.append(([e.score for e in result.fit.history], [e.seconds for e in result.fit.history]))
        ended = create_trial(value=result.fit.best.score, params=proposal.params, distributions=proposal.distributions)
        ended.number = number
        trials.append(ended)
    return curves


def pruners(epochs: int) -> dict[str, optuna.pruners.BasePruner]:
    looks = max(1, epochs // pruner._LOOKS)
    return {
        "none": optuna.pruners.NopPruner(),
        "median, from a third on (ours)": optuna.pruners.MedianPruner(5, n_warmup_steps=epochs // 3),
        "median, from an eighth on": optuna.pruners.MedianPruner(5, n_warmup_steps=epochs // 8),
        "upper quartile, from a third on": optuna.pruners.PercentilePruner(25.0, 5, n_warmup_steps=epochs // 3),
        "successive halving, factor 2": optuna.pruners.SuccessiveHalvingPruner(looks, reduction_factor=2),
        "successive halving, factor 3": optuna.pruners.SuccessiveHalvingPruner(looks, reduction_factor=3),
        "Hyperband, factor 3": optuna.pruners.HyperbandPruner(looks, max_resource=epochs, reduction_factor=3),
    }


def replay(curves, policy, epochs) -> tuple[float, float]:
    """Seconds of the epochs that this pruner lets run, and the best score of the trials it lets end."""
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(0))
    spent, best = 0.0, 0.0
    for number, (scores, seconds) in enumerate(curves):
        trial = study.ask()
        for epoch, (score, took) in enumerate(zip(scores, seconds, strict=True), 1):
            spent += took
            if not is_looked_at(epoch, epochs):
                continue
            trial.report(score, epoch)
            if number and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, max(scores))
            best = max(best, max(scores))
    return spent, best


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="mobilenet_small_trashnet")
    parser.add_argument("--space", default="head")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
