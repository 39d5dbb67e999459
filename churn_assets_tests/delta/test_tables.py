"""A table is opened, or refused by name, by its log alone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from churn_assets.delta.reading import records
from churn_assets.delta.tables import UnsupportedTableError, committed_at, open_delta, row_count


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A table of one commit."""
    folder = str(tmp_path / "things")
    deltalake.write_deltalake(folder, pa.table({"id": [1, 2]}))
    return folder


def require_reader_feature(path: str, protocol: dict[str, Any], **properties: str) -> None:
    """Rewrites the first commit so that the table asks its readers for more."""
    log = Path(path) / "_delta_log" / f"{0:020}.json"
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "protocol" in entry:
            entry["protocol"] = protocol
        if "metaData" in entry:
            entry["metaData"]["configuration"] |= properties
            schema = json.loads(entry["metaData"]["schemaString"])
            for number, field in enumerate(schema["fields"], start=1):
                mapping = {"id": number, "physicalName": field["name"]}
                field["metadata"] = {f"delta.columnMapping.{key}": value for key, value in mapping.items()}
            if properties:
                entry["metaData"]["schemaString"] = json.dumps(schema)
        lines.append(json.dumps(entry))
    log.write_text("\n".join(lines), encoding="utf-8")


def by_features(*names: str) -> dict[str, Any]:
    return {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": list(names),
        "writerFeatures": list(names),
    }


MAPPED = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "1"}


@pytest.mark.parametrize(
    ("protocol", "properties", "named"),
    [
        (by_features("deletionVectors"), {}, "deletionVectors"),
        (by_features("columnMapping"), MAPPED, "columnMapping"),
        ({"minReaderVersion": 2, "minWriterVersion": 5}, MAPPED, "columnMapping"),
        (by_features("typeWidening"), {}, "typeWidening"),
    ],
    ids=["deletion vectors", "column mapping", "column mapping by protocol version 2", "type widening"],
)
def test_a_table_whose_files_are_not_its_rows_is_refused_by_name(
    path: str, protocol: dict[str, Any], properties: dict[str, str], named: str
) -> None:
    require_reader_feature(path, protocol, **properties)
    with pytest.raises(UnsupportedTableError, match=f"- {named}\n") as refused:
        open_delta(path, next_step="")
    assert 'format = "table"' in str(refused.value)


def test_a_harmless_reader_feature_is_not_refused(path: str) -> None:
    require_reader_feature(path, by_features("timestampNtz"))
    table = open_delta(path, next_step="")
    assert (row_count(table), records(table)) == (2, [{"id": 1}, {"id": 2}])


def test_a_version_knows_when_it_was_committed(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    path = str(tmp_path / "things")
    deltalake.write_deltalake(path, pa.table({"id": [1]}))
    assert before <= committed_at(path, 0) <= datetime.now(UTC) + timedelta(seconds=1)
