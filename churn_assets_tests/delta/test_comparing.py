"""Versions are the same if their rows are, whatever the order of rows and columns and the division into files."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import deltalake
import pandas as pd
import pyarrow as pa
import pytest

from churn_assets.delta.comparing import differing_columns, holds_same_rows

SAME = pd.DataFrame(
    {
        "name": ["a", "b", "c", None],
        "day": pd.to_datetime(pd.Index(["2025-09-01", "2025-09-08", None, "2025-09-01"])).date,
        "value": [1.5, float("nan"), None, -2.0],
        "moment": pd.to_datetime(pd.Index(["2025-09-01", None, "2025-09-02", "2025-09-02"]), utc=True),
    }
)


def versions_of(folder: Path, *frames: pd.DataFrame) -> None:
    """A Delta table with a version for each frame."""
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        deltalake.write_deltalake(str(folder), table, mode="overwrite", schema_mode="overwrite")


def is_same_in(folder: Path, one: int, other: int) -> bool:
    return holds_same_rows(*(deltalake.DeltaTable(str(folder), version=version) for version in (one, other)))


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (SAME, True),
        (SAME.iloc[::-1], True),
        (SAME[["value", "moment", "name", "day"]], True),
        (SAME.head(3), False),
        (pd.concat([SAME, SAME.head(1)]), False),
        (SAME.assign(name=["a", "b", "c", "d"]), False),
        (SAME.rename(columns={"value": "worth"}), False),
        # Least, greatest and nulls of every column stay: only the rows tell.
        (SAME.assign(name=pd.Series(["b", "a", "c", None])), False),
        (pd.concat([SAME] * 2).iloc[[0, 1, 2, 3, 0, 1, 2, 2]], False),
    ],
    ids=["again", "reversed", "columns_moved", "fewer", "more", "null_filled", "renamed", "swapped", "other_multiples"],
)
def test_versions_are_compared_by_their_rows(tmp_path: Path, other: pd.DataFrame, is_same: bool) -> None:
    versions_of(tmp_path, SAME, other)
    assert is_same_in(tmp_path, 0, 1) is is_same
    assert is_same_in(tmp_path, 1, 0) is is_same


def test_rows_that_are_the_same_in_more_files_are_the_same(tmp_path: Path) -> None:
    versions_of(tmp_path, SAME, SAME.head(2))
    deltalake.write_deltalake(str(tmp_path), pa.Table.from_pandas(SAME.tail(2), preserve_index=False), mode="append")
    assert is_same_in(tmp_path, 0, 2)
    assert not is_same_in(tmp_path, 0, 1)


MANY_KINDS = pa.table(
    {
        "n": pa.array([1, None, 3], pa.int64()),
        "small": pa.array([None, 2, 3], pa.int32()),
        "is_late": [True, None, False],
        "spend": pa.array([Decimal("1.50"), None, Decimal("2.25")], pa.decimal128(10, 2)),
        "day": pa.array([None, date(2025, 1, 6), date(2025, 1, 6)]),
        "raw": pa.array([b"a", None, b""]),
        "many": pa.array([[1.5], None, []]),
        "name": ["", None, "x"],
    }
)


def test_no_division_into_files_makes_rows_others_and_no_compaction_does(tmp_path: Path) -> None:
    path = str(tmp_path)
    deltalake.write_deltalake(path, MANY_KINDS)
    deltalake.write_deltalake(path, MANY_KINDS.slice(0, 1), mode="overwrite")
    for row in (1, 2):
        deltalake.write_deltalake(path, MANY_KINDS.slice(row, 1), mode="append")
    deltalake.DeltaTable(path).optimize.compact()
    assert is_same_in(tmp_path, 0, 3)
    assert is_same_in(tmp_path, 3, 4)


def test_no_value_is_taken_for_a_null(tmp_path: Path) -> None:
    for number, name in enumerate(MANY_KINDS.schema.names):
        column = MANY_KINDS.column(name)
        one, other = pa.table({name: column, "k": [0, 1, 2]}), pa.table({name: column, "k": [1, 0, 2]})
        for table in (one, other):
            deltalake.write_deltalake(str(tmp_path / name), table, mode="overwrite", schema_mode="overwrite")
        assert not is_same_in(tmp_path / name, 0, 1), number


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (SAME.iloc[::-1], []),
        (SAME.assign(value=SAME["value"].replace(-2.0, -2.0000000000000004)), ["value"]),
        (SAME.assign(value=[1, 2, 3, 4]), ["value"]),
        (SAME[["name", "day", "moment"]], ["value"]),
        (SAME.head(3), ["name", "day", "value", "moment"]),
    ],
)
def test_the_columns_in_which_two_tables_differ_are_named(
    tmp_path: Path, other: pd.DataFrame, differing: list[str]
) -> None:
    for name, frame in {"one": SAME, "other": other}.items():
        versions_of(tmp_path / name, frame)
    tables = [deltalake.DeltaTable(str(tmp_path / name)) for name in ("one", "other")]
    assert differing_columns(*tables) == differing
    assert differing_columns(*tables, without=differing) == []


def test_lists_of_structs_are_compared_to_the_last_digit(tmp_path: Path) -> None:
    for name, share in {"one": 0.1, "other": 0.30000000000000004 - 0.2}.items():
        rows = pa.table({"key": ["a", "b"], "reasons": [[{"share": share}], []]})
        deltalake.write_deltalake(str(tmp_path / name), rows)
    tables = [deltalake.DeltaTable(str(tmp_path / name)) for name in ("one", "other")]
    assert differing_columns(*tables) == ["reasons"]


def test_the_order_of_a_maps_entries_says_nothing_and_what_they_say_does(tmp_path: Path) -> None:
    kind = pa.map_(pa.string(), pa.int64())
    for name, entries in {"one": ["ab", "cd"], "turned": ["cd", "ab"], "other": ["ab", "ce"]}.items():
        rows = pa.table({"key": ["x", "y"], "versions": pa.array([[(key, 1) for key in entries], None], kind)})
        deltalake.write_deltalake(str(tmp_path / name), rows)
    one, turned, other = (deltalake.DeltaTable(str(tmp_path / name)) for name in ("one", "turned", "other"))
    assert differing_columns(one, turned) == []
    assert differing_columns(one, other) == ["versions"]
    assert holds_same_rows(one, turned)
    assert not holds_same_rows(one, other)
