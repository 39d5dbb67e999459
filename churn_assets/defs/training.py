"""Stage 4: the fitted pipeline, logged to MLflow in one run."""

import dagster as dg
from pydantic import Field

from churn_assets.churn import models
from churn_assets.churn.errors import TornTablesError
from churn_assets.churn.evaluation import choose_threshold
from churn_assets.churn.features import FEATURE_SETS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import Evidence
from churn_assets.churn.splits import current_rows, is_validation, split_dates
from churn_assets.defs.features import PANEL
from churn_assets.defs.results import OWNERS
from churn_assets.defs.splits import TEST, TRAIN
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import MODEL_ARTIFACT, TrackingResource, TrainedModel, link

GROUP = "s4_training"
EXAMPLE_ROWS = 5
DEFAULTS = models.GradientBoosting()


class TrainingConfig(dg.Config):
    """Knobs of one training run."""

    max_depth: int = Field(
        DEFAULTS.max_depth,
        ge=1,
        le=12,
        description="Depth of each tree; deeper trees learn finer rules, overfit sooner.",
    )
    iterations: int = Field(
        DEFAULTS.iterations, ge=1, le=500, description="Number of trees; the time to fit grows with it."
    )
    step_size: float = Field(
        DEFAULTS.step_size, gt=0, le=1, description="How much each tree corrects the ones before it."
    )
    min_leaf_share: float = Field(
        DEFAULTS.min_leaf_share, ge=0, lt=0.5, description="Smallest share of the training rows in a leaf."
    )


@dg.asset(
    key=MODEL_ARTIFACT,
    deps=[TRAIN.split("/"), TEST.split("/")],
    group_name=GROUP,
    kinds={"pyspark", "mlflow"},
    owners=OWNERS,
    code_version="1",
)
def churn_pipeline_model(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The Spark ML pipeline fitted on the training folds, with the threshold chosen on the validation fold."""
    versions = lakehouse.pin(TRAIN, TEST)
    if lakehouse.inputs(TRAIN) != lakehouse.inputs(TEST):
        raise TornTablesError(
            f"{TRAIN} and {TEST} were cut from different versions of {PANEL}.",
            next_step="materialize both again",
        )
    versions |= lakehouse.inputs(TRAIN)
    features = FEATURE_SETS[policy.model.feature_set]
    train = lakehouse.read(TRAIN, versions[TRAIN])
    panel = lakehouse.read(PANEL, versions[PANEL])
    current = current_rows(panel, split_dates(panel, policy), policy)
    with tracking.training_run(context) as run_id:
        settings = models.GradientBoosting(**config.model_dump())
        model = models.fit_churn_model(train, features, settings, rows=lakehouse.row_count(TRAIN, versions[TRAIN]))
        threshold = choose_threshold(
            models.score_counts(models.with_churn_probability(model, train.where(is_validation()))),
            models.score_counts(models.with_churn_probability(model, current)),
            policy,
        )
        cut_off = threshold.value if threshold else None
        digest = models.model_digest(model, cut_off)
        trained = TrainedModel(run_id, features, cut_off, Evidence(digest, policy.digest, versions))
        example = train.select(*features).orderBy("customer_id", "as_of").limit(EXAMPLE_ROWS).toPandas()
        tracking.log_training(trained, model, example, {**config.model_dump(), "feature_set": policy.model.feature_set})
    importances = models.feature_importances(model)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            **link(tracking.tracking_uri, run_id),
            "model_digest": digest,
            "threshold": cut_off if cut_off is not None else "none satisfies the policy on the validation fold",
            "validation_recall": threshold.recall if threshold else "undefined",
            "validation_precision": threshold.precision if threshold else "undefined",
            "validation_alert_share": threshold.alert_share if threshold else "undefined",
            "inputs": versions,
            "feature_importances": dg.MetadataValue.md(
                "\n".join(
                    ["|feature|share of gain|", "|-|-|"]
                    + [
                        f"|{name}|{share:.3f}|"
                        for name, share in sorted(importances.items(), key=lambda item: -item[1])
                    ]
                )
            ),
        },
    )
