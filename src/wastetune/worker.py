"""A worker: propose, run, tell, until the study's budget is spent."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wastetune import search, storage
from wastetune.backbone import nearest_cut
from wastetune.errors import UserError
from wastetune.objective import Bar, Setting, choose_config, run_trial, trial_seed
from wastetune.search import Memory, Proposal
from wastetune.seeding import seed_for
from wastetune.space import bounds, default_params
from wastetune.training import Epoch

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# Configurations in a row that were had before: after so many, the space is taken to be exhausted.
_MAX_REPEATS = 50
# Trials in a row that failed by themselves: after so many, the cause is taken not to be the configuration.
_MAX_FAILURES = 5


def run_worker(
    study: "optuna.Study",
    setting: Setting,
    *,
    trials: int,
    timeout: float | None,
    bar: Bar,
    on_trial: Callable[["FrozenTrial"], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Runs trials until the study has so many finished ones, or `timeout` seconds are over.

    `on_trial` is told each trial of this worker as it ends; `check` is called between epochs and may raise a
    KeyboardInterrupt. On Ctrl-C the trial in hand is told FAIL and the
    KeyboardInterrupt goes on. UserError where trial after trial fails, with the last one's reason.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    memory = search.open_memory(epochs=int(bounds(setting.space, "epochs")[1]))
    failures = 0
    while True:
        known = storage.read_trials(study)
        if len(storage.only_finished(known)) >= trials or (deadline is not None and time.monotonic() >= deadline):
            return
        check()
        ended = _run_one(study, known, memory, setting, bar, check)
        on_trial(ended)
        failures = failures + 1 if ended.state.name == "FAIL" else 0
        if failures == _MAX_FAILURES:
            raise UserError(
                f"{failures} trials in a row failed, the last one with: {ended.user_attrs['failure']}; "
                "mend the cause and run the same command again"
            )


def _run_one(
    study: "optuna.Study",
    known: "Sequence[FrozenTrial]",
    memory: Memory,
    setting: Setting,
    bar: Bar,
    check: Callable[[], None],
) -> "FrozenTrial":
    """One trial, from its proposal to what it came to."""
    history: list[dict[str, Any]] = []
    looks: dict[int, float] = {}
    pruned = False

    def on_epoch(epoch: Epoch) -> bool:
        nonlocal pruned
        check()
        history.append(asdict(epoch))
        if search.is_looked_at(epoch.number, proposal.config.epochs):
            storage.report(trial, epoch.number, epoch.score)
            looks[epoch.number] = epoch.score
            pruned = not default and search.is_hopeless(memory, looks)  # the winner is compared with the default
        return pruned

    default = storage.default_is_due(known)
    proposal = _choose(known, memory, setting, default)
    cut = nearest_cut(setting.backbone, proposal.config.frozen_depth)
    attrs = {"config": proposal.config.model_dump(), "cut": cut.name, **({"default": True} if default else {})}
    trial = storage.begin_trial(study, proposal.params, proposal.distributions, attrs)
    try:
        result = run_trial(proposal.config, trial.number, setting, bar, on_epoch)
        storage.record(
            trial,
            {
                "history": history,
                "seed": trial_seed(setting, trial.number),
                "best_epoch": result.fit.best.number,
                "val_accuracy": result.fit.best.accuracy,
                "confusion_matrix": result.confusion_matrix,
                "trainable_parameters": result.trainable_parameters,
                "activation_seconds": result.activation_seconds,
            },
        )
        return storage.prune(trial) if pruned else storage.complete(trial, result.fit.best.score)
    except KeyboardInterrupt:
        storage.fail(trial, "interrupted")
        raise
    except UserError:
        storage.fail(trial, "stopped: a mistake in the study or its surroundings")
        raise
    except Exception as error:
        storage.record(trial, {"history": history})
        return storage.fail(trial, _reason(error))


def _choose(known: "Sequence[FrozenTrial]", memory: Memory, setting: Setting, default: bool) -> Proposal:
    """What to run next: the default while it is due, then what the sampler proposes and nobody has tried."""

    def resolve(trial: "optuna.trial.BaseTrial") -> Any:
        return choose_config(trial, setting)

    if default:
        return search.propose_this(default_params(setting.space), resolve)
    proposal = search.propose(memory, known, resolve, seed=_sampler_seed(setting, len(known)))
    for attempt in range(1, _MAX_REPEATS):
        if storage.find_twin(known, proposal.config) is None:
            return proposal
        proposal = search.propose_at_random(memory, resolve, seed=_sampler_seed(setting, len(known), attempt))
    raise UserError(
        f"the space {setting.space.source} has no configuration left that was not tried in "
        f"{len(storage.only_finished(known))} trials; widen it, or ask for fewer --trials"
    )


def _sampler_seed(setting: Setting, trials: int, attempt: int = 0) -> int:
    """A seed from what came before: going on does not repeat the first points."""
    return seed_for("sampler", setting.spec.seed, trials, attempt)


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__
