"""What a training leaves in its MLflow run, and the model it trained as that run records it. Asks no store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluation import Alerted
from churn_assets.churn.evaluations import Evidence
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.policy import Names
from churn_assets.churn.purchase_model import PurchaseModel
from churn_assets.churn.recalibration import Calibration
from churn_assets.churn.splits import SplitDates
from churn_assets.churn.trees import BoostedTrees
from churn_assets.pages.pictures import Picture
from churn_assets.serving.files import FILES_TAG

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL_ARTIFACT = "churn_pipeline_model"
REGISTERED_MODEL = Names().registered_model
# Where `serving.flavor` keeps them within the model.
TREES_FILE = "artifacts/trees.json"
POLICY_FILE, THRESHOLD_FILE, IMPORTANCES_FILE = "policy.json", "threshold.json", "feature_importances.json"
SERVED_TAG, DIGEST_TAG = "served_digest", "model_digest"
CALIBRATION_TAG = "calibration"
# On a version: what only the parameters of its run know, so that a version can be told of without its run.
TRAINING_TAG = "training"
# What a run from before there was a choice of it does not name; params are text. A version has named all but workers.
BEFORE = {"estimator": "gbt", "purchase_model": "null", "feature_share": "1.0", "workers": "1", "begun_as_of": "[]"}
ONE_WORKER = {"workers": 1}
ALERTED_METRICS = ("validation_alert_share", "validation_current_customers")
# MLflow cuts the values of a run that are longer than it keeps, without an error: params at 6,000 characters, tags at
# 8,000. The dates of nine years are longer, and the names of 350 features.
LONGEST = 5_000


def in_parts(values: Mapping[str, Any]) -> dict[str, str]:
    """Params or tags of a run as text; of what is longer than LONGEST the rest is under `name part 2` and so on."""
    texts = {name: str(value) for name, value in values.items()}
    return {
        name if begin == 0 else f"{name} part {begin // LONGEST + 1}": text[begin : begin + LONGEST]
        for name, text in texts.items()
        for begin in range(0, max(len(text), 1), LONGEST)
    }


def of_parts(recorded: Mapping[str, str]) -> dict[str, str]:
    """The params or tags that `in_parts` made these of."""
    whole = dict(recorded)
    for name in recorded:
        for number in count(2):
            if (part := whole.pop(f"{name} part {number}", None)) is None:
                break
            whole[name] += part
    return whole


def provenance_tags(evidence: Evidence, features: Sequence[str], threshold: float | None) -> dict[str, str]:
    """What identifies a model, as tags of its run and of its version."""
    return {
        DIGEST_TAG: evidence.model_digest,
        "policy_digest": evidence.policy_digest,
        "data_versions": json.dumps(dict(evidence.data_versions), sort_keys=True),
        "features": json.dumps(list(features)),
        "threshold": json.dumps(threshold),
    }


def calibration_tag(calibration: Calibration | None) -> dict[str, str]:
    """What the judged customers said of the scores, as a tag of the run and of the version; null: nothing."""
    return {CALIBRATION_TAG: json.dumps(None if calibration is None else calibration.record())}


@dataclass(frozen=True)
class LoggedTraining:
    """What a training leaves in its MLflow run.

    reference: rows of the features with the `churn_probability` the flow gave them, for the serving contract. inputs:
    the folder or URI of each input table. validated_on: the one that the metrics are of. documents, pictures: by the
    name of their file in the run.
    """

    evidence: Evidence
    features: Sequence[str]
    threshold: float | None
    trees: BoostedTrees
    reference: "pd.DataFrame"
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    inputs: Mapping[str, str]
    validated_on: str
    documents: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, Picture]


class UnknownRunError(ChurnError):
    """An MLflow run does not hold what a training leaves in it."""


@dataclass(frozen=True)
class TrainedModel:
    """A logged model as its MLflow run records it; threshold is None where no cut-off satisfied the policy.

    purchases: the purchase model that it was averaged with and has to beat; None where there was none to fit.
    files_digest: of every file of it, as they were logged; None for a model that version 0.2.0 or before logged.
    served_digest: the digest of the model that a process of its own was seen to load and score; None if none was.
    verdict: of its latest evaluation; None if there was none. calibration: what the customers of that evaluation, whom
    it never saw, said of its scores; None if they said nothing, or if version 0.3.0 or before judged it. alerted: what
    its threshold alerted of the customers it was chosen on; None without one, or if version 0.7.0 or before chose it.
    begun: the as-of dates that it learned from as far as they were known; none if version 0.8.0 or before trained it.
    """

    run_id: str
    features: Sequence[str]
    threshold: float | None
    hyperparameters: GradientBoosting
    evidence: Evidence
    dates: SplitDates
    trained_at: datetime
    code_commit: str
    purchases: PurchaseModel | None = None
    files_digest: str | None = None
    served_digest: str | None = None
    verdict: str | None = None
    calibration: Calibration | None = None
    alerted: Alerted | None = None
    begun: tuple[date, ...] = ()

    @property
    def uri(self) -> str:
        return f"runs:/{self.run_id}/{MODEL_ARTIFACT}"

    def evidence_under(self, policy_digest: str, champion: str | None) -> Evidence:
        """What a decision made now rests on: this model and its data, the policy and the champion of now."""
        return replace(self.evidence, policy_digest=policy_digest, champion=champion)

    def tags(self) -> dict[str, str]:
        """What a version has as tags: all of this but what judging it again changes, so that it outlives its run."""
        files = {} if self.files_digest is None else {FILES_TAG: self.files_digest}
        knobs = asdict(self.hyperparameters)
        training = {
            # One worker is not named, so that what version 0.6.0 or before registered still has its training's tags.
            **{name: value for name, value in knobs.items() if ONE_WORKER.get(name) != value},
            "test_as_of": str(self.dates.test),
            "train_as_of": [str(day) for day in self.dates.train],
            "is_out_of_time": self.dates.is_out_of_time,
            "trained_at": self.trained_at.isoformat(),
            "code_commit": self.code_commit,
            "purchase_model": None if self.purchases is None else asdict(self.purchases),
            # Not named where it is not known, as above.
            **({} if self.alerted is None else {"alerted": asdict(self.alerted)}),
            **({"begun_as_of": [str(day) for day in self.begun]} if self.begun else {}),
        }
        known = provenance_tags(self.evidence, self.features, self.threshold)
        return known | files | {TRAINING_TAG: json.dumps(training)}

    @staticmethod
    def of_version(version: "ModelVersion") -> "TrainedModel":
        """As the version's own tags record it, for one whose run is gone.

        Raises UnknownRunError for a version that was registered before versions recorded this.
        """
        tags = version.tags
        try:
            training = ONE_WORKER | json.loads(tags[TRAINING_TAG])
            return TrainedModel(
                str(version.run_id),
                json.loads(tags["features"]),
                json.loads(tags["threshold"]),
                GradientBoosting(**{name: training[name] for name in asdict(GradientBoosting())}),
                Evidence(tags["model_digest"], tags["policy_digest"], json.loads(tags["data_versions"])),
                SplitDates(
                    date.fromisoformat(training["test_as_of"]),
                    tuple(map(date.fromisoformat, training["train_as_of"])),
                    training["is_out_of_time"],
                ),
                datetime.fromisoformat(training["trained_at"]),
                training["code_commit"],
                _purchase_model(training["purchase_model"]),
                tags.get(FILES_TAG),
                # No process can be seen any more to have served it; the probe asks again before it is promoted.
                None,
                tags.get("verdict"),
                _calibration(tags),
                Alerted(**training["alerted"]) if "alerted" in training else None,
                tuple(map(date.fromisoformat, training.get("begun_as_of", ()))),
            )
        except KeyError as missing:
            raise UnknownRunError(
                f"MLflow run {version.run_id} of version {version.version} is gone, and the version itself does not "
                f"record {missing}.",
                next_step="restore the run in MLflow, or train and register again",
            ) from missing

    @staticmethod
    def of(run: "Run") -> "TrainedModel":
        """Raises UnknownRunError for a run that no training of these assets made."""
        try:
            return TrainedModel._of(run)
        except KeyError as missing:
            raise UnknownRunError(
                f"MLflow run {run.info.run_id} does not record {missing}: it was not trained by these assets, or by an "
                f"earlier version of them.",
                next_step="train and register again",
            ) from missing

    @staticmethod
    def _of(run: "Run") -> "TrainedModel":
        tags, params, metrics = of_parts(run.data.tags), BEFORE | of_parts(run.data.params), run.data.metrics
        evidence = Evidence(tags["model_digest"], tags["policy_digest"], json.loads(tags["data_versions"]))
        # Params are text; the defaults know the types.
        has_alerted = all(name in metrics for name in ALERTED_METRICS)
        knobs = {name: type(default)(params[name]) for name, default in asdict(GradientBoosting()).items()}
        return TrainedModel(
            run.info.run_id,
            json.loads(tags["features"]),
            json.loads(tags["threshold"]),
            GradientBoosting(**knobs),
            evidence,
            SplitDates(
                date.fromisoformat(params["test_as_of"]),
                tuple(map(date.fromisoformat, json.loads(params["train_as_of"]))),
                params["is_out_of_time"] == "True",
            ),
            datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            tags["code_commit"],
            _purchase_model(json.loads(params["purchase_model"])),
            tags.get(FILES_TAG),
            tags.get(SERVED_TAG),
            tags.get("verdict"),
            _calibration(tags),
            Alerted.of(*(metrics[name] for name in ALERTED_METRICS)) if has_alerted else None,
            tuple(map(date.fromisoformat, json.loads(params["begun_as_of"]))),
        )


def _purchase_model(recorded: Mapping[str, float] | None) -> PurchaseModel | None:
    return None if recorded is None else PurchaseModel(**recorded)


def _calibration(tags: Mapping[str, str]) -> Calibration | None:
    recorded = json.loads(tags.get(CALIBRATION_TAG, "null"))
    return None if recorded is None else Calibration.of(recorded)
