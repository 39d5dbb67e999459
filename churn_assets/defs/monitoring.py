"""Stage 9: what is watched of every scored week, and whether it asks for a retraining. Stops and starts nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
import pyarrow as pa
from pyspark.sql import functions as F

from churn_assets.churn import drift, retraining
from churn_assets.churn.errors import ChurnError, UnprofiledVersionError
from churn_assets.churn.monitoring import (
    MEASUREMENT_COLUMNS,
    MEASUREMENT_SCHEMA,
    UNRECORDED,
    Measurement,
    Metric,
    Status,
    measurements,
    watched,
)
from churn_assets.churn.outcomes import MAX_KEYS, Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.splits import is_validation
from churn_assets.defs.features import PANEL
from churn_assets.defs.results import (
    OWNERS,
    TABLE_KINDS,
    as_metadata,
    as_numbers,
    bullets,
    check_result,
    described,
    table_result,
)
from churn_assets.defs.scoring import MONITORING_GROUP, SCORES
from churn_assets.defs.splits import TRAIN
from churn_assets.pages.pictures import drawn, drift_over_dates, realised_recall
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource
from churn_assets.resources.trained_models import TrainedModel

GROUP = MONITORING_GROUP
PROFILES = "food_delivery/training_profiles"
MONITORING = "food_delivery/monitoring"
DECISIONS = "retrain_decision"
CHECKS = {
    "feature_drift": "No feature of the latest scored week is further from the training data than the policy allows.",
    "score_drift": "The scores of the latest week are distributed as on customers the version was validated on.",
    "alert_share": "The latest week's alerts are not shown to be more than the retention team can contact.",
    "unseen_segments": "The latest week's customers are of segments that the training data have.",
    "estimated_recall": "The latest week's alerts find, by the probabilities, the churners the gate asks for. Blind to "
    "customers who leave more, or less, than others like them used to: what features mean may change.",
    "estimated_precision": "As many of the latest week's alerts leave, by the probabilities, as the gate asks for. "
    "Blind to the same.",
    "realised_recall": "The latest week with known labels: the alerts found the churners the gate asks for.",
    "realised_precision": "The latest week with known labels: as many of the alerts left as the gate asks for.",
}


@dg.asset(
    key=PROFILES.split("/"),
    deps=[TRAIN.split("/"), SCORES.split("/")],
    group_name=GROUP,
    kinds=TABLE_KINDS,
    owners=OWNERS,
    code_version="1",
)
def training_profiles(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """How the training data of each version that scored a week are distributed: each feature, and its own scores.

    Made once for a version, from the table versions it was trained on, and appended.
    """
    inputs = lakehouse.pin(SCORES)
    scoring = {version for (version,) in lakehouse.counts(SCORES, ["model_version"], inputs[SCORES])}
    version = lakehouse.version(PROFILES)
    profiled = set() if version is None else {row["model_version"] for row in lakehouse.records(PROFILES, version)}
    new = sorted(scoring - profiled)
    rows = [profile.row() for number in new for profile in _profiles_of(number, lakehouse, tracking, policy)]
    if rows or version is None:
        version = lakehouse.append_after(PROFILES, version, pa.Table.from_pylist(rows, drift.PROFILE_SCHEMA))
    return table_result(
        lakehouse.commit(PROFILES, version), {"inputs": inputs, "new_versions": new}, described(drift.PROFILE_COLUMNS)
    )


def _profiles_of(
    number: str, lakehouse: LakehouseResource, tracking: TrackingResource, policy: ChurnPolicy
) -> list[drift.Profile]:
    registered = tracking.version(number)
    if registered is None:
        raise UnprofiledVersionError(
            f"Weeks in {SCORES} were scored by version {number} of {tracking.registered_model}, which is no longer "
            "registered.",
            next_step="score these weeks again with the version in production",
        )
    trained = tracking.trained_model_of(registered)
    version = trained.evidence.data_versions[TRAIN]
    until = max(trained.dates.train)
    known = set(lakehouse.table_schema(TRAIN, version).names)
    features = [feature.name for feature in policy.catalogue.features if feature.name in known and feature.is_watched]

    # Of rows it was fitted on a model is surer than of those it will serve; on the validation fold it was not.
    scored = tracking.load_scorer(registered).score(lakehouse.read(TRAIN, version).where(is_validation()))
    window = observed_days(policy) if drift.TENURE in known else None
    asked = ["customer_id", "as_of", *([] if window is None else [drift.TENURE])]
    scores = scored.select(*asked, F.col("churn_probability").alias(drift.SCORE)).toArrow()
    return [
        *drift.profiles(
            lakehouse.columns(TRAIN, version), features, number, until, policy.catalogue, window_days=window
        ),
        *drift.profiles(scores.column, [drift.SCORE], number, until, window_days=window),
    ]


@dg.asset(
    key=MONITORING.split("/"),
    deps=[PANEL.split("/"), SCORES.split("/"), PROFILES.split("/")],
    group_name=GROUP,
    kinds=TABLE_KINDS,
    owners=OWNERS,
    code_version="3",
)
def monitoring(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """Every figure of every scored week, computed anew: drift, alerts, unseen segments, and recall, first as the
    probabilities foretell it and then as it is known.

    Features and labels are those of the latest panel, so a correction that came later counts; probabilities and alerts
    are those that were served.
    """
    inputs, before = lakehouse.pin(PANEL, SCORES, PROFILES), lakehouse.version(MONITORING)
    panel, scores = (lakehouse.read(table, inputs[table]) for table in (PANEL, SCORES))
    profiles = [drift.Profile.of(row) for row in lakehouse.records(PROFILES, inputs[PROFILES])]
    versions = dict(lakehouse.counts(SCORES, ["as_of", "model_version"], inputs[SCORES]).keys())
    weeks, counted = watched(scores, panel, versions, profiles, observed_days(policy))
    models = {number: _model_of(number, tracking) for number in sorted(set(versions.values()))}
    calibrations = {
        number: model if isinstance(model, str) else model.calibration or UNRECORDED for number, model in models.items()
    }
    alerted = {number: None if isinstance(model, str) else model.alerted for number, model in models.items()}
    figures = measurements(weeks, counted, profiles, policy, calibrations, alerted)
    rows = pa.Table.from_pylist([each.row() for each in figures], MEASUREMENT_SCHEMA)
    commit = lakehouse.overwrite(MONITORING, rows, since=before, metadata={"inputs": inputs})
    counts = Counter(each.status.value for each in figures)
    return table_result(
        commit,
        {
            "inputs": inputs,
            "weeks": len(weeks),
            **as_numbers(each.figure for each in _of_latest_weeks(figures)),
            **{status.value: counts[status.value] for status in Status},
            "alarms": bullets(_alarms(figures) or ["none"]),
            "population_stability": as_metadata(
                drawn(drift_over_dates([each for each in figures if each.metric is Metric.PSI]))
            ),
            "realised_recall": as_metadata(
                drawn(
                    realised_recall(
                        [each for each in figures if each.metric is Metric.REALISED_RECALL],
                        [each for each in figures if each.metric is Metric.ESTIMATED_RECALL],
                    )
                )
            ),
        },
        described(MEASUREMENT_COLUMNS),
    )


def observed_days(policy: ChurnPolicy) -> int | None:
    """How long features look back; None where others computed them, and nobody knows."""
    return policy.windows.observation_days if policy.catalogue.has_orders else None


def _model_of(number: str, tracking: TrackingResource) -> TrainedModel | str:
    """The version as its record has it; why not, where there is none.

    Never an error: a version may have been registered by hand, or its record be gone.
    """
    version = tracking.version(number)
    if version is None:
        return f"version {number} of {tracking.registered_model} is no longer registered"
    try:
        return tracking.trained_model_of(version)
    except ChurnError as unknown:
        return str(unknown).splitlines()[0]


def _of_latest_weeks(figures: Sequence[Measurement]) -> Iterator[Measurement]:
    """Of each figure the latest week for which it is known."""
    latest: dict[str, Measurement] = {}
    for each in sorted(figures, key=lambda each: each.as_of):
        if each.value is not None:
            latest[each.name] = each
    yield from latest.values()


@dg.asset(
    key=DECISIONS,
    deps=[MONITORING.split("/")],
    group_name=GROUP,
    kinds={"delta"},
    owners=OWNERS,
    code_version="1",
)
def retrain_decision(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.MaterializeResult:
    """Whether the latest scored weeks ask for a retraining, because of what; a row for each new word on a week.

    It starts nothing by itself: with `automation.retrain_on = "decision"` the retraining sensor follows it.
    """
    inputs = lakehouse.pin(MONITORING)
    rows = lakehouse.records(MONITORING, inputs[MONITORING])
    # "Two weeks in a row" are two weeks, where every day is scored too.
    figures = [Measurement.of(row) for row in rows if policy.as_of_dates.judges(row["as_of"])]
    version = lakehouse.version(DECISIONS)
    made = [] if version is None else lakehouse.records(DECISIONS, version)
    as_of = max((each.as_of for each in figures), default=None)
    decision = retraining.decide(figures, retraining.latest(made, before=as_of), policy.monitoring)
    if decision is not None and decision != retraining.latest(made):
        row = decision.row(datetime.now(UTC))
        version = lakehouse.append_after(DECISIONS, version, pa.Table.from_pylist([row], retraining.DECISION_SCHEMA))
    if decision is None or version is None:
        return dg.MaterializeResult(metadata={"decision": "no week is scored yet", "inputs": inputs})
    return table_result(
        lakehouse.commit(DECISIONS, version),
        {
            "inputs": inputs,
            "decision": "retrain" if decision.is_retrain else "do not retrain",
            "as_of": str(decision.as_of),
            "model_version": decision.model_version,
            "reasons": bullets(decision.reasons),
        },
        described(retraining.DECISION_COLUMNS),
    )


@dg.multi_asset_check(
    name="monitoring__limits",
    specs=[dg.AssetCheckSpec(name, asset=MONITORING.split("/"), description=text) for name, text in CHECKS.items()],
)
def monitoring_limits(lakehouse: LakehouseResource) -> Iterator[dg.AssetCheckResult]:
    """The latest week of each figure against the policy's limits: beyond the first a warning, the second an error.

    None of them blocks: the scores are there, and the team waits for them.
    """
    rows = lakehouse.records(MONITORING) if lakehouse.has(MONITORING) else []
    figures = [Measurement.of(row) for row in rows]
    chosen = {
        "feature_drift": [m for m in figures if m.metric is Metric.PSI and m.subject != drift.SCORE],
        "score_drift": [m for m in figures if m.metric is Metric.PSI and m.subject == drift.SCORE],
        "alert_share": [m for m in figures if m.metric is Metric.ALERT_SHARE],
        "unseen_segments": [m for m in figures if m.metric is Metric.UNSEEN_SEGMENT_SHARE],
        "estimated_recall": [m for m in figures if m.metric is Metric.ESTIMATED_RECALL],
        "estimated_precision": [m for m in figures if m.metric is Metric.ESTIMATED_PRECISION],
        "realised_recall": [m for m in figures if m.metric is Metric.REALISED_RECALL],
        "realised_precision": [m for m in figures if m.metric is Metric.REALISED_PRECISION],
    }
    for name, of_check in chosen.items():
        yield check_result(_outcome(name, of_check, has_weeks=bool(figures)), MONITORING)


def _outcome(name: str, figures: Sequence[Measurement], *, has_weeks: bool) -> Outcome:
    """Of the latest week with a known figure; the keys are the earlier failures."""
    known = [each for each in figures if each.is_known]
    if not known:
        unestimated = [each for each in figures if each.status is Status.NOT_ESTIMATED]
        if unestimated:
            latest_of_all = max(unestimated, key=lambda each: each.as_of)
            return Outcome(name, True, latest_of_all.description, latest_of_all.allowed)
        absent = "no week has such a figure: no feature is a category" if has_weeks else "no week has been scored yet"
        observed = "no label of a scored week is known yet" if figures else absent
        return Outcome(name, True, observed, "the policy's limits, once there is something to compare")
    as_of = max(each.as_of for each in known)
    latest = sorted((each for each in known if each.as_of == as_of), key=_used_up, reverse=True)
    alarms = [each for each in latest if each.is_alarm]
    observed = f"{as_of}: {'; '.join(each.description for each in alarms or latest[:1])}"
    if not alarms and len(latest) > 1:
        observed = f"{observed}; the other {len(latest) - 1} are further from theirs"
    failed = [each for each in _latest_first(known) if each.as_of < as_of and each.status is Status.FAIL]
    earlier = [f"{each.name} at {each.as_of}" for each in failed[:MAX_KEYS]]
    is_warning = bool(alarms) and all(each.status is Status.WARN for each in alarms)
    figures_ = tuple(each.figure for each in latest)
    return Outcome(name, not alarms, observed, latest[0].allowed, tuple(earlier), is_warning, figures_)


def _alarms(figures: Sequence[Measurement]) -> list[str]:
    """The latest first; of more than MAX_KEYS how many more there are."""
    alarms = [f"{each.as_of}: {each.description}" for each in _latest_first(figures) if each.is_alarm]
    more = len(alarms) - MAX_KEYS
    return alarms if more <= 0 else [*alarms[:MAX_KEYS], f"and {more} more: the column status of {MONITORING}"]


def _latest_first(figures: Sequence[Measurement]) -> list[Measurement]:
    """By week, those of a week by name."""
    return sorted(figures, key=lambda each: (-each.as_of.toordinal(), each.name))


def _used_up(each: Measurement) -> float:
    """How much of what is allowed a figure takes, to tell the worst first."""
    return (each.value or 0.0) / each.limit_warn
