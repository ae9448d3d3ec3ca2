"""A worker: ask, run, tell, until the study's budget is spent."""

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from wastetune import storage
from wastetune.errors import UserError
from wastetune.objective import Bar, Setting, choose_config, run_trial
from wastetune.seeding import seed_for
from wastetune.space import bounds, default_params

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# Random trials before the sampler has enough to learn from.
_STARTUP_TRIALS = 8
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
    repeats = failures = 0
    while len(storage.finished_trials(study)) < trials:
        if deadline is not None and time.monotonic() >= deadline:
            return
        storage.queue_default(study, default_params(setting.space))
        study.sampler = _build_sampler(study, setting, at_random=repeats > 0)
        study.pruner = _build_pruner(setting)
        check()
        ended = _run_one(study, setting, bar, check)
        repeats = repeats + 1 if ended is None else 0
        if repeats == _MAX_REPEATS:
            raise UserError(
                f"the space {setting.space.source} has no configuration left that was not tried in "
                f"{len(storage.finished_trials(study))} trials; widen it, or ask for fewer --trials"
            )
        if ended is None:
            continue
        on_trial(ended)
        failures = failures + 1 if ended.state.name == "FAIL" else 0
        if failures == _MAX_FAILURES:
            raise UserError(
                f"{failures} trials in a row failed, the last one with: {ended.user_attrs['failure']}; "
                "mend the cause and run the same command again"
            )


def _run_one(study: "optuna.Study", setting: Setting, bar: Bar, check: Callable[[], None]) -> "FrozenTrial | None":
    """One trial from ask to tell; None for one that would have repeated another."""
    import optuna

    trial = study.ask()
    try:
        storage.claim(trial)
        config = choose_config(trial, setting)
        twin = storage.find_twin(study, config)
        if twin is not None:
            trial.set_user_attr("repeats", twin)
            storage.fail(study, trial.number, f"the same configuration as trial {twin}")
            return None
        trial.set_user_attr("config", config.model_dump())
        score = run_trial(trial, config, setting, bar, check)
    except optuna.TrialPruned:
        return study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except KeyboardInterrupt:
        storage.fail(study, trial.number, "interrupted")
        raise
    except UserError:
        storage.fail(study, trial.number, "stopped: a mistake in the study or its surroundings")
        raise
    except Exception as error:
        storage.fail(study, trial.number, _reason(error))
        return study.get_trials(deepcopy=False)[trial.number]
    return study.tell(trial, score)


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__


def _build_sampler(study: "optuna.Study", setting: Setting, *, at_random: bool) -> "BaseSampler":
    """A sampler for the next trial, seeded by what came before: going on does not repeat the first points."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import RandomSampler, TPESampler

    seed = seed_for("sampler", setting.spec.seed, len(study.get_trials(deepcopy=False)))
    if at_random:
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`, for years
        return TPESampler(
            n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def _build_pruner(setting: Setting) -> "optuna.pruners.BasePruner":
    from optuna.pruners import MedianPruner

    # A deep tail starts slower than a head alone, and is worth waiting for.
    epochs = int(bounds(setting.space, "epochs")[1])
    return MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 3)
