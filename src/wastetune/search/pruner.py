"""Median pruning: when a running trial is compared with the others, and when it is stopped."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

# Complete trials before there is a median worth pruning by.
PRUNING_STARTUP = 5
# A trial is looked at so many times on its way. A look costs a write.
_LOOKS = 8


def is_looked_at(epoch: int, epochs: int) -> bool:
    """Whether a trial of so many epochs is told, and may be pruned, after this one."""
    return epoch % max(1, epochs // _LOOKS) == 0


def is_hopeless(study: "optuna.Study", scores: Mapping[int, float]) -> bool:
    """Whether a trial with these scores (by epoch) stays below the median of the study's complete trials."""
    from optuna.trial import TrialState, create_trial

    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(scores))
    return bool(study.pruner.prune(study, trial))
