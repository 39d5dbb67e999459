"""Signs that a model sees the future. A canary proves nothing; silence of all of them is what a fair model shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from churn_assets.churn.intervals import Floats
from churn_assets.churn.ranking import roc_auc


@dataclass(frozen=True)
class LeakageCanary:
    """How well one feature alone ranks the churners, in whichever direction is better: 0.5 to 1."""

    feature: str
    roc_auc: float


def single_feature_aucs(features: Mapping[str, Floats], labels: Floats) -> Iterator[LeakageCanary]:
    """A canary for each feature; labels hold both classes."""
    for name, values in features.items():
        area = roc_auc(values, labels)
        assert area is not None, "labels hold both classes"
        yield LeakageCanary(name, max(area, 1 - area))
