"""Median pruning: after which epochs a trial reports its score, and when it is stopped."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

# Complete trials before there is a median worth pruning by.
PRUNING_STARTUP = 5
# So many scores of a trial are reported. Each report costs a write.
_REPORTS = 8


def is_reported(epoch: int, epochs: int) -> bool:
    """Whether a trial of so many epochs reports its score, and may be pruned, after this epoch."""
    return epoch % max(1, epochs // _REPORTS) == 0


def is_hopeless(study: "optuna.Study", scores: Mapping[int, float]) -> bool:
    """Whether a trial with these scores (by epoch) stays below the median of the study's complete trials."""
    from optuna.trial import TrialState, create_trial

    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(scores))
    return bool(study.pruner.prune(study, trial))
