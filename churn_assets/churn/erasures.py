"""The ledger of erasures: customers who asked to be forgotten, told by salted hashes alone."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from churn_assets.churn.columns import Column, arrow_schema, of_kind

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ERASURE_SCHEMA = arrow_schema(
    [Column("erased_at", "timestamp"), *of_kind("string", "kind", "salt", "hash", "reason", "dagster_run_id")]
)
# What is told by each column of a source table: the orders too, because a review names no customer.
KINDS = {"customer_id": "customer", "order_id": "order"}
KEYS_OF_FRAME = "erased_hash"


def hashed(salt: str, key: str) -> str:
    """SHA-256 of the salt and the key without the blanks around it, as hexadecimal text."""
    return hashlib.sha256(f"{salt}:{key.strip(' ')}".encode()).hexdigest()


def salt_of(ledger: Sequence[Mapping[str, Any]]) -> str:
    """The ledger's one salt; a new one for a ledger without rows."""
    return str(ledger[0]["salt"]) if ledger else secrets.token_hex(16)


def erasure_rows(
    ledger: Sequence[Mapping[str, Any]],
    customers: Iterable[str],
    orders: Iterable[str],
    *,
    reason: str,
    erased_at: datetime,
    dagster_run_id: str,
) -> list[dict[str, Any]]:
    """Rows of ERASURE_SCHEMA for the customers and their orders, without those that the ledger has already."""
    salt, known = salt_of(ledger), {(row["kind"], row["hash"]) for row in ledger}
    told = {"erased_at": erased_at, "salt": salt, "reason": reason, "dagster_run_id": dagster_run_id}
    keys = [*(("customer", key.strip(" ")) for key in customers), *(("order", key.strip(" ")) for key in orders)]
    rows = [{**told, "kind": kind, "hash": hashed(salt, key)} for kind, key in sorted(set(keys))]
    return [row for row in rows if (row["kind"], row["hash"]) not in known]


def without_erased(rows: "DataFrame", erased: Mapping[str, "DataFrame"], salt: str) -> "DataFrame":
    """`rows` without those of erased keys. erased: by column of `rows`, the hashes as column `erased_hash`."""
    for name, hashes in erased.items():
        key = F.sha2(F.concat(F.lit(f"{salt}:"), F.trim(F.col(name).cast("string"))), 256)
        rows = rows.withColumn("key_hash", key).join(hashes, F.col("key_hash") == F.col(KEYS_OF_FRAME), "left_anti")
        rows = rows.drop("key_hash")
    return rows
