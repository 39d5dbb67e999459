"""Whoever filters a table of the flow by any of its columns finds the rows that are there."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyspark.sql import functions as F

from churn_assets.delta.reading import dataset_of
from churn_assets_tests.conftest import Project


def tables_of(project: Project) -> dict[str, DeltaTable]:
    """Every Delta table of a project by its name."""
    root = Path(project.settings.lakehouse)
    return {str(log.parent.relative_to(root)): DeltaTable(str(log.parent)) for log in sorted(root.rglob("_delta_log"))}


def asked(rows: pa.Table) -> Iterator[tuple[str, Any]]:
    """Each flat column that has a value, and a value in its middle to ask for."""
    for field in rows.schema:
        if not pa.types.is_nested(field.type):
            values = sorted(value for value in rows[field.name].unique().to_pylist() if value is not None)
            if values:
                yield field.name, values[len(values) // 2]


def sql(value: Any) -> str:
    """A value as DataFusion's SQL has it."""
    if isinstance(value, datetime):
        return f"arrow_cast('{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z', 'Timestamp(Microsecond, Some(\"UTC\"))')"
    if isinstance(value, date):
        return f"DATE '{value}'"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def compared(name: str, value: Any, rows: pa.Table) -> dict[str, pc.Expression]:
    column, scalar = pc.field(name), pa.scalar(value, rows.schema.field(name).type)
    return {
        "at least": column >= scalar,
        "at most": column <= scalar,
        "just": column == scalar,
        "more": column > scalar,
        "null": column.is_null(),
    }


def miscounted(project: Project) -> list[str]:
    """Every filter by which a reader finds another number of rows than there are."""
    wrong, told = [], 0
    for name, table in tables_of(project).items():
        rows, dataset = dataset_of(table).to_table(), table.to_pyarrow_dataset()
        engine = project.lakehouse.read(name)
        for column, value in asked(rows):
            told += 1
            for what, filtered in compared(column, value, rows).items():
                there, found = len(rows.filter(filtered)), len(dataset.to_table(columns=[column], filter=filtered))
                wrong += [f"{name}: {column} {what} {value}: pyarrow {found} of {there}"] if found != there else []
            there = len(rows.filter(compared(column, value, rows)["at least"]))
            asked_of_duckdb = f'SELECT count(*) FROM dataset WHERE "{column}" >= ?'
            (by_duckdb,) = duckdb.execute(asked_of_duckdb, [value]).fetchone() or (None,)
            scanned = table.scan(columns=[column], predicate=f'"{column}" >= {sql(value)}')
            others = {
                "duckdb": by_duckdb,
                "scan": pa.RecordBatchReader.from_stream(scanned).read_all().num_rows,
                "engine": engine.where(F.col(column) >= F.lit(value)).count(),
            }
            wrong += [
                f"{name}: {column} >= {value}: {who} {found} of {there}"
                for who, found in others.items()
                if found != there
            ]
    assert told > 100
    return wrong


def test_every_reader_finds_the_rows_of_every_table_by_every_column(listed: Project) -> None:
    assert miscounted(listed) == []
    spend = tables_of(listed)["food_delivery/gold_customer_churn_risk"].to_pandas(
        columns=["spend"], filters=[("spend", ">=", Decimal(20))]
    )
    assert len(spend) > 0
