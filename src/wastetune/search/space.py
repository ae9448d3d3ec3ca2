"""Reads search_spaces/*.toml into a SearchSpace, from which a trial samples its TrialConfig."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from wastetune.errors import UserError
from wastetune.search.distributions import (
    Choice,
    Fixed,
    FloatRange,
    IntRange,
    Param,
    Value,
    is_number,
    offers,
    parse_param,
    render_param,
)
from wastetune.search.hyperparameters import check_hyperparameters, distribution_of, is_value, suggest
from wastetune.search.toml_file import check_keys, explain, find_file, in_toml, read_toml
from wastetune.training.config import BACKBONE, HEAD_KEYS, HEAD_PREFIX, OWN_HEAD, TrialConfig
from wastetune.training.custom_head import CustomHead, ask_values, is_fixed

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


ENQUEUE = "enqueue"  # the tables of a space's file with configurations to try first


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a search space, in the order of the file, which is the order of sampling.

    Those of a head of the user's own, if there is one, are sampled after them. `enqueued` are the values, by key, of
    the configurations that run right after the default; other keys have their defaults there.
    """

    name: str
    source: str
    params: tuple[tuple[str, Param], ...]
    head: CustomHead | None = None
    enqueued: tuple[Mapping[str, Value], ...] = ()


def load_space(name_or_path: str, *, own_head: bool = False, backbones: Sequence[str] = ()) -> SearchSpace:
    """The search space of that name, or in that file; every value that it can sample is valid.

    A text that ends in .toml is a path; anything else is a name, searched in ./search_spaces, then among the spaces
    that come with wastetune. With `own_head` the keys of wastetune's head are left out, and `with_head` adds another.
    Of several `backbones` each trial chooses one first, so that a condition may name it; the first one is the default.
    UserError, with file and key, where it is missing or invalid.
    """
    path = find_file("search_spaces", name_or_path)
    table, source = dict(read_toml(path)), str(path)
    enqueued = table.pop(ENQUEUE, [])
    check_keys(source, table, [key for key in TrialConfig.model_fields if key not in (*OWN_HEAD, BACKBONE)])
    params: dict[str, Param] = {BACKBONE: Choice(tuple(backbones), backbones[0])} if len(backbones) > 1 else {}
    for key, entry in table.items():
        if not own_head or key not in HEAD_KEYS:
            params[key] = parse_param(f"{source}: {key}", key, entry, params)
    space = SearchSpace(path.stem, source, tuple(params.items()))
    _check_values(space, {"head": "of the user's own"} if own_head else {})
    return replace(space, enqueued=_read_enqueued(space, enqueued, {*HEAD_KEYS} if own_head else set()))


def _read_enqueued(space: SearchSpace, tables: object, ignored: set[str]) -> tuple[Mapping[str, Value], ...]:
    """The tables `[[enqueue]]` of a space's file. UserError where one has a key or a value that no trial may have."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{space.source}: {ENQUEUE} must be tables, each under a line [[{ENQUEUE}]]")
    params = dict(space.params)
    read = []
    for number, table in enumerate(tables, 1):
        where = f"{space.source}: configuration {number} of [[{ENQUEUE}]]"
        values = {key: value for key, value in table.items() if key not in ignored}
        check_keys(where, values, params)
        for key, value in values.items():
            if not offers(params[key], value):
                raise UserError(f"{where}: {key} = {in_toml(value)}, but the space has {render_param(params[key])}")
        taken = nearest_params(space, values)
        if without := [key for key in values if key not in taken and not isinstance(params[key], Fixed)]:
            raise UserError(f"{where}: {without[0]} has no effect there; leave it out")
        read.append(values)
    return tuple(read)


def enqueued_params(space: SearchSpace) -> list[dict[str, Value]]:
    """The searched parameters of each configuration that the space runs right after the default."""
    return [nearest_params(space, values) for values in space.enqueued]


def with_head(space: SearchSpace, head: CustomHead) -> SearchSpace:
    """The space with the hyperparameters of a head. UserError where Optuna cannot have them."""
    check_hyperparameters(str(head.file.path), head.hyperparameters)
    return replace(space, head=head)


def default_params(space: SearchSpace, backbone: str | None = None) -> dict[str, Value]:
    """The searched parameters of the default configuration, which is trial 0 of every study.

    Parameters that have no effect under the defaults are left out, because a trial does not sample them. Of several
    backbones, the default is that of the one named, else of the first.
    """
    return nearest_params(space, {BACKBONE: backbone})


def searched_backbones(space: SearchSpace) -> tuple[str | None, ...]:
    """The backbones that a trial may choose; `(None,)` where the study has one, which no configuration names."""
    param = dict(space.params).get(BACKBONE)
    return tuple(map(str, param.options)) if isinstance(param, Choice) else (None,)


def nearest_params(space: SearchSpace, config: Mapping[str, Value | None]) -> dict[str, Value]:
    """The searched parameters of the configuration of this space that is nearest to another one.

    A value outside a range becomes its bound, and a key that has no value its default. ValueError where a choice does
    not offer the value.
    """
    searched: dict[str, Value] = {}

    def take(key: str, param: Param) -> Value:
        if isinstance(param, Fixed):
            return param.value
        value = config.get(key)
        searched[key] = param.default if value is None else _nearest(param, value)
        return searched[key]

    def take_of_head(asked: Any) -> Value:
        key = HEAD_PREFIX + asked.name
        value = config.get(key)
        searched[key] = asked.default if value is None or not is_value(asked, value) else value
        return searched[key]

    _resolve(space, take)
    if space.head is not None:
        ask_values(space.head, take_of_head)
    return searched


def _nearest(param: IntRange | FloatRange | Choice, value: Any) -> Value:
    match param:
        case Choice(options):
            return options[options.index(value)]
        case IntRange(low, high):
            return int(min(max(round(value), low), high))
        case FloatRange(low, high):
            return float(min(max(value, low), high))


def default_config(space: SearchSpace) -> TrialConfig:
    """The configuration of all defaults, with values as the file gives them."""
    return TrialConfig.model_validate(_resolve(space, lambda _, param: param.default))


def sample(space: SearchSpace, trial: "BaseTrial") -> TrialConfig:
    """The configuration that an Optuna trial (running or `FixedTrial`) samples from the space."""

    def ask(key: str, param: Param) -> Value:
        match param:
            case Fixed(value):
                return value
            case IntRange(low, high, log):
                return trial.suggest_int(key, low, high, log=log)
            case FloatRange(low, high, log):
                return trial.suggest_float(key, low, high, log=log)
            case Choice(options):
                return cast(Value, trial.suggest_categorical(key, options))

    config = _resolve(space, ask)
    if space.head is not None:
        config |= ask_values(space.head, lambda asked: cast(Value, suggest(trial, HEAD_PREFIX + asked.name, asked)))
    return TrialConfig.model_validate(config)


def bounds(space: SearchSpace, key: str) -> tuple[float, float]:
    """The lowest and the highest value of a numeric key; both are the same where it is fixed or left out."""
    param = dict(space.params).get(key)
    values = param.corners if param else (TrialConfig.model_fields[key].default,)
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers:
        raise ValueError(f"{key} is not a number in {space.source}")
    return min(numbers), max(numbers)


def searched_ranges(space: SearchSpace) -> dict[str, tuple[float, float, bool]]:
    """The searched ranges: key -> (low, high, whether on a log scale)."""
    ranges = {key: (p.low, p.high, p.log) for key, p in space.params if isinstance(p, IntRange | FloatRange)}
    for asked in space.head.hyperparameters if space.head is not None else ():
        drawn: Any = None if is_fixed(asked) else distribution_of(asked)
        if hasattr(drawn, "log"):  # and is no choice
            ranges[HEAD_PREFIX + asked.name] = (drawn.low, drawn.high, drawn.log)
    return ranges


def without_effect(key: str, param: Param) -> Value | None:
    """The value of a key whose condition is false: only the width may be missing, the others keep their default."""
    return None if key == "head_units" else param.default


def _resolve(space: SearchSpace, value_of: Callable[[str, Param], Value]) -> dict[str, Value | None]:
    """Every key of the file -> value; `value_of` is called only for parameters that have an effect."""
    config: dict[str, Value | None] = {}
    for key, param in space.params:
        if param.when is None or param.when.holds(config):
            config[key] = value_of(key, param)
        else:
            config[key] = without_effect(key, param)
    if config.get("head_layers") == 0:
        config["head_units"] = None  # so that heads without hidden layers compare equal
    return config


def _check_values(space: SearchSpace, head: dict[str, Value]) -> None:
    """Raises UserError unless every corner of the space is a valid TrialConfig, so that no trial finds out later.

    head: what the configuration has of a head of the user's own.
    """
    params = dict(space.params)
    # Each depth of the head is crossed with every other key, because a condition may leave the width out.
    depths = params["head_layers"].corners if "head_layers" in params else (0,)
    chosen: list[dict[str, Value]] = [{}]
    chosen += [
        {"head_layers": depth, key: value, **({BACKBONE: backbone} if backbone else {})}
        for key, param in space.params
        for depth, value, backbone in itertools.product(depths, param.corners, searched_backbones(space))
    ]
    for values in chosen:

        def take(key: str, param: Param, values: dict[str, Value] = values) -> Value:
            return values.get(key, param.default)

        try:
            TrialConfig.model_validate({**_resolve(space, take), **head})
        except ValidationError as error:
            raise UserError(explain(TrialConfig, space.source, error)) from error
