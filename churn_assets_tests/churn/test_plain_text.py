"""Text is shown as what it is: a spreadsheet computes none of it, a terminal obeys none, and it comes back whole."""

import csv
from io import StringIO

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.plain_text import (
    as_csv,
    controls,
    in_one_line,
    protected,
    unprotected,
    without_controls,
)

HOSTILE = ["=1+1 0", "@SUM(1) 1", "+49 2", "-5 3", "\t=4", "\r=5", "\n=6"]
IDS = [*HOSTILE, "'=7", "'8", "''=9", "<b>10", "a|b 11", "a\nb 12", "C0000013", "x=1"]


@pytest.mark.parametrize("text", IDS)
def test_no_cell_of_a_csv_file_begins_like_a_formula(text: str) -> None:
    content = as_csv(pd.DataFrame({"customer_id": [text], "rank": [-1], "spend": [0.5]})).decode()
    (row,) = csv.DictReader(StringIO(content, newline=""))
    assert not row["customer_id"].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert row["customer_id"].removeprefix("'") in (text, text.removeprefix("'"))
    assert (row["rank"], row["spend"]) == ("-1", "0.5"), "a number is a number"


def test_what_is_harmless_is_left_as_it_is() -> None:
    assert [protected(text) for text in ("C0000011", "x=1", "", " =1")] == ["C0000011", "x=1", "", " =1"]


def test_every_text_comes_back_as_it_was(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(text, protected(text)) for text in IDS], "id string, written string")
    back = rows.select("id", unprotected(F.col("written")).alias("back"), unprotected(F.col("id")).alias("plain"))
    found = {row.id: (row.back, row.plain) for row in back.collect()}
    assert {text: back for text, (back, _) in found.items()} == {text: text for text in IDS}
    # Whoever sends ids that never were in a list sends them as they are.
    assert {text for text, (_, plain) in found.items() if plain != text} == {"'=7", "''=9"}


@given(st.text())
def test_a_line_is_one_line_and_shows_characters_only(text: str) -> None:
    line = in_one_line(text)
    assert controls(line) == []
    assert len(line.splitlines()) <= 1


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
def test_text_that_people_write_is_shown_as_it_is(text: str) -> None:
    assert controls(text) == []
    assert in_one_line(text) == text == without_controls(text)


def test_what_controls_a_terminal_is_named_with_its_place_and_replaced() -> None:
    text = "a\nb\x1b[31mc\u202ed"
    assert controls(text) == ["U+000A at character 2", "U+001B at character 4", "U+202E at character 10"]
    assert in_one_line(text) == "a b\ufffd[31mc\ufffdd"
    assert without_controls(text, but="\n") == "a\nb\ufffd[31mc\ufffdd"
