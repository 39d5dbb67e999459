"""The feature panel as the flow's assets compute it, of silver orders in Parquet files: `… SILVER OUT`.

Without tables, checks and orchestration, for what those take belongs to `training` and `plain`.
"""

import sys

from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel, with_baseline_rule
from churn_assets.churn.labels import churn_labels
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource


def main(silver_folder: str, out: str) -> None:
    """The stages `gold_customer_churn_risk` and `ml_churn_features`, each of which writes its rows."""
    spark, policy = spark_resource(settings_from_env()).spark_session, ChurnPolicy()
    silver = spark.read.parquet(silver_folder)
    calendar = as_of_calendar(silver, policy)
    rows = with_baseline_rule(customer_snapshots(silver, calendar, policy), policy)
    rows.write.option("compression", "zstd").parquet(f"{out}/snapshots", mode="overwrite")
    snapshots = spark.read.parquet(f"{out}/snapshots")
    labels = churn_labels(snapshots, silver, calendar, policy)
    panel = feature_panel(snapshots, policy).join(labels, ["customer_id", "as_of"])
    panel.write.option("compression", "zstd").parquet(f"{out}/panel", mode="overwrite")


if __name__ == "__main__":
    main(*sys.argv[1:])
