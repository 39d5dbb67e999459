"""The one place that assembles: stages in flow order, resources from the environment, jobs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from churn_assets.churn.policy import Names, Promotion
from churn_assets.churn.tables import (
    CAMPAIGN_CONTACTS,
    CUSTOMERS,
    RETENTION_TABLES,
    REVIEWS,
    SOURCE_TABLES,
    SourceTable,
)
from churn_assets.defs import (
    alerts,
    automation,
    campaigns,
    decisions,
    demo,
    erasures,
    evaluation,
    feasibility,
    features,
    freshness,
    lakehouse,
    list_page,
    maintenance,
    monitoring,
    outbox,
    panel_contract,
    ready_features,
    reasons,
    registry,
    retention,
    risk_report,
    scoring,
    splits,
    training,
    uplift,
)
from churn_assets.engines.addresses import shown
from churn_assets.resources.alerts import alerts_resource
from churn_assets.resources.catalog_lakehouse import CatalogLakehouse, require_tables
from churn_assets.resources.configuration import load_policy, names_of
from churn_assets.resources.contacts import contacts_resource
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource
from churn_assets.resources.settings import Settings, settings_from_env
from churn_assets.resources.sources import SourceCatalog, load_sources
from churn_assets.resources.spark import spark_resource
from churn_assets.resources.tracking import TrackingResource, without_credentials


def default_resources(settings: Settings, pyspark: LazyPySparkResource | None = None) -> dict[str, Any]:
    """Everything the assets need, at the places `settings` names, with another session than theirs if given one.

    Opens nothing.

    Raises InvalidPolicyError or InvalidSourcesError.
    """
    pyspark = pyspark or spark_resource(settings)
    sources = load_sources(settings.sources_file)
    policy = load_policy(settings.policy_file, sources.catalogue)
    if not settings.is_automated:
        policy = policy.model_copy(update={"promotion": Promotion(mode="manual")})
    made = stores(settings, pyspark, names_of(policy, settings.names))
    root = made["lakehouse"].root
    return {
        "pyspark": pyspark,
        **made,
        "alerts": alerts_resource(settings),
        "contacts": contacts_resource(settings),
        "policy": policy,
        "deployment": settings.is_automated,
        "sources": SourceCatalog(sources, settings.project, f"{root}/{demo.FOLDER}", scratch=f"{root}/held"),
    }


def stores(settings: Settings, pyspark: LazyPySparkResource, names: Names) -> dict[str, Any]:
    """The resources that hold what the flow makes, under these names: tables, runs and versions, decisions.

    Raises UnknownTablesError.
    """
    root = f"{settings.lakehouse.rstrip('/')}/{names.table_prefix}".rstrip("/")
    require_tables(settings)
    lakehouse = (
        LakehouseResource(root=root, pyspark=pyspark)
        if settings.tables == "paths"
        else CatalogLakehouse(
            root=root,
            pyspark=pyspark,
            catalog=names.table_prefix or "spark_catalog",
            default_schema=features.PANEL.partition("/")[0],
        )
    )
    tracking = TrackingResource(
        tracking_uri=shown(without_credentials(settings.tracking_uri)),
        artifact_root=settings.artifact_root,
        mlflow_ui=settings.mlflow_ui,
        dagster_ui=settings.dagster_ui,
        dfs_tmpdir=settings.dfs_tmpdir,
        code_commit=settings.code_commit,
        experiment=names.experiment,
        run_name=names.run,
        registered_model=names.registered_model,
    )
    lock_file = str(settings.data / "locks" / "promotion.lock")
    promotions = PromotionsResource(lakehouse=lakehouse, tracking=tracking, lock_file=lock_file)
    return {"lakehouse": lakehouse, "tracking": tracking, "promotions": promotions}


# In flow order. What these modules define is collected; what depends on the configuration is made by `build_defs`.
TRAINING_STAGES = (feasibility, splits, training, evaluation, registry)
STAGES = (lakehouse, features, *TRAINING_STAGES)
SERVING_STAGES = (decisions, scoring, monitoring, reasons, retention, outbox, list_page, campaigns, uplift, risk_report)
LIFECYCLE, TRAINING, REFRESH = automation.LIFECYCLE, automation.TRAINING, automation.REFRESH
DEMO, CHECKS = "demo_lakehouse", "churn_checks"
_LEDGER_CHECK = dg.AssetSelection.checks(decisions.ledger_agrees_with_registry)
# Name, what is selected, what it does.
ASSET_JOBS: tuple[tuple[str, dg.AssetSelection, str], ...] = (
    (DEMO, dg.AssetSelection.groups(demo.GROUP), "Simulates the demo's source tables."),
    (
        LIFECYCLE,
        dg.AssetSelection.groups(*[stage.GROUP for stage in STAGES]) | _LEDGER_CHECK,
        "From the source tables to the production model: clean, build features, train, judge, promote.",
    ),
    (
        TRAINING,
        # With the panel's checks: the job may follow a refresh that another run, or another tool, wrote.
        dg.AssetSelection.groups(*[stage.GROUP for stage in TRAINING_STAGES])
        | dg.AssetSelection.checks_for_assets(dg.AssetKey(features.PANEL.split("/")))
        | _LEDGER_CHECK,
        "From the feature panel to the production model: check, split, train, judge, promote.",
    ),
    (
        REFRESH,
        dg.AssetSelection.groups(lakehouse.GROUP, features.GROUP),
        "From the source tables to the feature panel: land, clean, build features, check them.",
    ),
    (
        scoring.SCORING,
        dg.AssetSelection.groups(scoring.GROUP, monitoring.GROUP),
        (
            "Scores the chosen weeks with the version in production, lists whom to contact, and brings monitoring, "
            "the effect of past lists and the risk report up to date."
        ),
    ),
    (
        CHECKS,
        dg.AssetSelection.all_asset_checks(),
        "Every check on the tables and the model as they stand; makes nothing.",
    ),
)


def jobs_to_run(resources: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The jobs that lead from nothing to the latest week's scores, in order, each with its partition key.

    The demo's sources come first, if there is a demo. What there is to score is asked once the others have run.
    """
    if resources["sources"].sources.demo is not None:
        yield DEMO, None
    yield LIFECYCLE, None
    week = scoring.week_to_score(resources["lakehouse"], resources["tracking"])
    if week is not None:
        yield scoring.SCORING, str(week)


def build_defs(resources: Mapping[str, Any]) -> dg.Definitions:
    """All assets, checks and jobs on the given resources (those of `default_resources`, or a test's)."""
    is_demo = resources["sources"].sources.demo is not None
    is_automated = resources.get("deployment", False)
    status = dg.DefaultSensorStatus.RUNNING if is_automated else dg.DefaultSensorStatus.STOPPED
    assets, checks = _front(resources)
    # What only the retention lists heed is landed right before them.
    assets += [_landing(table, scoring.GROUP, is_demo=is_demo) for table in RETENTION_TABLES]
    stages = [*TRAINING_STAGES, *SERVING_STAGES]
    return dg.Definitions(
        assets=freshness.with_freshness_policies(
            _among_themselves([*assets, *dg.load_assets_from_modules(stages, include_specs=True)]), resources["policy"]
        ),
        asset_checks=[
            *checks,
            *_landing_checks(RETENTION_TABLES),
            *dg.load_asset_checks_from_modules([panel_contract, *stages]),
            *freshness.checks,
        ],
        jobs=[
            *[
                dg.define_asset_job(name, selection=selection, description=description)
                for name, selection, description in ASSET_JOBS
                if is_demo or name != DEMO
            ],
            registry.promote_staging_model,
            registry.rollback_production_model,
            maintenance.lakehouse_maintenance,
            erasures.forget_customers,
        ],
        sensors=[
            automation.retraining_sensor(status),
            automation.refresh_on_new_orders,
            alerts.alert_sensor(status),
        ],
        schedules=[
            automation.refresh_schedule(resources["policy"]),
            scoring.scoring_schedule(resources["policy"]),
            maintenance.scheduled_maintenance,
        ],
        resources=resources,
        # One process, so one JVM for a run instead of one for each of its steps.
        executor=dg.in_process_executor,
    )


def _front(resources: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The assets and checks that lead to the panel: of a ready feature table, of orders, or of the demo's."""
    catalogue = resources["policy"].catalogue
    if catalogue.delivered is not None:
        assets, checks = ready_features.front(catalogue)
        return [*assets], [*checks]
    is_demo = resources["sources"].sources.demo is not None
    stages = [*([demo] if is_demo else []), lakehouse, features]
    landing = [_landing(table, lakehouse.GROUP, is_demo=is_demo) for table in SOURCE_TABLES]
    matches = [lakehouse.match_checks(tables) for tables in ((REVIEWS, CUSTOMERS), RETENTION_TABLES)]
    return (
        [*landing, *dg.load_assets_from_modules(stages, include_specs=True)],
        [
            *_landing_checks(SOURCE_TABLES),
            *matches,
            *dg.load_asset_checks_from_modules(stages),
            panel_contract.as_rebuilt_check(),
        ],
    )


def _landing_checks(tables: Sequence[SourceTable]) -> list[dg.AssetChecksDefinition]:
    of_each = (lakehouse.source_schema_check, lakehouse.readable_values_check)
    return [check(table) for check in of_each for table in tables]


def _landing(table: SourceTable, group: str, *, is_demo: bool) -> dg.AssetsDefinition:
    simulated = [dg.AssetKey([demo.FOLDER, table.name])] if is_demo and table.name in demo.MEANINGS else []
    received = outbox.with_receipts if table is CAMPAIGN_CONTACTS else None
    return lakehouse.source_asset(table, simulated, group=group, also=received)


def _among_themselves(assets: Sequence[Any]) -> list[Any]:
    """`assets` without dependencies on what is not among them: a ready feature table has no orders before it."""
    specs = {id(each): [each] if isinstance(each, dg.AssetSpec) else list(each.specs) for each in assets}
    keys = {spec.key for of_asset in specs.values() for spec in of_asset}

    def present(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(deps=[dep for dep in spec.deps if dep.asset_key in keys])

    def is_whole(of_asset: Sequence[dg.AssetSpec]) -> bool:
        return all(dep.asset_key in keys for spec in of_asset for dep in spec.deps)

    return [
        each
        if is_whole(specs[id(each)])
        else present(each)
        if isinstance(each, dg.AssetSpec)
        else each.map_asset_specs(present)
        for each in assets
    ]


@dg.definitions
def defs() -> dg.Definitions:
    return build_defs(default_resources(settings_from_env()))
