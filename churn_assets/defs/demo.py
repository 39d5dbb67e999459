"""The demo lakehouse as source tables, there only while sources.toml has `[demo]`. No other stage knows of it."""

from collections.abc import Iterator

import dagster as dg

from churn_assets.defs.results import table_result, table_spec
from churn_assets.demo.simulator import demo_tables, simulated_lives
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.sources import SourceCatalog

GROUP = "demo"
FOLDER = "demo"
MEANINGS = {
    "orders": "The simulated orders, with a few dirty rows.",
    "reviews": "The simulated reviews.",
    "customers": "The simulated customers and their segments.",
    "campaign_contacts": "Whom the retention team contacted in the simulated past, and whom it held out.",
    "true_churn_probability": "The best possible score of each customer and date. No feature may read it.",
}


@dg.multi_asset(
    name="simulated_quickbite",
    specs=[table_spec(f"{FOLDER}/{name}", meaning, group=GROUP, deps=[]) for name, meaning in MEANINGS.items()],
)
def demo_lakehouse(
    lakehouse: LakehouseResource, sources: dg.ResourceParam[SourceCatalog]
) -> Iterator[dg.MaterializeResult]:
    """A simulated QuickBite from before, through and after its crisis."""
    settings = sources.sources.demo
    if settings is None:
        raise dg.Failure("sources.toml has no [demo]; the demo lakehouse is not part of this installation")
    with lakehouse.held(simulated_lives(lakehouse.spark, settings)) as lives:
        tables = demo_tables(lives, settings)
        for name in MEANINGS:
            commit = lakehouse.at_paths.write(f"{FOLDER}/{name}", getattr(tables, name))
            yield table_result(commit, {"seed": settings.seed})
