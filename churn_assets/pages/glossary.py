"""What words mean that more than one page uses."""

from dataclasses import dataclass

from churn_assets.churn.policy import TierNames


@dataclass(frozen=True)
class TierLimits:
    """From which probability of leaving on a customer is of high and of medium risk.

    least_alerted: the lowest probability of a customer at risk, whom that makes medium at least; None without any.
    """

    high: float
    medium: float
    least_alerted: float | None

    def told(self, names: TierNames) -> str:
        """In words; of the customers at risk only where they reach below the second limit."""
        is_lower = self.least_alerted is not None and self.least_alerted < self.medium
        lowered = f", which this week is from {self.least_alerted:.1%}" if is_lower else ""
        return (
            f"By the probability of leaving: {names.high} from {self.high:.1%}, {names.medium} from {self.medium:.1%} "
            f"or if at risk{lowered}; {names.low} below."
        )
