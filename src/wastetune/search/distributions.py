"""Parameters of a search space: fixed values, ranges and choices, some of them conditional; and how to parse them."""

import math
import operator
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wastetune.errors import UserError
from wastetune.search.toml_file import check_keys, in_toml

Value = int | float | str | bool

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Condition:
    """`when = "head_layers > 0"`: the parameter only has an effect where an earlier one meets this condition."""

    key: str
    comparison: str
    value: Value

    def holds(self, config: Mapping[str, Value | None]) -> bool:
        """Whether the values sampled so far meet the condition; a parameter without a value never does."""
        value = config[self.key]
        return value is not None and COMPARISONS[self.comparison](value, self.value)


@dataclass(frozen=True)
class Fixed:
    """The same value in every trial."""

    value: Value
    when: Condition | None = None

    @property
    def default(self) -> Value:
        """The value."""
        return self.value

    @property
    def corners(self) -> tuple[Value, ...]:
        """Values that show whether all are valid."""
        return (self.value,)


@dataclass(frozen=True)
class IntRange:
    """A whole number from low to high, both included."""

    low: int
    high: int
    log: bool
    default: int
    when: Condition | None = None

    @property
    def corners(self) -> tuple[int, ...]:
        """Values that show whether all are valid: all of a short range, because conditions may depend on any."""
        return (
            tuple(range(self.low, self.high + 1)) if self.high - self.low < 8 else (self.low, self.default, self.high)
        )


@dataclass(frozen=True)
class FloatRange:
    """A number from low to high, both included."""

    low: float
    high: float
    log: bool
    default: float
    when: Condition | None = None

    @property
    def corners(self) -> tuple[float, ...]:
        """Values that show whether all are valid."""
        return (self.low, self.default, self.high)


@dataclass(frozen=True)
class Choice:
    """One of the options."""

    options: tuple[Value, ...]
    default: Value
    when: Condition | None = None

    @property
    def corners(self) -> tuple[Value, ...]:
        """Values that show whether all are valid."""
        return self.options


Param = Fixed | IntRange | FloatRange | Choice


def render_param(param: Param) -> str:
    """The distribution of a parameter in a few words."""
    match param:
        case Fixed(value):
            text = in_toml(value)
        case Choice(options):
            text = f"one of {', '.join(map(in_toml, options))}"
        case _:
            text = f"{param.low} to {param.high}{' (log)' if param.log else ''}"
    if not isinstance(param, Fixed):
        text += f", default {in_toml(param.default)}"
    when = param.when
    return text + (f", when {when.key} {when.comparison} {in_toml(when.value)}" if when else "")


def offers(param: Param, value: object) -> bool:
    """Whether a trial may have this value of the parameter."""
    match param:
        case Fixed(only):
            return in_toml(value) == in_toml(only)
        case Choice(options):
            return in_toml(value) in map(in_toml, options)
        case IntRange(low, high):
            return _is_int(value) and low <= value <= high  # type: ignore[operator]
        case FloatRange(low, high):
            return is_number(value) and low <= value <= high  # type: ignore[operator]


def parse_param(where: str, key: str, entry: object, earlier: Mapping[str, Param]) -> Param:
    """The parameter of one key of the file; `where` is "file: key", the start of every error message."""
    if not isinstance(entry, dict):
        if not isinstance(entry, Value):
            raise UserError(
                f"{where} = {in_toml(entry)}, but it must be a value or a table such as "
                "{ float = [0.0, 0.5], default = 0.2 } or { choice = [16, 32], default = 32 }."
            )
        return Fixed(entry)
    kinds = [kind for kind in ("int", "float", "choice") if kind in entry]
    if len(kinds) != 1:
        raise UserError(f"{where} must have exactly one of int = [low, high], float = [low, high], choice = [...].")
    kind = kinds[0]
    check_keys(where, entry, [kind, "default", "when"] + ([] if kind == "choice" else ["log"]))
    if "default" not in entry:
        raise UserError(f"{where} has no default; add one, since trial 0 runs the default configuration.")
    when = _parse_condition(where, key, entry["when"], earlier) if "when" in entry else None
    if kind == "choice":
        return _parse_choice(where, entry, when)
    return _parse_range(where, kind, entry, when)


def _parse_range(where: str, kind: str, entry: Mapping[str, Any], when: Condition | None) -> IntRange | FloatRange:
    pair, default, log = entry[kind], entry["default"], entry.get("log", False)
    fits, noun = (_is_int, "whole numbers") if kind == "int" else (is_number, "numbers")
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(fits, pair)):
        raise UserError(f"{where}: {kind} = {in_toml(pair)}, but it must be two {noun}, [low, high].")
    if not fits(default):
        raise UserError(f"{where}: default = {in_toml(default)}, but it must be one of the {noun} in {in_toml(pair)}.")
    if not isinstance(log, bool):
        raise UserError(f"{where}: log = {in_toml(log)}, but it must be true or false.")
    low, high = pair
    if low > high:
        raise UserError(f"{where}: the bounds {in_toml(pair)} are upside down; write [{high}, {low}].")
    if low == high:
        raise UserError(f"{where}: the bounds {in_toml(pair)} leave nothing to search; write the plain value {low}.")
    if log and low <= 0:
        raise UserError(f"{where}: log = true needs a low bound above 0, but it is {low}; raise it or drop log.")
    if not low <= default <= high:
        raise UserError(f"{where}: default = {default} is outside {in_toml(pair)}; move it or widen the bounds.")
    if kind == "int":
        return IntRange(low, high, log, default, when)
    return FloatRange(float(low), float(high), log, float(default), when)


def _parse_choice(where: str, entry: Mapping[str, Any], when: Condition | None) -> Choice:
    options, default = entry["choice"], entry["default"]
    if not isinstance(options, list) or not options or not all(isinstance(option, Value) for option in options):
        raise UserError(f"{where}: choice = {in_toml(options)}, but it must be a list of values.")
    if len({in_toml(option) for option in options}) < len(options):
        raise UserError(f"{where}: choice = {in_toml(options)} has an option twice; keep each once.")
    if in_toml(default) not in {in_toml(option) for option in options}:
        raise UserError(f"{where}: default = {in_toml(default)} is not one of the options {in_toml(options)}.")
    return Choice(tuple(options), default, when)


def _parse_condition(where: str, key: str, text: object, earlier: Mapping[str, Param]) -> Condition:
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*(.+?)\s*", text) if isinstance(text, str) else None
    value = _literal(match[3]) if match else None
    if match is None or value is None:
        raise UserError(
            f"{where}: when = {in_toml(text)} is not a condition; write a parameter, one of "
            f'{" ".join(COMPARISONS)}, and a value, such as "head_layers > 0" or "optimizer == \'adam\'".'
        )
    other, comparison = match[1], match[2]
    if other == key:
        raise UserError(f"{where}: when = {in_toml(text)} refers to itself; name a parameter above it.")
    if other == "backbone" and other not in earlier:
        raise UserError(f"{where}: when = {in_toml(text)} is for a study of several backbones, and this one has one.")
    if other not in earlier:
        raise UserError(
            f"{where}: when = {in_toml(text)} needs '{other}', which no line above sets; "
            f"set it above this one, or name what is: {', '.join(earlier) or 'nothing yet'}."
        )
    sampled = earlier[other].corners
    if is_number(value) and all(map(is_number, sampled)):
        return Condition(other, comparison, value)
    # Texts and true/false: only equality has a meaning, and a value that never occurs is a slip of the pen.
    if comparison not in ("==", "!=") or in_toml(value) not in {in_toml(option) for option in sampled}:
        raise UserError(
            f"{where}: when = {in_toml(text)} cannot be compared with {other}, "
            f"which is one of {', '.join(map(in_toml, sampled))}; use == or != and one of those."
        )
    return Condition(other, comparison, value)


def _literal(text: str) -> Value | None:
    """The TOML value of a text: a number, a quoted text, true or false; None for anything else."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None
    return value if isinstance(value, Value) else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite int or float; true and false are not numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
