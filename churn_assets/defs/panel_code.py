"""Which code computes the panel: a panel that other code computed is stale."""

from functools import cache

from churn_assets.churn import features, labels, touched
from churn_assets.resources.running_code import code_digest

# What `ml_churn_features` calls; `catalogue.py` and all else that computes a value is imported from there. And what
# decides which values are not computed again.
PANEL_MODULES = (features, labels, touched)


@cache
def panel_code() -> str:
    """A hash of the source of the modules that compute features and labels, and of all of this package they import.

    A comment changes it too: to build a panel once more costs minutes, to believe a stale one costs a model.
    """
    return code_digest(module.__name__ for module in PANEL_MODULES)
