"""Upkeep removes what nobody needs, keeps what is named, and says what it did."""

import os
import time
from datetime import date, timedelta
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa
import pytest

from churn_assets.delta import maintenance
from churn_assets.delta.commits import TABLE_PROPERTIES
from churn_assets.delta.maintenance import NamedFilesError, maintain, remove_temporary_files, tables_under
from churn_assets.delta.reading import records
from churn_assets.delta.storage import write_file
from churn_assets.delta.tables import MissingFileError, files_of, open_delta

AT_ONCE, A_DAY = timedelta(0), timedelta(days=1)


def rewritten(path: str, *values: int) -> None:
    """A version for each value."""
    for value in values:
        deltalake.write_deltalake(path, pa.table({"id": [value]}), mode="overwrite")


def ids(path: str, version: int | None = None) -> list[int]:
    return sorted(row["id"] for row in records(open_delta(path, version, next_step="")))


def left_behind(path: str, name: str, *, hours: int) -> Path:
    """A file of a write that failed so long ago."""
    file = Path(path, name)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half")
    then = time.time() - hours * 3600
    for each in (file, *list(file.parents)[: name.count("/")]):
        os.utime(each, (then, then))
    return file


def test_versions_that_are_named_stay_and_the_others_go(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    rewritten(path, *range(6))
    upkeep = maintain(path, {1, 3}, AT_ONCE)
    assert (upkeep.removed, upkeep.lost) == (3, [])
    assert upkeep.removed_bytes > 0
    assert upkeep.kept[:2] == [1, 3]
    assert [ids(path, version) for version in (1, 3, None)] == [[1], [3], [5]]
    for version in (0, 2, 4):
        with pytest.raises(MissingFileError):
            ids(path, version)
    again = maintain(path, {1, 3}, AT_ONCE)
    assert (again.removed, again.merged) == (0, 0)


def test_what_was_replaced_or_left_of_late_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    rewritten(path, 0, 1)
    young, old = (left_behind(path, name, hours=hours) for name, hours in (("b/x.parquet", 1), ("a/x.parquet", 25)))
    started = left_behind(path, "c/_temporary/0/x.parquet", hours=25)
    upkeep = maintain(path, (), A_DAY)
    assert upkeep.removed == 2
    assert young.exists()
    assert not old.parent.exists()
    assert not started.parent.exists()
    assert ids(path, 0) == [0], "a run that began before may still read it"


def test_a_named_version_that_is_lost_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    rewritten(path, 0, 1)
    maintain(path, (), AT_ONCE)
    assert list(maintain(path, {0, 99}, AT_ONCE).lost) == [0, 99]


def test_nothing_is_removed_if_a_named_version_needed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "things")
    rewritten(path, 0, 1)
    needed = open_delta(path, 0, next_step="").file_uris()[0].rsplit("/", 1)[1]
    vacuum = deltalake.DeltaTable.vacuum

    def with_too_much(table: deltalake.DeltaTable, dry_run: bool, **rules: object) -> list[str]:
        return [*vacuum(table, dry_run=dry_run, **rules), needed] if dry_run else vacuum(table, dry_run=False, **rules)  # type: ignore[arg-type]

    monkeypatch.setattr(deltalake.DeltaTable, "vacuum", with_too_much)
    with pytest.raises(NamedFilesError, match=needed):
        maintain(path, {0}, AT_ONCE)
    assert ids(path, 0) == [0]


def test_many_small_files_become_one_and_few_stay(tmp_path: Path) -> None:
    for name, count in (("few", maintenance.SMALL_FILES), ("many", maintenance.SMALL_FILES + 1)):
        for number in range(count):
            deltalake.write_deltalake(tmp_path / name, pa.table({"id": [number]}), mode="append")
        upkeep = maintain(str(tmp_path / name), (), AT_ONCE)
        files = len(open_delta(str(tmp_path / name), next_step="").file_uris())
        assert (upkeep.merged, files) == ((0, count) if name == "few" else (count, 1))
        assert ids(str(tmp_path / name)) == list(range(count))


def appended(path: str, rows: int, seed: int = 0) -> None:
    deltalake.write_deltalake(path, pa.table({"x": np.random.default_rng(seed).random(rows)}), mode="append")


def sizes(path: str) -> list[int]:
    return sorted(file["size_bytes"] for file in files_of(open_delta(path, next_step="")))


def test_a_large_file_is_not_copied_for_the_small_ones_beside_it(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    for rows in [20_000, 15_000, *[10] * 7]:
        appended(path, rows)
    large = sizes(path)[-2:]
    upkeep = maintain(path, {8}, AT_ONCE)
    assert upkeep.merged == 7
    assert len(sizes(path)) == 3
    assert sizes(path)[-2:] == large


def test_what_a_long_history_of_small_files_takes_is_a_few_times_its_rows(tmp_path: Path) -> None:
    path, named = str(tmp_path / "things"), set[int]()
    for number in range(40):
        for part in range(3):
            appended(path, 500, seed=3 * number + part)
        named.add(open_delta(path, next_step="").version())
        upkeep = maintain(path, named, AT_ONCE)
        assert len(sizes(path)) <= maintenance.SMALL_FILES
    assert upkeep.lost == []
    files = sum(file.stat().st_size for file in Path(path).glob("*.parquet"))
    # 7.9 times, where each upkeep that finds too many puts all of them together.
    assert files < 4 * sum(sizes(path))


def test_only_dates_of_many_small_files_are_put_together(tmp_path: Path) -> None:
    for number in range(maintenance.SMALL_FILES + 1):
        days = [date(2025, 9, 1)] if number else [date(2025, 9, 1), date(2025, 9, 8), None]
        rows = pa.table({"id": [number] * len(days), "day": pa.array(days, pa.date32())})
        deltalake.write_deltalake(tmp_path, rows, mode="append", partition_by="day")
    upkeep = maintain(str(tmp_path), (), AT_ONCE)
    assert upkeep.merged == maintenance.SMALL_FILES + 1
    assert len(sizes(str(tmp_path))) == 3
    assert ids(str(tmp_path)) == [0, 0, *range(maintenance.SMALL_FILES + 1)]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_files_with_numbers_that_deltalake_would_hide_are_not_merged(tmp_path: Path, value: float) -> None:
    for number in [*range(1, 10), value]:
        deltalake.write_deltalake(tmp_path, pa.table({"x": [float(number)], "n": [1]}), mode="append")
    assert maintain(str(tmp_path), (), AT_ONCE).merged == 0
    assert len(open_delta(str(tmp_path), next_step="").file_uris()) == 10


def test_a_long_log_gets_a_checkpoint_once(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    rewritten(path, *range(12))
    log = tmp_path / "things" / "_delta_log"
    for _ in range(2):
        maintain(path, (), AT_ONCE)
        assert len(list(log.glob("*.checkpoint.parquet"))) == 1
    assert ids(path) == [11]


def test_a_table_of_before_gets_the_properties_of_today(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    rewritten(path, 0)
    maintain(path, (), A_DAY)
    assert TABLE_PROPERTIES.items() <= open_delta(path, next_step="").metadata().configuration.items()
    version = open_delta(path, next_step="").version()
    maintain(path, (), A_DAY)
    assert open_delta(path, next_step="").version() == version


def test_tables_are_found_in_the_root_and_in_its_folders(tmp_path: Path) -> None:
    assert tables_under(str(tmp_path / "none")) == []
    for name in ("recall_churn", "food_delivery/orders", "food_delivery/reviews"):
        rewritten(str(tmp_path / name), 0)
    (tmp_path / "exports").mkdir()
    assert tables_under(str(tmp_path)) == ["food_delivery/orders", "food_delivery/reviews", "recall_churn"]


def test_files_for_people_that_were_not_finished_go_and_finished_ones_stay(tmp_path: Path) -> None:
    write_file(str(tmp_path / "exports" / "list.csv"), b"whole")
    held = left_behind(str(tmp_path), "held/abc/x.parquet", hours=25)
    unfinished = left_behind(str(tmp_path), f"reports/.page.html.{'0af3' * 8}", hours=25)
    young = left_behind(str(tmp_path / "more"), f"exports/.list.csv.{'0af3' * 8}", hours=1)
    assert remove_temporary_files(str(tmp_path), A_DAY) == ["held/abc/x.parquet", str(unfinished.relative_to(tmp_path))]
    assert not held.exists()
    assert young.exists()
    assert (tmp_path / "exports" / "list.csv").read_bytes() == b"whole"
