"""Hyperparameter-optimisation studies of transfer learning on image folders."""

from typing import TYPE_CHECKING

from wastetune.errors import UserError

if TYPE_CHECKING:
    __version__: str
    from wastetune.api import evaluate, load_report, load_trials, predict, run_study

__all__ = ["UserError", "__version__", "evaluate", "load_report", "load_trials", "predict", "run_study"]


def __getattr__(name: str) -> object:
    """What is in `__all__`, imported when it is first asked for: `import wastetune` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("wastetune")
    from wastetune import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
