"""A commit takes the version it was meant to take, or none."""

import resource
import secrets
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from churn_assets.defs.failures import failure_in_words
from churn_assets.delta.commits import OvertakenError, Replaced, _dated_actions, append_after, overwrite
from churn_assets.delta.reading import records
from churn_assets.delta.tables import OF_DATE, open_delta


def test_an_append_after_a_version_takes_the_next_or_fails(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    rows = pa.table({"name": ["a"]})
    assert [append_after(path, after, rows, {}) for after in (None, 0, 1)] == [0, 1, 2]
    for after in (None, 0, 1):
        with pytest.raises(OvertakenError, match=f"after version {after}"):
            append_after(path, after, rows, {})
    assert len(list(tmp_path.rglob("*.parquet"))) == 3, "whoever was late leaves no file"
    assert records(open_delta(path, next_step="")) == [{"name": "a"}] * 3
    assert records(open_delta(path, 0, next_step="")) == [{"name": "a"}]


@pytest.mark.parametrize(
    "write",
    [
        lambda path, rows: append_after(path, 0, rows, {}),
        lambda path, rows: overwrite(path, rows, {}, since=0),
    ],
    ids=["append", "overwrite"],
)
def test_a_disk_that_takes_no_more_leaves_the_table_as_it_was_and_no_files(
    tmp_path: Path, write: Callable[[str, pa.Table], int]
) -> None:
    path = str(tmp_path / "things")
    append_after(path, None, pa.table({"name": ["a"]}), {})
    large = pa.table({"name": [secrets.token_hex(64) for _ in range(2_000)]})
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(path, large)
        try:
            write(path, large)
        except OSError:
            assert "Next step: free space on that disk" in failure_in_words()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert records(open_delta(path, next_step="")) == [{"name": "a"}]
    assert sorted(each.name for each in Path(path).iterdir() if not (each / "rows.parquet").exists()) == ["_delta_log"]
    assert len(list(Path(path).rglob("*.parquet"))) == 1
    assert write(path, large) == 1, "once there is room"


def test_what_a_worker_writes_that_was_cut_off_is_no_date_of_the_table(tmp_path: Path) -> None:
    finished, late = tmp_path / f"{OF_DATE}=2026-01-05", tmp_path / "_temporary" / "0" / f"{OF_DATE}=2026-01-05"
    for folder in (finished, late):
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"name": ["a"]}), folder / "part-0.parquet")
    (action,) = _dated_actions(str(tmp_path), Replaced("as_of", [date(2026, 1, 5)]))
    assert action.path == f"{tmp_path.name}/{OF_DATE}=2026-01-05/part-0.parquet"
