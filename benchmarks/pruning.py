"""What does pruning save, and does it lose the best trial? Learning curves of whole trials, replayed under each pruner.

The trials of each seed run once, without pruning (with the space's early stopping), proposed as in a study that prunes
nothing. Then each pruner gets the same curves in the same order.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import optuna
from common import Row, options, prepare_trashnet, print_table, temporary_folder
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.trial import TrialState, create_trial

from wastetune.console import open_console
from wastetune.search.pruner import is_reported
from wastetune.search.sampler import open_in_memory_study, propose, propose_this
from wastetune.search.space import bounds, default_params
from wastetune.tuning.objective import choose_config, run_trial
from wastetune.tuning.prepare import TrialContext

Curve = tuple[list[float], list[float]]  # score and seconds of each epoch


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--space", default="head")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--trials", type=int, help="by default 50, with --quick 10")
    parser.add_argument("--seeds", type=int, help="by default 3, with --quick 1")
    asked = parser.parse_args()
    with temporary_folder():
        print_table(compare_pruners(asked), asked.json)


def compare_pruners(asked: argparse.Namespace) -> Iterator[Row]:
    context = prepare_trashnet(quick=asked.quick, space=asked.space, views=asked.views).context
    epochs = int(bounds(context.space, "epochs")[1])
    trials, seeds = asked.trials or (10 if asked.quick else 50), asked.seeds or (1 if asked.quick else 3)
    studies = [whole_trials(context, epochs, trials, 1000 * seed) for seed in range(seeds)]
    wholes = [sum(sum(seconds) for _, seconds in curves) for curves in studies]
    bests = [max(max(scores) for scores, _ in curves) for curves in studies]
    for name, pruner in pruners(epochs).items():
        spent, found = zip(*(replay(curves, pruner, epochs) for curves in studies), strict=True)
        lost = np.array(bests) - np.array(found)
        yield {
            "pruner": name,
            "share of the seconds": float(np.mean(np.array(spent) / wholes)),
            "score lost": float(lost.mean()),
            "at most": float(lost.max()),
            "kept the best": f"{(lost == 0).sum()} of {seeds}",
        }


def whole_trials(context: TrialContext, epochs: int, count: int, seed: int) -> list[Curve]:
    """Learning curves of trials that nothing prunes."""
    ended, curves, memory, console = [], [], open_in_memory_study(epochs=epochs), open_console(quiet=True)

    def resolve(trial: optuna.trial.BaseTrial) -> object:
        return choose_config(trial, context)

    for number in range(count):
        if number == 0:
            proposal = propose_this(default_params(context.space), resolve)
        else:
            proposal = propose(memory, ended, resolve, seed=seed + number)
        fitted = run_trial(proposal.config, seed + number, context, console.bar, lambda epoch: None).fit
        curves.append(([epoch.score for epoch in fitted.history], [epoch.seconds for epoch in fitted.history]))
        trial = create_trial(value=fitted.best.score, params=proposal.params, distributions=proposal.distributions)
        trial.number = number
        ended.append(trial)
    return curves


def pruners(epochs: int) -> dict[str, optuna.pruners.BasePruner]:
    first = next(epoch for epoch in range(1, epochs + 1) if is_reported(epoch, epochs))
    return {
        "none": NopPruner(),
        "median, from a third on (ours)": MedianPruner(5, n_warmup_steps=epochs // 3),
        "median, from an eighth on": MedianPruner(5, n_warmup_steps=epochs // 8),
        "upper quartile, from a third on": PercentilePruner(25.0, 5, n_warmup_steps=epochs // 3),
        "successive halving, factor 2": SuccessiveHalvingPruner(first, reduction_factor=2),
        "successive halving, factor 3": SuccessiveHalvingPruner(first, reduction_factor=3),
        "Hyperband, factor 3": HyperbandPruner(first, max_resource=epochs, reduction_factor=3),
    }


def replay(curves: list[Curve], pruner: optuna.pruners.BasePruner, epochs: int) -> tuple[float, float]:
    """Seconds of the epochs that this pruner lets run, and the best score of the trials that it completes."""
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(0))
    spent, best = 0.0, 0.0
    for number, (scores, seconds) in enumerate(curves):
        trial = study.ask()
        for epoch, (score, took) in enumerate(zip(scores, seconds, strict=True), 1):
            spent += took
            if not is_reported(epoch, epochs):
                continue
            trial.report(score, epoch)
            if number and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, max(scores))
            best = max(best, max(scores))
    return spent, best


if __name__ == "__main__":
    main()
