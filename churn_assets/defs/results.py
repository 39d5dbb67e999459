"""What every stage reports to Dagster in the same way: table specs, table results and check results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pyspark.sql.types import StructType

from churn_assets.churn.columns import Column
from churn_assets.churn.outcomes import Figure, Outcome
from churn_assets.delta.commits import TableCommit
from churn_assets.pages import markdown
from churn_assets.pages.pictures import Picture
from churn_assets.pages.tables import criteria_table

OWNERS = ["team:retention-ml"]
TABLE_KINDS = {"pyspark", "delta"}


def table_spec(table: str, description: str, *, group: str, deps: Sequence[str]) -> dg.AssetSpec:
    """The spec of a lakehouse table computed together with others."""
    return dg.AssetSpec(
        table.split("/"),
        deps=[dep.split("/") for dep in deps],
        description=description,
        group_name=group,
        kinds=TABLE_KINDS,
        owners=OWNERS,
        code_version="1",
    )


@dataclass(frozen=True)
class ColumnNote:
    """What a column means, and the columns it is computed from, as (table, column)."""

    meaning: str = ""
    reads: Sequence[tuple[str, str]] = ()


def described(columns: Sequence[Column]) -> dict[str, ColumnNote]:
    """Notes of the columns of a declared table."""
    return {column.name: ColumnNote(column.meaning) for column in columns}


def same_columns(names: Sequence[str], table: str, meanings: Mapping[str, str]) -> dict[str, ColumnNote]:
    """Notes of columns that come from those of the same names in `table`."""
    return {name: ColumnNote(meanings.get(name, ""), [(table, name)]) for name in names}


def table_result(
    commit: TableCommit, metadata: Mapping[str, Any], notes: Mapping[str, ColumnNote] | None = None
) -> dg.MaterializeResult:
    """A committed table: its Delta version is the data version, so that lineage names exact versions.

    notes: by column; a column without one has no description and no lineage.
    """
    notes = {name: note for name, note in (notes or {}).items() if name in commit.schema.names}
    lineage = {name: _column_deps(note) for name, note in notes.items() if note.reads}
    return dg.MaterializeResult(
        asset_key=commit.table.split("/"),
        data_version=dg.DataVersion(str(commit.version)),
        metadata={
            "dagster/row_count": commit.rows,
            "dagster/table_name": commit.table.replace("/", "."),
            "dagster/column_schema": _column_schema(commit.schema, notes),
            **({"dagster/column_lineage": dg.TableColumnLineage(lineage)} if lineage else {}),
            "delta_version": commit.version,
            **metadata,
        },
    )


def _column_schema(schema: StructType, notes: Mapping[str, ColumnNote]) -> dg.TableSchema:
    def described(name: str, kind: str) -> dg.TableColumn:
        note = notes.get(name, ColumnNote())
        return dg.TableColumn(name, kind, description=note.meaning or None)

    return dg.TableSchema([described(field.name, field.dataType.simpleString()) for field in schema])


def _column_deps(note: ColumnNote) -> list[dg.TableColumnDep]:
    return [dg.TableColumnDep(dg.AssetKey(table.split("/")), column) for table, column in note.reads]


def as_metadata(picture: Picture) -> dg.MarkdownMetadataValue:
    """A picture that Dagster's UI shows beside the other metadata."""
    return dg.MetadataValue.md(picture.markdown)


def bullets(lines: Sequence[str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown.bullets(lines))


def as_numbers(figures: Iterable[Figure]) -> dict[str, Any]:
    """Each figure that is one of a series, and its limit, as numbers: Dagster plots an asset's over time."""
    shown: dict[str, Any] = {}
    for figure in figures:
        for key, value in ((figure.key, figure.value), (f"{figure.key}_allowed", figure.limit)):
            if not figure.key or value is None:
                continue
            rounded = value if isinstance(value, int) else float(f"{value:.6g}")
            shown[key] = dg.MetadataValue.int(rounded) if isinstance(rounded, int) else dg.MetadataValue.float(rounded)
    return shown


def outcome_metadata(outcome: Outcome) -> dict[str, Any]:
    """What Dagster shows of a check: in words, its figures as a table and as numbers, and who offends."""
    metadata: dict[str, Any] = {"observed": outcome.observed, "allowed": outcome.allowed}
    if outcome.figures:
        metadata |= {"figures": dg.MetadataValue.md(criteria_table(outcome.figures)), **as_numbers(outcome.figures)}
    if outcome.keys:
        metadata["offending_keys"] = list(outcome.keys)
    return metadata


def check_result(
    outcome: Outcome, table: str | None = None, more: Mapping[str, dg.MetadataValue] | None = None
) -> dg.AssetCheckResult:
    """One rule's outcome; `table` where one function reports on several tables or rules; `more`: metadata beside it."""
    severity = dg.AssetCheckSeverity.WARN if outcome.is_warning else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        passed=outcome.is_passed,
        severity=severity,
        description=f"observed: {outcome.observed}; allowed: {outcome.allowed}",
        metadata={**outcome_metadata(outcome), **(more or {})},
        asset_key=None if table is None else table.split("/"),
        check_name=None if table is None else outcome.rule,
    )


def check_evaluation(outcome: Outcome, table: str) -> dg.AssetCheckEvaluation:
    """One rule's outcome as an event, for a step that is not the check's own."""
    result = check_result(outcome, table)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(table.split("/")),
        check_name=outcome.rule,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
