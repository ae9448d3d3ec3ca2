"""A worker: chooses a configuration, runs it, reports it, until the study's budget is spent."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wastetune.backbones.backbone import nearest_cut
from wastetune.backbones.cuts import TOP, Cut
from wastetune.errors import UserError, first_line, is_disk_error, render_os_error
from wastetune.evaluation.objectives import SCORE_ALONE, Goals
from wastetune.models.latency import Meter
from wastetune.search.choice import CONSTRAINTS, GRID, MEDIAN, QMC, TPE, name_of
from wastetune.search.points import grid_points, sobol_points, walk_grid
from wastetune.search.pruner import is_hopeless, is_reported, open_pruning
from wastetune.search.sampler import (
    InMemoryStudy,
    Proposal,
    Resolve,
    copy_in_memory,
    open_in_memory_study,
    propose,
    propose_at_random,
    propose_by,
    propose_this,
)
from wastetune.search.space import bounds, default_params, enqueued_params, searched_backbones
from wastetune.seeding import seed_for
from wastetune.storage.budget import (
    LOST,
    MAX_RETRIES,
    count_live,
    count_lost,
    default_is_due,
    find_duplicate,
    is_default,
    only_finished,
    retry_due,
)
from wastetune.storage.heartbeat import Heartbeat, heartbeats
from wastetune.storage.records import TrialAttrs, WarmStart, read_attrs
from wastetune.storage.study import ask_lock, read_goals, read_trials
from wastetune.storage.trials import (
    RunningTrial,
    begin_trial,
    complete_trial,
    fail_lost_trials,
    fail_trial,
    note_trial,
    prune_trial,
    release_trials,
    report_score,
    set_trial_attrs,
    void_reason,
)
from wastetune.tracking.dashboard import Notes
from wastetune.training.config import TrialConfig, has_live_views
from wastetune.training.fit import Epoch
from wastetune.tuning.objective import choose_config, run_trial
from wastetune.tuning.prepare import Bar, TrialContext, trial_seed
from wastetune.tuning.warm_start import settle_warm_starts
from wastetune.tuning.workers.model_costs import measure_costs, settle_costs

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# After so many proposals in a row that were tried before, the space counts as exhausted.
_MAX_REPEATS = 50
# After so many trials in a row that failed by themselves, the cause is presumed not to be the configuration.
_MAX_FAILURES = 5
# Seconds between two reads of the study while the other workers run the last trials.
_WAIT = 0.5


# (number of a trial, its epochs) -> a context manager whose value takes each epoch
ShowTrial = Callable[[int, int], AbstractContextManager[Callable[[Epoch], None]]]


class _NoTime(Exception):
    """There is no time for any more trial."""


class NotTimed(Exception):
    """Whether there is time for a configuration is known only after `measure`, which takes seconds."""

    def __init__(self, measure: Callable[[], None]) -> None:
        super().__init__()
        self.measure = measure


@dataclass(frozen=True)
class TimeLimit:
    """Which configurations there is time for, given all trials of the study; by default for each, at once."""

    # The configuration, perhaps with fewer epochs, or None where there is no time for it. May raise NotTimed.
    afford: Callable[["Sequence[FrozenTrial]", TrialConfig], TrialConfig | None] = lambda known, config: config
    # Whether others come first, as long as there are any.
    is_later: Callable[["Sequence[FrozenTrial]", TrialConfig], bool] = lambda known, config: False


NO_LIMIT = TimeLimit()


def not_shown(number: int, epochs: int) -> AbstractContextManager[Callable[[Epoch], None]]:
    """A trial that is not shown while it runs."""
    return nullcontext(lambda epoch: None)


@dataclass(frozen=True)
class _StartedTrial:
    """A running trial of this worker, with its configuration, and whether it is hopeless after an epoch and a score."""

    trial: RunningTrial
    proposal: Proposal[TrialConfig]
    default: bool
    origin: str
    is_hopeless: Callable[[int, float], bool]


def run_worker(
    study: "optuna.Study",
    context: TrialContext,
    *,
    trials: int,
    timeout: float | None,
    bar: Bar,
    on_trial: Callable[["FrozenTrial"], None],
    show: ShowTrial = not_shown,
    check: Callable[[], None] = lambda: None,
    before_trial: Callable[[], None] = lambda: None,
    limit: TimeLimit = NO_LIMIT,
    renew_after: int | None = None,
    parent: int | None = None,
    name: str = "",
) -> bool:
    """Runs trials until the study has `trials` finished ones, or `timeout` seconds are over.

    True where it stopped before that because `renew_after` of its trials had built Keras models, whose memory is
    only freed when the process ends.
    `on_trial` gets each trial of this worker when it ends, and `show` shows one while it runs. `check` is called
    between epochs and may raise KeyboardInterrupt; the running trial is then handed back, and the KeyboardInterrupt is
    raised again. `before_trial` is called before each trial and may raise UserError, which ends the worker. The
    worker also ends where its `limit` has no time for any more trial; a default always runs. With `parent`, a process
    number, the worker ends when that process is gone. Workers of one study have different names.
    UserError where trial after trial fails, with the reason of the last one.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    goals, meters = read_goals(study), settle_costs(study, context)
    memory = open_in_memory_study(epochs=int(bounds(context.space, "epochs")[1]), goals=goals)
    notes = Notes(study, context.spec.metric, context.classes)
    warm_starts = settle_warm_starts(study, context)
    failures = models = 0
    with _releasing_trials(study), heartbeats(study, parent) as heartbeat:
        while True:
            check()
            before_trial()
            fail_lost_trials(study)
            try:
                with ask_lock(study):
                    known = read_trials(study)
                    if len(only_finished(known)) >= trials:
                        return False
                    if deadline is not None and time.monotonic() >= deadline:
                        return False
                    is_wanted = count_live(known) < trials
                    started = _begin(study, known, memory, context, name, warm_starts, limit) if is_wanted else None
            except _NoTime:
                return False
            except NotTimed as unknown:  # without the lock, for which others wait
                unknown.measure()
                continue
            if started is None:  # trials of other workers may still fail
                time.sleep(_WAIT)
                continue
            heartbeat.hold(started.trial)
            # If the trial has the next number after those that were read, no other trial was created in between.
            if started.trial.number > len(known) and (reason := void_reason(started.trial, trials)):
                fail_trial(started.trial, reason, void=True)
                heartbeat.hold(None)
                continue
            with show(started.trial.number, started.proposal.config.epochs) as shown:
                ended = _run_one(started, heartbeat, context, notes, bar, shown, check, meters, goals)
            heartbeat.hold(None)
            on_trial(ended)
            attrs = read_attrs(ended)
            failures = failures + 1 if ended.state.name == "FAIL" and attrs.failure != LOST else 0
            if failures == _MAX_FAILURES:
                raise UserError(
                    f"{failures} trials in a row failed, the last one with: {attrs.failure}; "
                    "mend the cause and run the same command again"
                )
            models += attrs.cut != TOP.name or context.space.head is not None or bool(meters)
            if renew_after is not None and models >= renew_after:
                return True


@contextmanager
def _releasing_trials(study: "optuna.Study") -> Iterator[None]:
    """Hands back the running trial when the worker has to end, also one that was created and does not run yet."""
    try:
        yield
    except KeyboardInterrupt:
        release_trials(study, "interrupted")
        raise
    except UserError:
        release_trials(study, "stopped: a mistake in the study or its surroundings")
        raise


def _begin(
    study: "optuna.Study",
    known: "Sequence[FrozenTrial]",
    memory: InMemoryStudy,
    context: TrialContext,
    name: str,
    warm_starts: Sequence[WarmStart] = (),
    limit: TimeLimit = NO_LIMIT,
) -> _StartedTrial:
    backbones = [each for each in searched_backbones(context.space) if default_is_due(known, each)]
    default = bool(backbones)
    proposal = _choose(known, memory, context, backbones, name, warm_starts, limit)
    config = proposal.config.model_dump()
    origin = next((str(start) for start in warm_starts if start.config == config), "")  # also when it is tried again
    cut = nearest_cut(context.of(proposal.config.backbone).backbone, proposal.config.frozen_depth)
    attrs = TrialAttrs(config=config, cut=cut.name, default=default, origin=origin)
    trial = begin_trial(study, proposal.params, proposal.distributions, attrs, proposal.notes)
    return _StartedTrial(
        trial, proposal, default, origin, _open_pruning(trial, proposal.config, cut, known, memory, context)
    )


def _open_pruning(
    trial: RunningTrial,
    config: TrialConfig,
    cut: Cut,
    known: "Sequence[FrozenTrial]",
    memory: InMemoryStudy,
    context: TrialContext,
) -> Callable[[int, float], bool]:
    if memory.goals.costs:  # Optuna's pruners compare one objective
        return lambda epoch, score: False
    epochs, note = int(bounds(context.space, "epochs")[1]), partial(note_trial, trial)
    if context.spec.pruner == MEDIAN:
        reported: dict[int, float] = {}
        if config.has_live_views:  # which are harder: it learns more slowly than from stored ones
            alike = [each for each in known if _has_live_views(each, cut)]
            memory = copy_in_memory(alike, epochs=epochs)

        def is_below_median(epoch: int, score: float) -> bool:
            reported[epoch] = score
            return is_hopeless(memory.study, reported)

        return is_below_median
    name, number = context.spec.name, trial.number
    return open_pruning(context.spec.pruner, known, epochs=epochs, name=name, number=number, note=note)


def _has_live_views(trial: "FrozenTrial", cut: Cut) -> bool:
    """Whether a trial was cut there and trained on live views."""
    attrs = read_attrs(trial)
    return attrs.cut == cut.name and has_live_views(attrs.config)


def _run_one(
    started: _StartedTrial,
    heartbeat: Heartbeat,
    context: TrialContext,
    notes: Notes,
    bar: Bar,
    show: Callable[[Epoch], None],
    check: Callable[[], None],
    meters: Mapping[str, Meter] = MappingProxyType({}),
    goals: Goals = SCORE_ALONE,
) -> "FrozenTrial":
    """Runs a trial to its end; gives it as it is in the database.

    One whose model is above a limit is pruned before it is trained, but for the default, which others are compared to.
    """
    trial, config = started.trial, started.proposal.config
    history: list[dict[str, Any]] = []
    pruned = False

    def on_epoch(epoch: Epoch) -> bool:
        nonlocal pruned
        check()
        show(epoch)
        history.append(asdict(epoch))
        if is_reported(epoch.number, config.epochs):
            report_score(trial, epoch.number, epoch.score)
            hopeless = started.is_hopeless(epoch.number, epoch.score)
            pruned = hopeless and not started.default  # the winner is compared with it
        return pruned or heartbeat.lost

    costs: dict[str, float] = {}
    try:
        if meters:
            costs = measure_costs(meters[context.of(config.backbone).backbone.name], trial, config)
            set_trial_attrs(trial, TrialAttrs(costs=costs))
            for key, excess in goals.excess(costs).items():
                note_trial(trial, f"{CONSTRAINTS}:{key}", excess)
            if not started.default and not goals.allow(costs):
                set_trial_attrs(trial, TrialAttrs(origin=started.origin))
                return prune_trial(trial)
            check()
        result = run_trial(config, trial.number, context, bar, on_epoch)
        attrs = TrialAttrs(
            origin=started.origin,
            history=history,
            seed=trial_seed(context, trial.number),
            best_epoch=result.fit.best.number,
            val_accuracy=result.fit.best.accuracy,
            confusion_matrix=result.confusion_matrix,
            trainable_parameters=result.trainable_parameters,
            costs=costs,
            activation_seconds=result.activation_seconds,
        )
        set_trial_attrs(trial, attrs)
        notes.write(trial, config.model_dump(), attrs, pruned=pruned)
        if pruned:
            return prune_trial(trial)
        return complete_trial(trial, result.fit.best.score, [costs[key] for key in goals.costs])
    except UserError:  # the configuration is not the cause
        raise
    except Exception as error:
        check()  # a library may turn an interrupt into any exception
        if isinstance(error, OSError) and is_disk_error(error):  # nor is it here
            raise UserError(render_os_error(error)) from error
        set_trial_attrs(trial, TrialAttrs(history=history))
        return fail_trial(trial, _reason(error))


def _choose(
    known: "Sequence[FrozenTrial]",
    memory: InMemoryStudy,
    context: TrialContext,
    defaults: Sequence[str | None],
    name: str,
    warm_starts: Sequence[WarmStart] = (),
    limit: TimeLimit = NO_LIMIT,
) -> Proposal[TrialConfig]:
    """What to run next: the default of each backbone that it is due for, then configurations to retry, then those that
    the space enqueues and those of earlier studies, then what the sampler proposes; of these, what the limit says is
    later comes last. _NoTime where there is time for none.
    """

    def resolve(trial: "optuna.trial.BaseTrial") -> TrialConfig:
        return choose_config(trial, context)

    if defaults:
        backbone = defaults[0]
        proposal = propose_this(default_params(context.space, backbone), resolve)
        lost = count_lost(trial for trial in known if is_default(trial, backbone))
        if lost > MAX_RETRIES:
            whose = f" of {backbone}" if backbone else ""
            raise UserError(
                f"the worker of the default configuration{whose} was lost {lost} times, perhaps for want of memory; "
                f"lower batch_size or image_size, or raise the default of frozen_depth in {context.space.source}"
            )
        return proposal
    retry = retry_due(known)
    if retry and (config := limit.afford(known, (proposal := propose_this(retry.params, resolve)).config)):
        return replace(proposal, config=config)
    chosen = (*enqueued_params(context.space), *(start.params for start in warm_starts))
    proposals = chain(
        (propose_this(each, resolve) for each in chosen), _proposals(known, memory, context, resolve, name)
    )
    tried, is_too_long = [trial.params for trial in known], False
    put_off: Proposal[TrialConfig] | None = None
    for proposal in proposals:
        config = limit.afford(known, proposal.config)
        is_too_long = is_too_long or config is None
        if config is None or (config != proposal.config and proposal.params in tried):  # with other epochs
            continue
        if find_duplicate(known, config.model_dump()) is None:
            affordable = replace(proposal, config=config)
            if not limit.is_later(known, config):
                return affordable
            put_off = put_off or affordable
    if put_off:
        return put_off
    if is_too_long:
        raise _NoTime
    is_grid = name_of(context.spec.sampler) == GRID
    raise UserError(
        f"the {'grid of the ' if is_grid else ''}space {context.space.source} has no configuration left that was not "
        f"tried in {len(only_finished(known))} trials; {'give more points, ' if is_grid else ''}widen it, or ask for "
        "fewer --trials"
    )


def _proposals(
    known: "Sequence[FrozenTrial]",
    memory: InMemoryStudy,
    context: TrialContext,
    resolve: Resolve[TrialConfig],
    name: str,
) -> Iterator[Proposal[TrialConfig]]:
    """What the sampler proposes, and what to take instead where that was tried before, as far as there is anything."""
    sampler, space = context.spec.sampler, context.space
    if name_of(sampler) in (GRID, QMC):  # the same for all workers, from the place that the trials so far have reached
        probes = len(searched_backbones(space))  # the defaults, one for each backbone
        seed, place = seed_for("points", context.spec.seed), len(known) - probes
        if name_of(sampler) == GRID:
            points = walk_grid(space, grid_points(sampler), seed=seed, place=place)
        else:
            points = islice(sobol_points(space, seed=seed, place=place), _MAX_REPEATS)
        yield from (propose_this(each, resolve) for each in points)
        return
    seed = _sampler_seed(context, name, len(known))
    if sampler == TPE:
        yield propose(memory, known, resolve, seed=seed)
    else:
        yield propose_by(sampler, space, known, resolve, name=context.spec.name, seed=seed, goals=memory.goals)
    for attempt in range(1, _MAX_REPEATS - 1):
        yield propose_at_random(memory, resolve, seed=_sampler_seed(context, name, len(known), attempt))


def _sampler_seed(context: TrialContext, name: str, trials: int, attempt: int = 0) -> int:
    """A seed that differs between workers and with the number of trials, so that a resumed study repeats no point."""
    return seed_for("sampler", context.spec.seed, *([name] if name else []), trials, attempt)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error, most=500)}" if str(error).strip() else type(error).__name__
