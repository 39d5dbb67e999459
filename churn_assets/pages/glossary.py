"""What words mean that more than one page uses."""

from churn_assets.churn.policy import TierNames
from churn_assets.churn.week_at_risk import TierLimits


def tiers_told(limits: TierLimits, names: TierNames) -> str:
    """What the risk tiers are; of the customers at risk only where they reach below the limit of the second."""
    is_lower = limits.least_alerted is not None and limits.least_alerted < limits.medium
    lowered = f", which this week is from {limits.least_alerted:.1%}" if is_lower else ""
    return (
        f"By the probability of leaving: {names.high} from {limits.high:.1%}, {names.medium} from {limits.medium:.1%} "
        f"or if at risk{lowered}; {names.low} below."
    )
