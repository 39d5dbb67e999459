"""`churn-assets reproduce`: a registered version made again from the table versions it was trained on, and compared."""

import argparse
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import dagster as dg
from pyspark.sql.types import DoubleType, LongType, StringType

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluations import PROFIT_NAMES
from churn_assets.churn.policy import Names, Promotion
from churn_assets.commands.progress import StageProgress
from churn_assets.commands.terminal import DONE, FAILED
from churn_assets.definitions import LIFECYCLE, STAGES, build_defs, default_resources, stores
from churn_assets.defs import registry
from churn_assets.defs.erasures import forgotten_since
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import PANEL
from churn_assets.defs.lakehouse import SEGMENTS, SILVER
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.running_code import checkout_commit
from churn_assets.resources.settings import Settings
from churn_assets.resources.tracking import TrackingResource
from churn_assets.resources.trained_models import MODEL_ARTIFACT, TrainedModel

# What another evaluation of the same model may well have otherwise.
NOT_COMPARED = {"run_id", "policy_digest", "champion", "verdict", "evaluation"}
COMPARED_TYPES = (DoubleType, LongType, StringType)
Listener = Callable[[dg.Definitions, dg.JobDefinition], Callable[[dg.EventLogEntry], None]]


class UnreproducibleVersionError(ChurnError):
    """A version cannot be made again: there is none, its record is not complete, or the flow did not get through."""


@dataclass(frozen=True)
class Reproduction:
    """The digest, threshold and test figures of a version by name, as recorded and as they came out again.

    inputs: the version of each source table it was made from. forgotten: customers who were erased from these since.
    """

    version: str
    inputs: Mapping[str, int]
    code_commit: str
    recorded: Mapping[str, Any]
    reproduced: Mapping[str, Any]
    forgotten: int = 0

    @property
    def differing(self) -> list[str]:
        return [name for name in self.recorded if self.recorded[name] != self.reproduced[name]]


def reproduce(
    resources: Mapping[str, Any],
    settings: Settings,
    version: str,
    listen: Listener,
) -> Reproduction:
    """Runs the flow up to the evaluation again, in a folder of its own: no table, run or alias is touched.

    The source tables, or the panel if others delivered it, are read at the versions the training rests on, under the
    policy and the settings it recorded.
    listen: given definitions and job, what is to hear of the run's events. Raises UnreproducibleVersionError and
    MissingTableError, if the log of a table no longer holds a version.
    """
    lakehouse: LakehouseResource = resources["lakehouse"]
    tracking: TrackingResource = resources["tracking"]
    trained = _trained(tracking, version)
    recorded = as_recorded_then(_figures(lakehouse, trained))
    panel_version = trained.evidence.data_versions[PANEL]
    behind = lakehouse.inputs(PANEL, panel_version)
    is_delivered = SILVER not in behind
    inputs = {PANEL: panel_version, **behind} if is_delivered else lakehouse.inputs(SILVER, behind[SILVER])
    with TemporaryDirectory(prefix="churn-reproduction-") as folder:
        apart = _apart(settings, Path(folder))
        # Nothing is promoted there: a process started ahead to try the version would outlive the folder it looks into.
        recorded_policy = tracking.policy_of(trained.run_id, resources["policy"].catalogue)
        policy = recorded_policy.model_copy(update={"promotion": Promotion(mode="manual")})
        again = {**resources, **stores(apart, resources["pyspark"], Names()), "policy": policy}
        for table, of_table in inputs.items():
            kept = lakehouse.commit_metadata(table, of_table)
            noted = {name: kept[name] for name in ("panel_digest",) if name in kept}
            # Each is the first version there.
            noted |= {"inputs": dict.fromkeys(behind, 0)} if is_delivered and table == PANEL else {}
            again["lakehouse"].write(table, lakehouse.read(table, of_table), metadata=noted)
        if not is_delivered:
            # Numbers of segments never change, so today's are those of then, with later ones behind them.
            again["lakehouse"].write(SEGMENTS, lakehouse.read(SEGMENTS))
        run_id = _run(again, trained, listen, [*inputs])
        reproduced = _figures(again["lakehouse"], again["tracking"].trained_model(run_id))
    forgotten = len(forgotten_since(lakehouse, trained.trained_at))
    return Reproduction(version, inputs, trained.code_commit, recorded, reproduced, forgotten)


def _trained(tracking: TrackingResource, version: str) -> TrainedModel:
    registered = tracking.version(version)
    if registered is None:
        raise UnreproducibleVersionError(
            f"There is no version {version} of {tracking.registered_model}.",
            next_step="see the versions: churn-assets history",
        )
    return tracking.trained_model_of(registered)


def _figures(lakehouse: LakehouseResource, trained: TrainedModel) -> dict[str, Any]:
    """Digest, threshold and figures of the first evaluation of this model under the policy it was trained under."""
    evidence = trained.evidence
    key = {"run_id": trained.run_id, "model_digest": evidence.model_digest, "policy_digest": evidence.policy_digest}
    rows = [row for row in lakehouse.records(EVALUATIONS) if key.items() <= row.items()]
    if not rows:
        raise UnreproducibleVersionError(
            f"No evaluation of MLflow run {trained.run_id} under policy {evidence.policy_digest} is recorded.",
            next_step=f"look into {EVALUATIONS}: there is nothing to compare with",
        )
    first = min(rows, key=lambda row: row["evaluated_at"])
    schema = lakehouse.table_schema(EVALUATIONS)
    compared = [field.name for field in schema if isinstance(field.dataType, COMPARED_TYPES)]
    return {name: first[name] for name in compared if name not in NOT_COMPARED}


def as_recorded_then(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded `figures` without those that nobody computed then: a table that was widened since has null there."""
    is_earned = figures.get("empc_action") is not None
    return {name: value for name, value in figures.items() if is_earned or name not in PROFIT_NAMES}


def _apart(settings: Settings, folder: Path) -> Settings:
    return replace(
        settings,
        project=folder,
        lakehouse=str(folder / "lakehouse"),
        # A catalog has no folder of its own for a trial: its tables are the real ones.
        tables="paths",
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        artifact_root=str(folder / "artifacts"),
    )


def _run(
    resources: Mapping[str, Any],
    trained: TrainedModel,
    listen: Listener,
    given: Sequence[str],
) -> str:
    """The MLflow run of the flow from the tables `given` to the evaluation."""
    defs = build_defs(resources)
    job = defs.resolve_job_def(LIFECYCLE)
    stages = dg.AssetSelection.groups(*[stage.GROUP for stage in STAGES if stage is not registry])
    chosen = stages - dg.AssetSelection.assets(*[table.split("/") for table in given])
    run_id = str(uuid.uuid4())
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_event_listener(run_id, listen(defs, job))
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            raise_on_error=False,
            asset_selection=sorted(chosen.resolve(defs.resolve_asset_graph())),
            run_config={"ops": {MODEL_ARTIFACT: {"config": asdict(trained.hyperparameters)}}},
        )
    made = {event.asset_key: event.step_materialization_data for event in result.get_asset_materialization_events()}
    # A gate may shut here that was open then, or the other way round: no champion serves in that folder.
    if dg.AssetKey(EVALUATIONS) not in made:
        raise UnreproducibleVersionError(
            "The flow did not get to the evaluation; what failed is named above.",
            next_step="look for the cause in the log file",
        )
    return str(made[dg.AssetKey(MODEL_ARTIFACT)].materialization.metadata["mlflow_run_id"].value)


def comparison(reproduction: Reproduction) -> str:
    """The figures beside one another, and the verdict in the first line."""
    differing = reproduction.differing
    total = len(reproduction.recorded)
    verdict = "different" if differing else "the same"
    equal = total - len(differing)
    lines = [f"Version {reproduction.version} made again is {verdict}: {equal} of {total} figures are equal."]
    now = checkout_commit()
    inputs = sorted(reproduction.inputs.items())
    if reproduction.forgotten:
        lines.append(
            f"  {reproduction.forgotten} customers were forgotten since it was trained: their orders are no longer in "
            "its tables, so digest, threshold and figures may differ for that alone"
        )
    lines += [
        f"  made from   {', '.join(f'{table} version {version}' for table, version in inputs)}",
        f"  by code     {reproduction.code_commit}" + ("" if now == reproduction.code_commit else f"; now {now}"),
        "",
        f"  {'':<20} {'recorded':>24} {'made again':>24}",
    ]
    for name, recorded in reproduction.recorded.items():
        mark = "  differs" if name in differing else ""
        lines.append(f"  {name:<20} {_shown(recorded):>24} {_shown(reproduction.reproduced[name]):>24}{mark}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) else "–" if value is None else repr(value)


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    def progress(defs: dg.Definitions, job: dg.JobDefinition) -> Callable[[dg.EventLogEntry], None]:
        return StageProgress(defs, job, terminal).show

    reproduction = reproduce(default_resources(settings), settings, arguments.version, progress)
    print(f"\n{comparison(reproduction)}", file=terminal)
    return FAILED if reproduction.differing else DONE
