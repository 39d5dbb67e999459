"""What a model makes of its features on the whole: the size and the direction of their SHAP values over customers.

Those of one customer, in words, are in `reasons.py`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.intervals import Floats
from churn_assets.churn.shap_values import Explainer
from churn_assets.churn.trees import BoostedTrees

# Means over so many customers differ by a hundredth of what they are from means over all.
MOST_ROWS = 4_000
# Of no correlation: what rounding gives, or less than tells a direction.
LEAST_CORRELATION = 0.1
Direction = Literal["raises", "lowers", "neither"]


@dataclass(frozen=True)
class Influence:
    """Of one feature over some customers. mean: of the sizes of its SHAP values, in log-odds of leaving. direction:
    what a larger value does, by the sign of the correlation of value and SHAP value; neither, where there is none."""

    feature: str
    mean: float
    direction: Direction


def influences(model: BoostedTrees, values: Floats, catalogue: Catalogue = CATALOGUE) -> list[Influence]:
    """By falling size. In: `values`, (rows, the model's features), without NaN; of more than MOST_ROWS rows so many are
    explained, evenly spaced: where ids are given in turn, the first are those who have been there for longest.

    Lundberg et al. (2020), as `shap_values.py`, whose background is these same rows. The margin is half the log-odds.
    Numbers that are names have no larger ones.
    """
    if not len(values):
        return []
    explained = values[np.arange(MOST_ROWS) * len(values) // MOST_ROWS] if len(values) > MOST_ROWS else values
    explainer = Explainer(model.trees, [tree.visits(explained) for tree in model.trees], len(model.features))
    contributions = 2 * explainer.contributions(explained)
    found = [
        Influence(
            name,
            float(np.abs(of).mean()),
            "neither" if catalogue.of[name].kind == "category" else _direction(explained[:, place], of),
        )
        for place, (name, of) in enumerate(zip(model.features, contributions.T, strict=True))
    ]
    return sorted(found, key=lambda each: (-each.mean, each.feature))


def _direction(values: Floats, contributions: Floats) -> Direction:
    if np.ptp(values) == 0 or np.ptp(contributions) == 0:
        return "neither"
    correlation = float(np.corrcoef(values, contributions)[0, 1])
    if abs(correlation) < LEAST_CORRELATION:
        return "neither"
    return "raises" if correlation > 0 else "lowers"
