"""Opt-outs as spreadsheets and other systems spell them: who is kept off the list, and who is named as nobody."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.matching import Matches, counted_keys, known_keys, match_outcome, matches, named_keys
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.retention import exclusions
from churn_assets.churn.tables import OPT_OUTS, conformed
from churn_assets.defs.retention import from_lists

IDS = ("0042", "0043", "A7", "=1+1 x", "'q", "Zoë")
WEEK = date(2025, 12, 29)


def found_of(spark: SparkSession, opt_outs: DataFrame) -> tuple[Matches, set[str]]:
    """What the check says of `opt_outs`, and whom the list leaves out for them."""
    at = datetime(2025, 12, 1)
    orders = spark.createDataFrame(
        [(f"O{place}", name, at, 1.0) for place, name in enumerate(IDS)],
        "order_id string, customer_id string, ordered_at timestamp, subtotal double",
    )
    customers = spark.createDataFrame([(name,) for name in IDS], "customer_id string")
    known = known_keys(orders, customers, OPT_OUTS)
    found = matches(counted_keys({"opt_outs": (named_keys(opt_outs, OPT_OUTS), known)}), {"opt_outs": known})
    alerted = spark.createDataFrame([(name, WEEK) for name in IDS], "customer_id string, as_of date")
    nobody = spark.createDataFrame(
        [], "customer_id string, as_of date, contacted_at timestamp, is_holdout boolean, risk_tier string"
    )
    left_out = exclusions(alerted, nobody, from_lists(conformed(opt_outs, OPT_OUTS)), ChurnPolicy())
    return found["opt_outs"], {row.customer_id for row in left_out.collect()}


def frame(spark: SparkSession, ids: Sequence[Any], kind: str) -> DataFrame:
    return spark.createDataFrame([(each,) for each in ids], f"customer_id {kind}")


def test_blanks_of_every_kind_and_the_apostrophe_of_a_spreadsheet_are_no_part_of_an_opt_out(
    spark: SparkSession,
) -> None:
    """No-break and other blanks, a cell a spreadsheet was kept from computing, twice the same, and rows of nobody."""
    written = ("\u00a00042\u2003", "\t'=1+1 x\r\n", "''q", "Zoë\u3000", " Zoë", "", " \u00a0", None)
    found, left_out = found_of(spark, frame(spark, written, "string"))
    assert left_out == {"0042", "=1+1 x", "'q", "Zoë"}
    # A row without an id is of nobody, and no opt-out that was misspelled.
    assert (found.rows, found.strangers) == (5, 0)
    assert match_outcome(OPT_OUTS, found, max_share=0.0, is_warning=False).is_passed


def test_opt_outs_that_a_spreadsheet_took_for_numbers_are_named_with_whom_they_mean(spark: SparkSession) -> None:
    found, left_out = found_of(spark, frame(spark, (42, 43, 43, 99), "bigint"))
    assert left_out == set(), "that 42 is 0042 is for the company to say"
    assert (found.rows, found.strangers, found.near) == (4, 4, 3)
    outcome = match_outcome(OPT_OUTS, found, max_share=0.5)
    assert not outcome.is_passed
    assert outcome.keys == ("42 (perhaps 0042)", "43 (perhaps 0043)", "99")
    found, _ = found_of(spark, frame(spark, ("42.0", "a7", "ZOË", "0000042.00"), "string"))
    assert dict(found.first) == {"42.0": "0042", "a7": "A7", "ZOË": "Zoë", "0000042.00": "0042"}
