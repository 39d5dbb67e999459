"""Rows of a customer go from every file and every version, and what is left is read as before."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from churn_assets.churn.erasures import erasure_rows, hashed, salt_of
from churn_assets.churn.plain_text import as_csv
from churn_assets.delta import erasing
from churn_assets.delta.erasing import FORGOTTEN, Erasure, erase, orders_of
from churn_assets.delta.reading import records
from churn_assets.delta.tables import files_of, open_delta, row_count

ORDERS = pa.table(
    {
        "order_id": ["o1", "o2", "o3", "o4"],
        "customer_id": ["C1", " C1 ", "C11", None],
        "at": pa.array([datetime(2025, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC")),
    }
)
GONE = Erasure(frozenset({"C1"}), frozenset({"o1", "o2"}))


def ids(path: Path, version: int | None = None) -> list[str | None]:
    return [row["order_id"] for row in records(open_delta(str(path), version, next_step=""))]


def test_a_customers_orders_are_found_in_every_version(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "orders", ORDERS)
    later = ORDERS.slice(2)
    deltalake.write_deltalake(tmp_path / "orders", later, mode="overwrite")
    assert orders_of(str(tmp_path), {"C1"}) == {"o1", "o2"}
    assert orders_of(str(tmp_path), {"C9"}) == set()


def test_rows_that_deltalakes_update_has_written_are_found_and_go(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    deltalake.write_deltalake(orders, ORDERS)
    deltalake.DeltaTable(str(orders)).update(updates={"at": "at"}, predicate="order_id = 'o4'")
    (written,) = [file["path"] for file in files_of(open_delta(str(orders), next_step=""))]
    assert pq.read_schema(orders / written).field("customer_id").type == pa.string_view()
    assert orders_of(str(tmp_path), {"C1"}) == {"o1", "o2"}
    assert sorted(erase(str(tmp_path), GONE).values()) == [2, 2]
    assert sorted(map(str, ids(orders))) == ["o3", "o4"]


def test_rows_go_from_every_version_and_the_log_says_what_is_left(tmp_path: Path) -> None:
    orders, reviews = tmp_path / "orders", tmp_path / "reviews"
    deltalake.write_deltalake(orders, ORDERS)
    deltalake.write_deltalake(orders, ORDERS.slice(2), mode="append")
    deltalake.write_deltalake(reviews, pa.table({"order_id": ["o1", "o3"], "score": [1.0, 5.0]}))
    deltalake.DeltaTable(str(orders)).create_checkpoint()
    erased = erase(str(tmp_path), GONE)
    assert sorted(erased.values()) == [1, 2]
    assert (ids(orders, 0), sorted(map(str, ids(orders)))) == (["o3", "o4"], ["o3", "o3", "o4", "o4"])
    assert ids(reviews) == ["o3"]
    for table in (orders, reviews):
        dataset = deltalake.DeltaTable(str(table)).to_pyarrow_dataset()
        assert len(dataset.to_table(filter=pc.field("order_id") >= "o1")) == len(
            records(open_delta(str(table), next_step=""))
        )
    assert [row_count(open_delta(str(orders), version, next_step="")) for version in (0, 1)] == [2, 4]
    moments = {row["at"] for row in records(open_delta(str(orders), next_step=""))}
    assert moments == {datetime(2025, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)}
    assert erase(str(tmp_path), GONE) == {}


def test_an_end_in_between_is_made_good_by_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deltalake.write_deltalake(tmp_path / "orders", ORDERS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("churn_assets.delta.erasing._mend_log", killed)
        with pytest.raises(KeyboardInterrupt):
            erase(str(tmp_path), GONE)
    erase(str(tmp_path), GONE)
    assert ids(tmp_path / "orders") == ["o3", "o4"]
    assert deltalake.DeltaTable(str(tmp_path / "orders")).to_pyarrow_table().num_rows == 2


@pytest.mark.parametrize("nth", range(8), ids=lambda nth: f"step_{nth}")
def test_wherever_it_is_killed_the_next_time_finds_the_orders_and_the_checkpoints_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    # The orders' folder is the first by name, and what the reviews have of the customer is an order's id.
    deltalake.write_deltalake(tmp_path / "a_orders", ORDERS)
    deltalake.write_deltalake(tmp_path / "reviews", pa.table({"order_id": ["o1", "o3"], "score": [1.0, 5.0]}))
    for name in ("a_orders", "reviews"):
        deltalake.DeltaTable(str(tmp_path / name)).create_checkpoint()
    steps = [0]

    def dying(honest: Callable[..., None]) -> Callable[..., None]:
        def step(*given: Any) -> None:
            if steps[0] == nth:
                raise KeyboardInterrupt
            steps[0] += 1
            honest(*given)

        return step

    # Two files; and of each table its checkpoints, its log and a new checkpoint.
    places = [(erasing, "_replace"), (erasing, "_remove_checkpoints"), (deltalake.DeltaTable, "create_checkpoint")]
    with monkeypatch.context() as killed:
        for owner, name in places:
            killed.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            erase(str(tmp_path), GONE)
    found = orders_of(str(tmp_path), {"C1"})
    erase(str(tmp_path), Erasure(GONE.customers, frozenset(found)))
    assert ids(tmp_path / "reviews") == ["o3"]
    for name in ("a_orders", "reviews"):
        table = open_delta(str(tmp_path / name), next_step="")
        for file in files_of(table):
            place = tmp_path / name / file["path"]
            assert (file["size_bytes"], file["num_records"]) == (place.stat().st_size, pq.read_metadata(place).num_rows)


def test_dated_tables_keep_their_partitions(tmp_path: Path) -> None:
    rows = ORDERS.append_column("as_of", pa.array([date(2025, 1, 6)] * 2 + [date(2025, 1, 13)] * 2))
    deltalake.write_deltalake(tmp_path / "orders", rows, partition_by=["as_of"])
    erase(str(tmp_path), GONE)
    found = deltalake.DeltaTable(str(tmp_path / "orders")).to_pyarrow_table()
    assert found["as_of"].to_pylist() == [date(2025, 1, 13)] * 2


def test_rejected_rows_lists_and_pages_forget_too(tmp_path: Path) -> None:
    rejected = [{"order_id": "o9", "customer_id": "C1"}, {"order_id": "o2"}, {"order_id": "o3", "customer_id": "C11"}]
    deltalake.write_deltalake(tmp_path / "rejected", pa.table({"source_row": [json.dumps(row) for row in rejected]}))
    frame = pa.table({"customer_id": ["C1", "C11", "=C1"], "why": ["last ordered, 14 days ago"] * 3}).to_pandas()
    (tmp_path / "list.csv").write_bytes(as_csv(frame))
    (tmp_path / "page.html").write_text("<p>C1 and C11</p>", encoding="utf-8")
    erase(str(tmp_path), Erasure(frozenset({"C1", "=C1"}), GONE.orders))
    (kept,) = records(open_delta(str(tmp_path / "rejected"), next_step=""))
    assert json.loads(kept["source_row"])["customer_id"] == "C11"
    assert (tmp_path / "list.csv").read_text(encoding="utf-8").splitlines() == [
        '"customer_id","why"',
        '"C11","last ordered, 14 days ago"',
    ]
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == f"<p>{FORGOTTEN} and C11</p>"


def test_lines_of_json_go_whole_however_an_id_is_written_in_them_and_nothing_else_does(tmp_path: Path) -> None:
    ids = ["7", "<b>", 'a"b', "C\u2028D", "é", "=1+1", "8"]
    lines = [json.dumps({"customer_id": each, "rank": 7, "why": f"7 orders {place}"}) for place, each in enumerate(ids)]
    safe = [line.replace("<", "\\u003c").replace(">", "\\u003e") for line in lines]
    page = "<style>p { margin: 7 }</style>\n<script id='x' type=\"application/jsonl\">\n{}\n</script>\n{{ no JSON\n"
    (tmp_path / "page.html").write_text(page.replace("{}", "\n".join(safe), 1), encoding="utf-8")
    (tmp_path / "messages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    erased = erase(str(tmp_path), Erasure(frozenset(ids[:-1]), GONE.orders))
    assert erased == {"page.html": 6, "messages.jsonl": 6}
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page.replace("{}", lines[-1], 1)
    assert (tmp_path / "messages.jsonl").read_text(encoding="utf-8") == f"{lines[-1]}\n"


def test_the_checksum_that_hadoop_keeps_of_a_file_goes_with_its_old_content(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "orders", ORDERS)
    (file,) = (tmp_path / "orders").glob("*.parquet")
    checksum = file.with_name(f".{file.name}.crc")
    checksum.write_bytes(b"of before")
    erase(str(tmp_path), GONE)
    assert not checksum.exists()


def test_what_an_audit_noted_of_a_customer_goes(tmp_path: Path) -> None:
    outcome = {"rule": "sound", "observed": "C1 twice", "allowed": "once", "keys": ["C1 at 2025-01-06", "C11 at x"]}
    noted = deltalake.CommitProperties(custom_metadata={"audit": {"rules": "r", "outcomes": [outcome]}})
    deltalake.write_deltalake(tmp_path / "orders", ORDERS, commit_properties=noted)
    erase(str(tmp_path), GONE)
    log = (tmp_path / "orders" / "_delta_log" / f"{0:020}.json").read_text(encoding="utf-8")
    (info,) = [json.loads(line)["commitInfo"] for line in log.splitlines() if "commitInfo" in line]
    assert info["audit"]["outcomes"][0]["keys"] == [FORGOTTEN, "C11 at x"]


def test_the_ledger_of_erasures_knows_a_customer_only_by_a_salted_hash() -> None:
    told = {"reason": "asked", "erased_at": datetime.now(UTC), "dagster_run_id": "run"}
    first = erasure_rows([], ["C1", " C1 "], ["o1"], **told)  # type: ignore[arg-type]
    assert {row["kind"] for row in first} == {"customer", "order"}
    salt = salt_of(first)
    assert {row["hash"] for row in first} == {hashed(salt, "C1"), hashed(salt, "o1")}
    assert "C1" not in json.dumps(first, default=str).replace(salt, "")
    assert erasure_rows(first, ["C1"], ["o1"], **told) == []  # type: ignore[arg-type]
    (second,) = erasure_rows(first, ["C2"], [], **told)  # type: ignore[arg-type]
    assert second["salt"] == salt
    assert salt_of([]) != salt_of([])
