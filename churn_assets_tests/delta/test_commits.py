"""A commit takes the version it was meant to take, or none."""

from pathlib import Path

import pyarrow as pa
import pytest

from churn_assets.delta.commits import OvertakenError, append_after
from churn_assets.delta.reading import records
from churn_assets.delta.tables import open_delta


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
