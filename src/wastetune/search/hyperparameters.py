"""KerasTuner's hyperparameters as distributions of Optuna.

`Int` and `Float` keep their bounds, their step and their logarithm. A range whose step multiplies has few values, and
becomes a choice among them, as `Choice` and `Boolean` are. Optuna has no `reverse_log`: it is drawn evenly.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from wastetune.errors import UserError
from wastetune.training.custom_head import is_fixed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial


def distribution_of(asked: Any) -> "BaseDistribution":
    """The distribution of a keras_tuner HyperParameter, which is not `Fixed`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not hasattr(asked, "min_value"):
        return CategoricalDistribution(asked.values)
    low, high, step, kind = asked.min_value, asked.max_value, asked.step, type(asked.min_value)
    log = asked.sampling == "log"
    if step is not None and asked.sampling != "linear":
        return CategoricalDistribution([kind(value) for value in asked.values])
    if step is not None:  # Optuna would warn of a bound that no step reaches
        exact = [Decimal(str(number)) for number in (low, high, step)]
        high = kind(exact[0] + (exact[1] - exact[0]) // exact[2] * exact[2])
    if kind is int:
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def check_hyperparameters(where: str, all_asked: Iterable[Any], *, defaults: bool = True) -> None:
    """UserError where one name has two kinds of values or, with `defaults`, a default is not among the values."""
    from optuna.distributions import check_distribution_compatibility

    found: dict[str, BaseDistribution] = {}
    for asked in all_asked:
        if is_fixed(asked):
            continue
        drawn = distribution_of(asked)
        if defaults and not is_value(asked, asked.default):
            raise UserError(
                f"{where}: the default of {asked.name!r}, {asked.default}, is none of its values; trial 0 runs it, so "
                "move it or widen the range"
            )
        try:
            check_distribution_compatibility(found.setdefault(asked.name, drawn), drawn)
        except ValueError:
            raise UserError(
                f"{where}: {asked.name!r} stands for two kinds of values in two conditional scopes; give each a name"
            ) from None


def is_value(asked: Any, value: Any) -> bool:
    """Whether a keras_tuner HyperParameter, which is not `Fixed`, can have the value."""
    drawn = distribution_of(asked)
    try:
        return bool(drawn._contains(drawn.to_internal_repr(value)))
    except ValueError:
        return False


def suggest(trial: "BaseTrial", key: str, asked: Any) -> Any:
    """The value that an Optuna trial (running or `FixedTrial`) suggests for a keras_tuner HyperParameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match distribution_of(asked):
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(key, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(key, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(key, choices)
    raise AssertionError(asked)
