"""What a contact changes in the simulated world, customer by customer: the truth that no company has.

Both the simulator and the benchmark of uplift read it here. For tests and benchmarks only; no feature may see it.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# varied: by customer, some negative; one: the same change of the chance of leaving for everybody; none: no change.
Effects = Literal["varied", "one", "none"]

# Of the chance of leaving. Whoever was let down most is kept by an apology; whoever orders out of habit and is asked
# to think about it leaves more often. The latter is what Ascarza, Iyengar and Schleicher found: 10 % of the contacted
# left and 6 % of those held out ("The Perils of Proactive Churn Prevention", Journal of Marketing Research 53, 2016).
MENDED, AWAKENED = 0.30, 0.10
HABIT_SLOPE = 2.0
# Of a hundred contacted four more stay, about half of what the varied ones spread by.
ONE_EFFECT = -0.04


def contact_effect(effects: Effects, *, leaves: Floats, dissatisfaction: Floats, habit: Floats) -> Floats:
    """What a contact adds to each customer's chance of leaving: -leaves (surely kept) to 1 - leaves (surely lost).

    leaves: that chance without a contact, 0 to 1. dissatisfaction: 0 for nobody let down, 1 and more for the crisis.
    habit: the log of the customer's own rate of orders, 0 for the usual one.
    """
    if effects == "none":
        wanted = np.zeros_like(leaves)
    elif effects == "one":
        wanted = np.full_like(leaves, ONE_EFFECT)
    else:
        is_reminded = 1 / (1 + np.exp(-HABIT_SLOPE * habit))
        wanted = AWAKENED * is_reminded + MENDED * np.expm1(-dissatisfaction)
    return np.clip(wanted, -leaves, 1 - leaves)
