"""Converters read numbers and times as people and tools write them; what they cannot read is null, and counted."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.resources.converters import Converter, converted, unreadable_by_converters


def read(spark: SparkSession, values: list[Any] | pa.Array, **how: str) -> list[Any]:
    rows = spark.createDataFrame(pa.table({"id": range(len(values)), "a `b`.c": values})).repartition(2)
    found = converted(rows, {"A `b`.C": Converter(**how)})  # type: ignore[arg-type]
    return [row[1] for row in found.orderBy("id").collect()]


@pytest.mark.parametrize(
    ("style", "texts", "numbers"),
    [
        (
            "1.234,56",
            ["1.234,56", "12,5", "1.234.567", "-3,00", "12,50-", " 7 € ", "€ 8,10", "EUR 9", "9 EUR", ",5", "0"],
            [1234.56, 12.5, 1234567.0, -3.0, -12.5, 7.0, 8.1, 9.0, 9.0, 0.5, 0.0],
        ),
        # A point where a comma is meant groups thousands, or it is no number at all: never a hundred times as much.
        ("1.234,56", ["12.50", "1.23,4", "1,2,3", "", " ", None, "n/a", "1 234", "+-1"], [None] * 9),
        ("1234,56", ["1234,56", "1.234,56"], [1234.56, None]),
        ("1,234.56", ["1,234.56", "12.5", "$3", "12,5"], [1234.56, 12.5, 3.0, None]),
        ("1 234,56", ["1 234,56", "1\u00a0234,56", "1\u202f234", "1234"], [1234.56, 1234.56, 1234.0, 1234.0]),
        ("1'234.56", ["1'234.56", "CHF 1’234.50"], [1234.56, 1234.5]),
    ],
)
def test_numbers(spark: SparkSession, style: str, texts: list[Any], numbers: list[Any]) -> None:
    assert read(spark, pa.array(texts, pa.string()), number=style) == numbers


def test_what_is_a_number_already_stays(spark: SparkSession) -> None:
    assert read(spark, [1.5, 2.0], number="1.234,56") == [1.5, 2.0]


@pytest.mark.parametrize(
    ("layout", "texts", "times"),
    [
        ("dd.MM.yyyy HH:mm", ["05.03.2024 14:30", " 31.12.2024  00:00 "], ["2024-03-05T14:30", "2024-12-31T00:00"]),
        ("dd.MM.yyyy HH:mm", ["5.3.2024 14:30", "05.03.24 14:30", "30.02.2024 00:00", "05.13.2024 00:00", ""],
         [None] * 5),
        ("d.M.yy H:mm[:ss]", ["5.3.24 9:05", "15.12.24 19:05:07"], ["2024-03-05T09:05", "2024-12-15T19:05:07"]),
        ("MM/dd/yyyy hh:mm a", ["03/05/2024 12:00 AM", "03/05/2024 12:30 pm", "03/05/2024 01:00 p.m."],
         ["2024-03-05T00:00", "2024-03-05T12:30", "2024-03-05T13:00"]),
        ("dd-MM-yyyy", ["05-03-2024"], ["2024-03-05T00:00"]),
        ("yyyyMMdd'T'HHmmss.SSS", ["20240305T143001.5", "20240305T143001.123456789"],
         ["2024-03-05T14:30:01.500000", "2024-03-05T14:30:01.123456"]),
        ("iso", ["2024-03-05 14:30:00", "2024-03-05T14:30:00+02:00", "2024-03-05"],
         ["2024-03-05T14:30", "2024-03-05T12:30", "2024-03-05T00:00"]),
    ],
)  # fmt: skip
def test_times(spark: SparkSession, layout: str, texts: list[str], times: list[str | None]) -> None:
    expected = [None if time is None else datetime.fromisoformat(time) for time in times]
    assert read(spark, texts, time=layout) == expected


def test_times_of_a_zone_are_those_its_clocks_showed(spark: SparkSession) -> None:
    texts = ["01.01.2024 12:00", "01.07.2024 12:00", "31.03.2024 02:30", "27.10.2024 02:30", None]
    # Of an hour that was not there, the moment after as long; of one that was there twice, the earlier.
    expected = [
        datetime(2024, 1, 1, 11),
        datetime(2024, 7, 1, 10),
        datetime(2024, 3, 31, 1, 30),
        datetime(2024, 10, 27, 0, 30),
        None,
    ]
    assert read(spark, texts, time="dd.MM.yyyy HH:mm", zone="Europe/Berlin") == expected
    clock = spark.createDataFrame(pa.table({"at": ["2024-07-01T12:00:00"]}))
    clock = clock.select(clock["at"].cast("timestamp_ntz").alias("at"))
    ((found,),) = converted(clock, {"at": Converter(zone="Europe/Berlin")}).collect()
    assert found == datetime(2024, 7, 1, 10)
    # What names its own zone is moved by that.
    assert read(spark, ["2024-07-01T12:00:00Z", "2024-07-01 12:00"], zone="America/New_York") == [
        datetime(2024, 7, 1, 12),
        datetime(2024, 7, 1, 16),
    ]


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("seconds", ["1709640000.25", " 1709640000.25 "]),
        ("seconds", [1709640000.25]),
        ("seconds", [Decimal("1709640000.25")]),
        ("milliseconds", [1709640000250]),
        ("microseconds", ["1709640000250000"]),
        ("nanoseconds", [1709640000250000999]),
    ],
)
def test_epochs(spark: SparkSession, unit: str, values: list[Any]) -> None:
    expected = datetime.fromtimestamp(1709640000.25, UTC).replace(tzinfo=None)
    assert read(spark, values, epoch=unit) == [expected] * len(values)


def test_an_epoch_in_another_unit_is_no_time(spark: SparkSession) -> None:
    assert read(spark, ["1709640000250", "1e9", "soon"], epoch="seconds") == [None] * 3


def test_what_cannot_be_read_is_counted_with_an_example(spark: SparkSession) -> None:
    rows = spark.createDataFrame(pa.table({"sum": ["1,5", "x", "n/a", "", None], "at": ["01.02.2024"] * 5}))
    converters = {"sum": Converter(number="1.234,56"), "at": Converter(time="yyyy-MM-dd")}
    found = unreadable_by_converters(rows, converters)
    assert [(each.column, each.rows, each.rows_with_value, each.example, each.is_most) for each in found] == [
        ("sum", 2, 3, "n/a", True),
        ("at", 5, 5, "01.02.2024", True),
    ]


def test_a_converter_that_does_not_fit_its_column_is_told(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        pa.table({"n": [1], "at": pa.array([datetime(2024, 1, 1)], pa.timestamp("us", "UTC"))})
    )
    wrong = {"n": Converter(time="dd.MM.yyyy"), "at": Converter(zone="Europe/Berlin"), "x": Converter(epoch="seconds")}
    with pytest.raises(UnreadableSourceError) as error:
        converted(rows, wrong)
    assert error.value.problems == (
        'n is bigint, which { time = "dd.MM.yyyy" } does not read',
        'at is timestamp, which { zone = "Europe/Berlin" } does not read',
        "x is no column; there are n, at",
    )


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({}, "needs one of number"),
        ({"number": "1.234,56", "epoch": "seconds"}, "needs one of number"),
        ({"number": "12.34"}, "1.234,56"),
        ({"time": "dd.MMM.yyyy"}, "MMM is not known"),
        ({"time": "HH:mm"}, "year, month and day"),
        ({"time": "dd.MM.yyyy dd"}, "year, month and day"),
        ({"time": "dd.MM.yyyy[ HH:mm"}, "year, month and day"),
        ({"zone": "CEST5"}, "Europe/Berlin"),
        ({"epoch": "days"}, "seconds"),
    ],
)
def test_converters_that_say_nothing_that_is_known_are_refused(how: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Converter(**how)  # type: ignore[arg-type]
