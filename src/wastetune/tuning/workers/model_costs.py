"""The costs of trials, in a study with several objectives: what measures them, the same for all workers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wastetune.errors import UserError
from wastetune.evaluation.objectives import COSTS, Goals, render_cost
from wastetune.models.latency import Meter, describe_machine, measure_reference, model_costs, open_meter, trunk_costs
from wastetune.search.sampler import propose_this
from wastetune.search.space import default_params, searched_backbones
from wastetune.settings import cache_folder
from wastetune.storage.records import read_attrs
from wastetune.storage.study import MEASURED, read_goals, read_trials, settle_study_attr
from wastetune.storage.trials import RunningTrial
from wastetune.training.config import BACKBONE, HEAD_KEYS, HEAD_PREFIX, TrialConfig
from wastetune.tuning.objective import choose_config
from wastetune.tuning.prepare import TrialContext

if TYPE_CHECKING:
    import optuna


def settle_costs(study: "optuna.Study", context: TrialContext) -> dict[str, Meter]:
    """What measures the costs of trials with each backbone, the same for all workers; empty for a score alone.

    The first worker measures the models that the others are compared with, before any trial runs. UserError where a
    later one is on another kind of machine, and where even a backbone alone is above a limit.
    """
    goals = read_goals(study)
    if not goals.costs:
        return {}
    meters = {each.backbone.name: _open_meter(goals, context, each) for each in (context, *context.others)}
    machine = describe_machine() if "latency_ms" in goals.costs else ""

    def measure_one(meter: Meter) -> dict[str, Any]:
        known = replace(meter, reference_ms=measure_reference(meter)) if machine else meter
        return {"reference_ms": known.reference_ms, "least": trunk_costs(known)}

    def measure() -> dict[str, Any]:
        return {"machine": machine, "backbones": {name: measure_one(meter) for name, meter in meters.items()}}

    stored = settle_study_attr(study, MEASURED, measure)
    if stored["machine"] != machine:
        raise UserError(
            f"study {study.study_name!r} measures latency on another machine (there: {stored['machine']}; here: "
            f"{machine}); go on there, or copy the study's file to a new name"
        )
    for name in meters:
        least = stored["backbones"][name]["least"]
        for key, excess in goals.excess(least).items():
            if excess > 0:
                raise UserError(
                    f"{COSTS[key].limit} = {goals.limits[key]:g}, but {name} alone has "
                    f"{render_cost(key, least[key])}; raise the limit, or choose a smaller backbone"
                )
    return {
        name: replace(meter, reference_ms=stored["backbones"][name]["reference_ms"]) for name, meter in meters.items()
    }


def _open_meter(goals: Goals, study: TrialContext, context: TrialContext) -> Meter:
    """The meter of one backbone of the study, whose reference is the model of its default."""
    named = context.backbone.name if None not in searched_backbones(study.space) else None
    params = default_params(study.space, named)
    default = propose_this(params, lambda trial: choose_config(trial, study if named is None else context)).config
    return open_meter(goals.costs, context.backbone, len(context.classes), context.build_head, default, cache_folder())


def render_meters(meters: Mapping[str, Meter]) -> list[str]:
    """A line on what latencies are measured with; none where none is."""
    if not any(meter.reference_ms for meter in meters.values()):
        return []
    several = len(meters) > 1
    models = [f"{meter.reference_ms:.3g} ms{f' ({name})' if several else ''}" for name, meter in meters.items()]
    told = "the defaults' models" if several else "the default's model"
    return [f"latency on {describe_machine()}, one thread; {told}: {', '.join(models)}"]


def measure_costs(meter: Meter, trial: RunningTrial, config: TrialConfig) -> dict[str, float]:
    """The costs of a trial's model, measured once for each architecture: weights do not change them."""
    architecture = _architecture(config.model_dump())
    for other in read_trials(trial.study):
        attrs = read_attrs(other)
        if attrs.costs and _architecture(attrs.config) == architecture:
            return dict(attrs.costs)
    return model_costs(meter, config)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's costs depend on: all that makes its head. The whole backbone runs, wherever it was cut."""
    own = {"head", BACKBONE, *HEAD_KEYS} - {"dropout"}
    return {key: value for key, value in config.items() if key in own or key.startswith(HEAD_PREFIX)}
