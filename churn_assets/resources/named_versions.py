"""Which versions of the tables something names: registered models, evaluations, the ledger, scores. Removes nothing."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from churn_assets.delta.tables import MissingTableError
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource


def named_versions(
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    *,
    recorded_in: Iterable[str],
    scored_in: Iterable[str],
    features: str,
) -> dict[str, set[int]]:
    """The versions of each table that a record names, those they were computed from, and the latest with theirs.

    recorded_in: tables whose rows have `data_versions`. scored_in: tables whose rows have the `features_version` of the
    table `features`. Needs no JVM. Raises what MLflow does where it does not answer: then nobody knows.
    """
    named: dict[str, set[int]] = defaultdict(set)
    pairs = [
        *((table, version) for table in lakehouse.tables() for version in [lakehouse.version(table)]),
        *(pair for versions in tracking.data_versions() for pair in versions.items()),
        *_recorded(lakehouse, recorded_in),
        *_scored(lakehouse, scored_in, features),
    ]
    while pairs:
        table, version = pairs.pop()
        if version is None or version in named[table] or not lakehouse.has(table):
            continue
        named[table].add(version)
        pairs += _inputs(lakehouse, table, version).items()
    return {table: versions for table, versions in named.items() if versions}


def _inputs(lakehouse: LakehouseResource, table: str, version: int) -> Mapping[str, int]:
    try:
        return lakehouse.inputs(table, version)
    except MissingTableError:
        return {}  # the log has lost it, and with it what it was computed from


def _recorded(lakehouse: LakehouseResource, tables: Iterable[str]) -> Iterator[tuple[str, int]]:
    for table in tables:
        if lakehouse.has(table):
            for row in lakehouse.records(table):
                yield from dict(row["data_versions"] or ()).items()


def _scored(lakehouse: LakehouseResource, tables: Iterable[str], features: str) -> Iterator[tuple[str, int]]:
    for table in tables:
        if lakehouse.has(table):
            yield from ((features, version) for (version,) in lakehouse.counts(table, ["features_version"]))
