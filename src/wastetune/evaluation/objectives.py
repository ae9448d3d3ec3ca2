"""The objectives of a study: a score to maximise, and costs of its model to minimise, some within limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wastetune.errors import did_you_mean
from wastetune.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Cost:
    """What a model costs: its name in a sentence, its unit, and the key of a study's file that limits it."""

    title: str
    unit: str
    limit: str

    @property
    def label(self) -> str:
        """For an axis: `latency in ms`."""
        return f"{self.title} in{self.unit}" if self.unit else self.title


# The objective -> what it is. All of them are figures of the exported model, and fewer is better.
COSTS = {
    "latency_ms": Cost("latency", " ms", "max_latency_ms"),
    "megabytes": Cost("file size", " MB", "max_megabytes"),
    "parameters": Cost("parameters", "", "max_parameters"),
}


@dataclass(frozen=True)
class Goals:
    """The costs that a study minimises beside maximising its score, and their limits; without any: a score alone."""

    costs: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    def allow(self, costs: Mapping[str, float]) -> bool:
        """Whether these costs are within all limits."""
        return all(value <= 0 for value in self.excess(costs).values())

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """By what share each limited cost is above its limit: 0.1 for a tenth more; 0 or less is within it."""
        return {key: costs[key] / limit - 1 for key, limit in self.limits.items() if key in costs}


SCORE_ALONE = Goals()


def read_objectives(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a study's file with what its objectives imply: the metric, and no pruner; the score comes first.

    ValueError, with a sentence, for objectives that are not one score and at least one cost, for a limit of what is no
    objective, and for another metric or a pruner beside them.
    """
    given = values.get("objectives")
    limits = {name: cost.limit for name, cost in COSTS.items() if values.get(cost.limit) is not None}
    if given is None:
        for name, limit in limits.items():
            raise ValueError(f'{limit} = {values[limit]} needs the cost among the objectives: ["macro_f1", "{name}"].')
        return dict(values)
    told = f"objectives = {json.dumps(given, default=str)}"
    names = list(given) if isinstance(given, list | tuple) else []
    unknown = [name for name in names if name not in METRICS and name not in COSTS]
    scores = [name for name in names if name in METRICS]
    if unknown or len(scores) != 1 or len(names) < 2 or len(set(names)) < len(names):
        meant = did_you_mean(str(unknown[0]), [*METRICS, *COSTS]) if unknown else ""
        raise ValueError(
            f"{told}, but it must be a list of one score ({', '.join(METRICS)}) and at least one cost "
            f"({', '.join(COSTS)}){f'; {meant}' if meant else '.'}"
        )
    for name, limit in limits.items():
        if name not in names:
            raise ValueError(f"{limit} = {values[limit]} limits what is no objective: add {name} to {told}.")
    if values.get("metric") not in (None, scores[0]):
        raise ValueError(f"metric = {json.dumps(values['metric'], default=str)}, but {told}: leave metric out.")
    if values.get("pruner", "none") != "none":
        raise ValueError(
            f"pruner = {json.dumps(values['pruner'], default=str)} compares one score, and a study with {told} has "
            "several; leave pruner out: only trials above a limit are stopped, before they are trained."
        )
    ordered = (*scores, *(name for name in names if name in COSTS))
    return {**values, "objectives": ordered, "metric": scores[0], "pruner": "none"}


def pareto_front(values: Sequence[Sequence[float]]) -> list[int]:
    """The positions of what nothing else is better than in one objective without being worse in another.

    values: (n, 1 + costs), the score first. By the first cost; of equal ones, the first is kept.
    """

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return one[0] >= other[0] and all(a <= b for a, b in zip(one[1:], other[1:], strict=True))

    front = [
        i
        for i, own in enumerate(values)
        if not any(beats(other, own) and (tuple(other) != tuple(own) or j < i) for j, other in enumerate(values))
    ]
    return sorted(front, key=lambda i: (*values[i][1:], -values[i][0]))


def render_cost(key: str, value: float) -> str:
    """A cost with its unit: `2.9 ms`, `2.813 MB`, `696,414`."""
    return f"{value:,.0f}" if key == "parameters" else f"{value:,.4g}{COSTS[key].unit}"


def render_costs(costs: Mapping[str, float], limits: Mapping[str, float] | None = None) -> str:
    """Costs in a sentence: `latency 2.9 ms (limit 5 ms), parameters 696,414`."""
    limits = limits or {}
    return ", ".join(
        f"{COSTS[key].title} {render_cost(key, value)}"
        + (f" (limit {render_cost(key, limits[key])})" if key in limits else "")
        for key, value in costs.items()
    )


def render_brief(costs: Mapping[str, float]) -> str:
    """Costs in few words: `2.9 ms, 696,414 parameters`."""
    return ", ".join(
        render_cost(key, value) + (" parameters" if key == "parameters" else "") for key, value in costs.items()
    )
