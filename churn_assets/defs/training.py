"""Stage 5: the fitted pipeline, logged to MLflow in one run."""

from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
from pydantic import Field

from churn_assets.churn import models
from churn_assets.churn.errors import TornTablesError
from churn_assets.churn.features import FEATURE_SETS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import Evidence
from churn_assets.churn.ranking import precision_recall_curve
from churn_assets.churn.splits import current_rows, split_dates
from churn_assets.defs.feasibility import FEASIBILITY, require_feasible_definition, require_panel_of
from churn_assets.defs.features import PANEL
from churn_assets.defs.results import OWNERS, picture
from churn_assets.defs.splits import TEST, TRAIN
from churn_assets.pictures import precision_recall
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import MODEL_ARTIFACT, TrackingResource, TrainedModel, link

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP = "s5_training"
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
    deps=[TRAIN.split("/"), TEST.split("/"), FEASIBILITY.split("/")],
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
    # Asked again here, because a blocking check only blocks within its own run.
    require_panel_of(lakehouse, versions[PANEL], policy)
    require_feasible_definition(lakehouse, versions[PANEL], policy)
    features = FEATURE_SETS[policy.model.feature_set]
    train = lakehouse.read(TRAIN, versions[TRAIN])
    panel = lakehouse.read(PANEL, versions[PANEL])
    current = current_rows(panel, split_dates(panel, policy), policy)
    settings = models.GradientBoosting(**config.model_dump())
    with tracking.training_run(context) as run_id:
        model = models.train_churn_model(
            train, current, settings, policy, rows=lakehouse.row_count(TRAIN, versions[TRAIN])
        )
        digest = models.model_digest(model.pipeline, model.cut_off)
        evidence = Evidence(digest, policy.digest, versions)
        trained = TrainedModel(run_id, features, model.cut_off, settings, evidence)
        example = train.select(*features).orderBy("customer_id", "as_of").limit(EXAMPLE_ROWS).toPandas()
        tracking.log_training(trained, model.pipeline, example, {**config.model_dump(), **policy.model.model_dump()})
    threshold, importances = model.threshold, models.feature_importances(model.pipeline)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            **link(tracking.tracking_uri, run_id),
            "model_digest": digest,
            "threshold": threshold.value if threshold else "none satisfies the policy on the validation fold",
            "validation_recall": threshold.recall if threshold else "undefined",
            "validation_precision": threshold.precision if threshold else "undefined",
            "validation_alert_share": threshold.alert_share if threshold else "undefined",
            "precision_recall_curve": picture(_validation_curve(model, policy)),
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


def _validation_curve(model: models.ChurnModel, policy: ChurnPolicy) -> "Figure":
    scores, labels, rows = np.array(model.validation, dtype=float).reshape(-1, 3).T
    return precision_recall(
        {"model, validation fold": precision_recall_curve(scores, labels, rows)},
        title="The threshold, chosen on the validation fold",
        chosen=(model.threshold.recall, model.threshold.precision) if model.threshold else None,
        limits=[("precision floor", policy.gate.precision_floor)],
    )
