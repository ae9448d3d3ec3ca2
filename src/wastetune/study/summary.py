"""The report of a study, from its trials and the evaluation of its refitted winner."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.backbones.backbone import reachable_cuts
from wastetune.data.index import contradictions, duplicate_groups, look_alike_groups
from wastetune.data.splits import leaked_pictures
from wastetune.report.results import Best, Edge, PictureCounts, Report, Seconds, StudySummary, TrialCounts
from wastetune.search.history import divide_trials
from wastetune.search.space import bounds, searched_ranges
from wastetune.search.toml_file import named_files
from wastetune.storage.budget import is_default
from wastetune.storage.records import Origin, WarmStart, find_front, read_attrs, trial_score, trial_seconds
from wastetune.storage.study import (
    WARM_STARTS,
    best_trial,
    get_study_attr,
    read_goals,
    read_records,
    read_trials,
    records_of,
)
from wastetune.study.final import Refit, data_name
from wastetune.training.config import BACKBONE, TrialConfig
from wastetune.tuning.prepare import Prepared, TrialContext, fingerprint_digest
from wastetune.tuning.spec import StudySpec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_SIDES = ("train", "val", "test")


def summarize(study: "optuna.Study", prepared: Prepared, refitted: Refit, preparing: float) -> Report:
    """The report of a study whose winner is refitted; `preparing` is the seconds that this run took to prepare.

    Where it says nothing new, the report of the earlier run, which has other seconds.
    """
    best = best_trial(study)
    assert best is not None
    report = Report.from_dict(
        {
            **summarize_search(study, prepared, best).to_dict(),
            **refitted.evaluation.to_dict(),
            "seconds": count_seconds(study, preparing, refitted.seconds).to_dict(),
            "fingerprint": fingerprint_digest(prepared),
        }
    )
    earlier = refitted.earlier
    if earlier and {**earlier.to_dict(), "seconds": None} == {**report.to_dict(), "seconds": None}:
        return earlier
    return report


def summarize_search(study: "optuna.Study", prepared: Prepared, best: "FrozenTrial") -> StudySummary:
    """The part of the report that needs no test set."""
    context, splits, index = prepared.context, prepared.splits, prepared.index
    trials = read_trials(study)
    states = Counter(each.state for each in records_of(trials))
    config, origin = dict(read_attrs(best).config), read_attrs(best).origin
    score, costs = trial_score(best), dict(read_attrs(best).costs)
    assert score is not None
    rare: dict[str, Any] = {**({"origin": origin} if origin else {}), **({"costs": costs} if costs else {})}
    return StudySummary(
        study=context.spec.name,
        question=context.spec.question,
        backbone=config.get(BACKBONE, context.spec.backbones[0]),
        dataset=data_name(study, prepared),
        classes=context.classes,
        metric=context.spec.metric,
        command=render_command(context.spec),
        begun_with=get_study_attr(study, "fingerprint", prepared.fingerprint),
        class_counts=_class_counts(prepared),
        left_out=len(splits.left_out),
        counts=PictureCounts(train=len(splits.train), val=len(splits.val), test=len(splits.test)),
        trials=_trial_counts(states),
        default_number=next((t.number for t in trials if is_default(t, config.get(BACKBONE)) and t.values), 0),
        best=Best(number=best.number, score=score, config=config, **rare),
        edges=edge_findings(config, _reachable_ranges(context.of(config.get(BACKBONE)), best)),
        problems=index.problems,
        duplicates=sum(len(group) - 1 for group in duplicate_groups(index)),
        contradictions=len(contradictions(index)),
        **_rare(study, prepared),
    )


def _trial_counts(states: Mapping[str, int]) -> TrialCounts:
    counts = {state: states[state] for state in ("complete", "pruned", "failed")}
    return TrialCounts(**counts, **({"interrupted": n} if (n := states["interrupted"]) else {}))


def _rare(study: "optuna.Study", prepared: Prepared) -> dict[str, Any]:
    """What only some studies have. It is left out elsewhere, so that reports of earlier versions stay as they are."""
    index = prepared.index
    values: dict[str, Any] = {}
    if near := len(look_alike_groups(index)):
        values["near_duplicates"] = near
    if index.corrected:
        values["corrected"] = dict(index.corrected)
    if origins := _warm_starts(study):
        values["warm_starts"] = [each.to_dict() for each in origins]
    if divided := divide_trials(read_trials(study)):
        sizes = {each.name: _count_parameters(prepared.context.of(each.name)) for each in divided}
        values["backbones"] = [each.to_dict() | {"parameters": sizes[each.name]} for each in divided]
    if (goals := read_goals(study)).costs:
        values["limits"] = dict(goals.limits)
        values["front"] = [each.to_dict() for each in find_front(read_records(study), goals)]
    if prepared.context.spec.split == "random":
        values["leaked"] = len(leaked_pictures(index, prepared.splits))
    return values


def _count_parameters(context: TrialContext) -> int:
    return int(context.backbone.body.count_params())


def _warm_starts(study: "optuna.Study") -> list[Origin]:
    """Where the configurations of earlier studies are from that have run; fewer trials than these may be asked for."""
    ran = {read_attrs(trial).origin for trial in read_trials(study)}
    starts = map(WarmStart.from_dict, get_study_attr(study, WARM_STARTS, ()))
    return [Origin(study=each.study, trial=each.trial, resplit=each.resplit) for each in starts if str(each) in ran]


def render_command(spec: StudySpec) -> str:
    """The command that runs this study again."""
    by_name = named_files("studies").get(spec.name) == Path(spec.source)
    words = ("wastetune", "run", "--study", spec.name if by_name else spec.source)
    return shlex.join([*words, "--trials", str(spec.trials), "--seed", str(spec.seed)])


def count_seconds(study: "optuna.Study", preparing: float, retraining: float) -> Seconds:
    """Where the time of a study went, over all of its runs."""
    trials = read_trials(study)
    activations = sum(read_attrs(trial).activation_seconds or 0.0 for trial in trials)
    spent = sum(map(trial_seconds, trials))
    parts = {
        "preparing": preparing,
        "activations": activations,
        "trials": spent - activations,
        "retrain": retraining,
    }
    return Seconds(**{name: round(value, 2) for name, value in {**parts, "total": sum(parts.values())}.items()})


def _class_counts(prepared: Prepared) -> dict[str, PictureCounts]:
    """Class -> pictures on each side of the split."""
    index, splits = prepared.index, prepared.splits
    counts = {side: Counter(index.pictures[row].label for row in getattr(splits, side)) for side in _SIDES}
    return {
        name: PictureCounts(**{side: counts[side][label] for side in _SIDES})
        for label, name in enumerate(index.classes)
    }


def _reachable_ranges(context: TrialContext, best: "FrozenTrial") -> dict[str, tuple[float, float, bool]]:
    """The ranges that were searched, the depth's as it acts: from the lowest cut to the highest.

    Of several backbones, those that the best trial's own was searched in.
    """
    ranges = searched_ranges(context.space)
    if BACKBONE in best.params:
        ranges = {key: each for key, each in ranges.items() if key in best.params}
    if "frozen_depth" in ranges:
        cuts = reachable_cuts(context.backbone, *bounds(context.space, "frozen_depth"))
        ranges["frozen_depth"] = (cuts[0].frozen_depth, cuts[-1].frozen_depth, False)
    return ranges


NEAR_BOUND = 0.02  # of the range; on a log scale where it is searched on one


def edge_findings(
    best_config: Mapping[str, Any], searched: Mapping[str, tuple[float, float, bool]]
) -> tuple[Edge, ...]:
    """The parameters of the best configuration that lie within 2 % of a bound of their range.

    searched: key -> (low, high, whether on a log scale). `widen` of an edge tells whether values beyond that bound
    exist: there is no frozen depth above 1.
    """
    edges = []
    for key, (low, high, log) in searched.items():
        value = best_config.get(key)
        if value is None or not low < high:
            continue
        start, end, at = (math.log(x) if log else x for x in (low, high, value))
        place = (at - start) / (end - start)
        for bound, distance in ((low, place), (high, 1 - place)):
            if distance <= NEAR_BOUND:
                edges.append(Edge(parameter=key, value=value, bound=bound, widen=not _is_limit(key, bound)))
    return tuple(edges)


def _is_limit(key: str, bound: float) -> bool:
    """Whether no configuration may lie beyond this bound."""
    field = TrialConfig.model_fields.get(key)
    limits = [getattr(rule, side, None) for rule in (field.metadata if field else []) for side in ("ge", "le")]
    return bound in limits
