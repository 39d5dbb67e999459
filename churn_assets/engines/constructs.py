"""What the flow relies on an engine for, and what it avoids: small questions with their answers written out.

The answers are Spark's, worked out by hand or seen on local Spark 4.2, never the engine's that is asked. How they are
asked and what becomes of the answers is in `conformance.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAN, INF = float("nan"), float("inf")


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _table(kinds: Sequence[tuple[str, pa.DataType]], *rows: tuple[Any, ...]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, kind) for column, (_, kind) in zip(columns, kinds, strict=True)], pa.schema(kinds)
    )


TIME = pa.timestamp("us", "UTC")
# One row for each `id`: nulls in every column but `part`, NaN, both zeros, infinity, ties, times before 1970, a leap
# day, a Sunday, text that cannot be read, and a long that no double holds.
ROWS = _table(
    [
        ("id", pa.int64()),
        ("part", pa.string()),
        ("key", pa.string()),
        ("day", pa.date32()),
        ("at", TIME),
        ("until", TIME),
        ("value", pa.float64()),
        ("other", pa.float64()),
        ("whole", pa.int64()),
        ("small", pa.int32()),
        ("flag", pa.bool_()),
        ("text", pa.string()),
        ("moment", pa.string()),
    ],
    *[
        (1, "a", "C0000001", date(2025, 1, 6), _utc("2025-01-06T10:00:00.000001"), _utc("2025-01-06T10:45:30"),
         1.5, 0.1, 7, 3, True, "2.50", "2025-01-06"),
        (2, "a", "C0000002", date(2025, 1, 12), _utc("2025-01-06T23:59:59.999999"), None,
         NAN, 0.2, -7, -3, False, "x", "2025-01-06T10:00:00+02:00"),
        (3, "a", "Zoë", date(1969, 12, 31), _utc("1969-12-31T23:59:59.5"), _utc("1970-01-01T00:00:00"),
         -0.0, 0.3, 0, 0, None, " ", "1969-12-31 23:59:59.123456"),
        (4, "b", None, None, None, None, None, None, None, None, True, None, None),
        (5, "b", "", date(2024, 2, 29), _utc("2024-02-29T12:00:00"), _utc("2024-03-01T12:00:00"),
         INF, 2.675, 9_007_199_254_740_993, 2_147_483_647, False, "true", "nonsense"),
        (6, "b", "C0000001", date(2025, 3, 30), _utc("2025-03-30T01:30:00"), _utc("2025-03-29T01:30:00"),
         1e-5, 123456.789, 100, 100, True, "1e3", "2025-02-30"),
        (7, "c", "C0000007", None, None, None, None, None, None, None, None, "\u00a0", ""),
    ],
)  # fmt: skip
# To join with them by `key` and `day`: a key twice, a null key, a key of nobody.
OTHERS = _table(
    [("key", pa.string()), ("day", pa.date32()), ("number", pa.int64())],
    ("C0000001", date(2025, 1, 6), 1),
    ("C0000001", date(2025, 1, 6), 1),
    (None, None, 2),
    ("C0000009", None, 3),
)


def exact(value: Any) -> str:
    """`value` as text: of two that differ in a digit, a sign, a type or a time zone the texts differ too."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat() if value.tzinfo else f"{value.isoformat()} without a zone"
        case date():
            return value.isoformat()
        case Mapping():
            return f"{{{', '.join(f'{name}: {exact(each)}' for name, each in value.items())}}}"
        case list() | tuple():
            return f"({', '.join(exact(each) for each in value)})"
        case _:
            return repr(value)


@dataclass(frozen=True)
class Given:
    """What a construct may ask of: the session, its frames of ROWS and OTHERS, and a folder that both sides reach."""

    session: "SparkSession"
    rows: DataFrame
    others: DataFrame
    folder: str


def given(session: "SparkSession", folder: str) -> Given:
    """The frames on several partitions, so that an engine plans as for real rows and folds no constants."""
    rows, others = (session.createDataFrame(table) for table in (ROWS, OTHERS))
    return Given(session, rows.repartition(2, "id"), others.repartition(2, "number"), folder)


@dataclass(frozen=True, kw_only=True)
class Construct:
    """A question and its answer. where: what of the flow relies on it. remedy: how else the flow could ask."""

    name: str
    expected: Sequence[Any]
    where: str
    remedy: str

    @property
    def answer(self) -> str:
        """The expected answer as text, in which every digit is told."""
        return exact(self.expected)


@dataclass(frozen=True, kw_only=True)
class OfRows(Construct):
    """An expression over ROWS; expected: its value of each row, by id. kind: its type."""

    value: Callable[[], Column]
    kind: str

    @property
    def answer(self) -> str:
        return f"{self.kind} {exact(self.expected)}"


@dataclass(frozen=True, kw_only=True)
class OfParts(OfRows):
    """An aggregate over ROWS by `part`; expected: its value of a, b and c."""


@dataclass(frozen=True, kw_only=True)
class OfFrames(Construct):
    """A frame made of others; expected: its rows as text, values parted by a bar, sorted."""

    frame: Callable[[Given], DataFrame]


@dataclass(frozen=True, kw_only=True)
class OfQueries(Construct):
    """What queries of its own give: Python functions and files; expected: the values, in the order given."""

    found: Callable[[Given], Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Avoided:
    """A question that the flow does not ask, because an engine answers otherwise than Spark; it refuses nobody.

    answers: what is known by the name of the engine, as text; Spark's is `local`. instead: what the flow asks.
    """

    name: str
    found: Callable[[Given], Any]
    answers: Mapping[str, str]
    instead: str


def _by_part() -> Any:
    return Window.partitionBy("part")


def _by_value() -> Any:
    return _by_part().orderBy("value", "id")


def _exact(name: str) -> Column:
    return F.col(name).cast("decimal(20,10)")


def _states(*times: str) -> Column:
    """An array of structs, in which any field may be null."""
    return F.array(*[F.struct(F.col(each).alias("at"), F.col("value").alias("score")) for each in times])


HASHES = (
    OfRows(
        name="hash of a string",
        value=lambda: F.xxhash64("key"),
        kind="bigint",
        expected=(
            -7_289_589_106_169_719_567,
            -4_136_318_461_671_876_698,
            8_109_273_077_974_782_866,
            42,
            -7_444_071_767_201_028_348,
            -7_289_589_106_169_719_567,
            5_887_627_775_157_811_281,
        ),
        where="the folds of the split, the hold-out of a list",
        remedy="none: another hash would move every customer to another fold",
    ),
    OfRows(
        name="SHA-256 of a trimmed string behind a salt",
        value=lambda: F.sha2(F.concat(F.lit("salt:"), F.trim(F.concat(F.lit(" "), F.col("key"), F.lit(" ")))), 256),
        kind="string",
        expected=(
            "ff72ebd91d5900afc2370ae6e36ac853e1483339d6ecf7810fa56baa8f74bbf1",
            "632e9cf48ae4f4ea6f67134010836dd21730006857be00495915808ead449423",
            "5132671401db7087a5ed36a925fb5ce01e49f009335332977e3fb7e9cea13bde",
            None,
            "e7732745bfeae4fb5e58d25ca041407bb7c7a6597d4b5070d2b5b268cf30d03e",
            "ff72ebd91d5900afc2370ae6e36ac853e1483339d6ecf7810fa56baa8f74bbf1",
            "5c7af95dcc383f1177c5d6648bd1ea1fcbc6df87a1d7215559aaec52c5bfea81",
        ),
        where="which customers were forgotten",
        remedy="hash in Arrow",
    ),
    OfRows(
        name="hash of strings, ints and longs together",
        value=lambda: F.xxhash64(F.lit("a fault"), F.lit(42), F.lit(2**40), F.col("key"), F.col("whole")),
        kind="bigint",
        expected=(
            -6_145_001_820_333_061_013,
            4_956_167_770_006_310_221,
            4_395_738_808_706_603_943,
            -6_763_716_467_696_606_187,
            -5_583_609_089_603_915_640,
            2_896_925_961_640_013_465,
            5_718_358_106_242_986_232,
        ),
        where="the demo's planted faults",
        remedy="hash one text of all parts",
    ),
    OfRows(
        name="hash of a string and a date",
        value=lambda: F.xxhash64("key", "day"),
        kind="bigint",
        expected=(
            6_132_171_377_187_514_960,
            -2_680_716_685_187_948_640,
            3_211_054_809_405_808_763,
            42,
            -7_343_315_709_905_071_554,
            430_958_986_732_785_756,
            5_887_627_775_157_811_281,
        ),
        where="the coverage of the scores",
        remedy="group by the keys themselves",
    ),
    OfRows(
        name="hash of columns and of which of them are null",
        value=lambda: F.xxhash64("key", "at", "value", *[F.col(name).isNull() for name in ("key", "at", "value")]),
        kind="bigint",
        expected=(
            -4_068_217_675_310_658_600,
            -1_557_591_620_106_575_425,
            -54_472_035_330_551_769,
            -8_665_836_826_751_506_900,
            948_990_221_053_888_168,
            3_491_370_264_636_289_429,
            7_991_316_870_825_089_504,
        ),
        where="the days whose orders a refresh finds changed",
        remedy="compare the rows of all days",
    ),
    OfRows(
        name="hash of an array of structs",
        value=lambda: F.xxhash64("id", _states("at", "until")),
        kind="bigint",
        expected=(
            -1_629_003_397_817_690_366,
            -2_205_980_691_231_151_566,
            1_291_122_851_592_330_525,
            404_280_023_041_566_627,
            8_613_856_406_750_956_358,
            8_486_324_023_938_091_375,
            -2_864_211_556_195_259_663,
        ),
        where="the days whose orders a refresh finds changed",
        remedy="compare the rows of all days",
    ),
    OfRows(
        name="fold of a customer",
        value=lambda: F.pmod(F.xxhash64(F.concat(F.lit("salt:"), F.col("key"))), F.lit(100)).cast("int"),
        kind="int",
        expected=(16, 31, 49, 42, 90, 16, 35),
        where="the folds of the split",
        remedy="none: another fold would be another split",
    ),
    OfRows(
        name="the moment of a clock's time in its zone",
        value=lambda: F.to_utc_timestamp(F.col("at"), F.lit("Europe/Lisbon")),
        kind="timestamp",
        # Lisbon was an hour ahead in 1969; the hour of the sixth row was left out when summer began.
        expected=(
            _utc("2025-01-06T10:00:00.000001"),
            _utc("2025-01-06T23:59:59.999999"),
            _utc("1969-12-31T22:59:59.5"),
            None,
            _utc("2024-02-29T12:00:00"),
            _utc("2025-03-30T01:30:00"),
            None,
        ),
        where="converters of sources with a zone",
        remedy="times in UTC",
    ),
    OfRows(
        name="text filled up to a width",
        value=lambda: F.concat(F.lpad(F.col("id").cast("string"), 2, "0"), F.rpad(F.col("id").cast("string"), 3, "0")),
        kind="string",
        expected=("01100", "02200", "03300", "04400", "05500", "06600", "07700"),
        where="converters of times",
        remedy="substring of zeros and the text",
    ),
    OfRows(
        name="an epoch's microseconds, exactly",
        value=lambda: F.timestamp_micros(
            F.floor(
                F.col("small").cast("string").try_cast("decimal(28,9)") * F.lit("1000000").cast("decimal(10,3)")
            ).try_cast("bigint")
        ),
        kind="timestamp",
        expected=(
            _utc("1970-01-01T00:00:03"),
            _utc("1969-12-31T23:59:57"),
            _utc("1970-01-01T00:00:00"),
            None,
            _utc("2038-01-19T03:14:07"),
            _utc("1970-01-01T00:01:40"),
            None,
        ),
        where="converters of epochs",
        remedy="integer arithmetic",
    ),
    OfRows(
        name="pmod of negative numbers",
        value=lambda: F.pmod("whole", F.lit(5)),
        kind="bigint",
        expected=(2, 3, 0, None, 3, 0, None),
        where="the folds of the split, the Mondays of the calendar",
        remedy="((a % n) + n) % n",
    ),
    OfRows(
        name="md5 of a string",
        value=lambda: F.md5("key"),
        kind="string",
        expected=(
            "da00371d41d2f1ef986d843d02ab4fd6",
            "4c10fde940bd0828a4196ce619ad72b8",
            "fb44af73417cf03c023d098e7f07c114",
            None,
            "d41d8cd98f00b204e9800998ecf8427e",
            "da00371d41d2f1ef986d843d02ab4fd6",
            "a4474cf41e7931c5fb71b2012ffd7ce1",
        ),
        where="rows without a key, in cleaning",
        remedy="xxhash64",
    ),
)
TIMES = (
    OfRows(
        name="microseconds of a time",
        value=lambda: F.unix_micros("at"),
        kind="bigint",
        expected=(
            1_736_157_600_000_001,
            1_736_207_999_999_999,
            -500_000,
            None,
            1_709_208_000_000_000,
            1_743_298_200_000_000,
            None,
        ),
        where="every duration",
        remedy="none: no other function is exact",
    ),
    OfRows(
        name="hours between two times",
        value=lambda: (F.unix_micros("until") - F.unix_micros("at")) / F.lit(3_600_000_000),
        kind="double",
        expected=(0.7583333330555555, None, 0.0001388888888888889, None, 24.0, -24.0, None),
        where="deliveries that come impossibly late",
        remedy="divide as doubles",
    ),
    OfRows(
        name="date of a time",
        value=lambda: F.col("at").cast("date"),
        kind="date",
        expected=(
            date(2025, 1, 6),
            date(2025, 1, 6),
            date(1969, 12, 31),
            None,
            date(2024, 2, 29),
            date(2025, 3, 30),
            None,
        ),
        where="the as-of dates that observe an event",
        remedy="date_from_unix_date of floored microseconds",
    ),
    OfRows(
        name="midnight of a date",
        value=lambda: F.unix_micros(F.col("day").cast("timestamp")),
        kind="bigint",
        expected=(
            1_736_121_600_000_000,
            1_736_640_000_000_000,
            -86_400_000_000,
            None,
            1_709_164_800_000_000,
            1_743_292_800_000_000,
            None,
        ),
        where="the bounds of every window",
        remedy="unix_date times the microseconds of a day",
    ),
    OfRows(
        name="a date before, at midnight",
        value=lambda: F.col("at") >= F.date_sub("day", 1).cast("timestamp"),
        kind="boolean",
        expected=(True, False, True, None, True, True, None),
        where="the eligibility window",
        remedy="compare microseconds",
    ),
    OfRows(
        name="a date after, over the end of a month",
        value=lambda: F.date_add("day", 30),
        kind="date",
        expected=(
            date(2025, 2, 5),
            date(2025, 2, 11),
            date(1970, 1, 30),
            None,
            date(2024, 3, 30),
            date(2025, 4, 29),
            None,
        ),
        where="the outcome windows",
        remedy="date_from_unix_date of a sum",
    ),
    OfRows(
        name="number of a day",
        value=lambda: F.unix_date("day"),
        kind="int",
        expected=(20_094, 20_100, -1, None, 19_782, 20_177, None),
        where="the Mondays of the calendar",
        remedy="datediff from 1970-01-01",
    ),
    OfRows(
        name="day of a number",
        value=lambda: F.date_from_unix_date(F.least(F.col("small"), F.col("id").cast("int"))),
        kind="date",
        expected=(
            date(1970, 1, 2),
            date(1969, 12, 29),
            date(1970, 1, 1),
            date(1970, 1, 5),
            date(1970, 1, 6),
            date(1970, 1, 7),
            date(1970, 1, 8),
        ),
        where="the Mondays of the calendar",
        remedy="date_add of 1970-01-01",
    ),
    OfRows(
        name="time of seconds",
        value=lambda: F.timestamp_seconds(F.col("small")),
        kind="timestamp",
        expected=(
            _utc("1970-01-01T00:00:03"),
            _utc("1969-12-31T23:59:57"),
            _utc("1970-01-01T00:00:00"),
            None,
            _utc("2038-01-19T03:14:07"),
            _utc("1970-01-01T00:01:40"),
            None,
        ),
        where="the demo's times",
        remedy="timestamp_micros",
    ),
    OfRows(
        name="minutes before a time",
        value=lambda: F.col("at") - F.make_dt_interval(mins=F.lit(3).cast("int")),
        kind="timestamp",
        expected=(
            _utc("2025-01-06T09:57:00.000001"),
            _utc("2025-01-06T23:56:59.999999"),
            _utc("1969-12-31T23:56:59.5"),
            None,
            _utc("2024-02-29T11:57:00"),
            _utc("2025-03-30T01:27:00"),
            None,
        ),
        where="the demo's planted faults",
        remedy="timestamp_micros of a difference",
    ),
    OfRows(
        name="an interval before a time",
        value=lambda: F.col("until") - F.expr("interval 20 minutes"),
        kind="timestamp",
        expected=(
            _utc("2025-01-06T10:25:30"),
            None,
            _utc("1969-12-31T23:40:00"),
            None,
            _utc("2024-03-01T11:40:00"),
            _utc("2025-03-29T01:10:00"),
            None,
        ),
        where="the demo's drift",
        remedy="timestamp_micros of a difference",
    ),
    OfRows(
        name="whether a time lies between two",
        value=lambda: F.coalesce(
            F.col("at").between(F.lit("1970-01-01").cast("timestamp"), F.lit(_utc("2025-01-06T23:59:59.999999"))),
            F.lit(False),
        ),
        kind="boolean",
        expected=(True, True, False, False, True, False, False),
        where="impossible times, in cleaning",
        remedy="compare microseconds",
    ),
    OfRows(
        name="whether a date is one of several",
        value=lambda: F.col("day").isin([date(2025, 1, 6), date(1969, 12, 31)]),
        kind="boolean",
        expected=(True, False, True, None, False, False, None),
        where="the training dates, the weeks scored",
        remedy="several equalities",
    ),
    OfRows(
        name="the earlier of dates, one of them null",
        value=lambda: F.least(F.col("day"), F.lit(date(2025, 1, 6)), F.col("until").cast("date")),
        kind="date",
        expected=(
            date(2025, 1, 6),
            date(2025, 1, 6),
            date(1969, 12, 31),
            date(2025, 1, 6),
            date(2024, 2, 29),
            date(2025, 1, 6),
            date(2025, 1, 6),
        ),
        where="the as-of dates that observe an event",
        remedy="case and when",
    ),
    OfRows(
        name="time read from text",
        value=lambda: F.col("moment").try_cast("timestamp"),
        kind="timestamp",
        expected=(
            _utc("2025-01-06T00:00:00"),
            _utc("2025-01-06T08:00:00"),
            _utc("1969-12-31T23:59:59.123456"),
            None,
            None,
            None,
            None,
        ),
        where="sources whose times are text",
        remedy="read them through Arrow",
    ),
    OfRows(
        name="date read from text",
        value=lambda: F.when(F.col("id") != 2, F.col("moment")).try_cast("date"),
        kind="date",
        expected=(date(2025, 1, 6), None, date(1969, 12, 31), None, None, None, None),
        where="sources whose dates are text",
        remedy="read them through Arrow",
    ),
    OfRows(
        name="text of a time",
        value=lambda: F.col("at").cast("string"),
        kind="string",
        expected=(
            "2025-01-06 10:00:00.000001",
            "2025-01-06 23:59:59.999999",
            "1969-12-31 23:59:59.5",
            None,
            "2024-02-29 12:00:00",
            "2025-03-30 01:30:00",
            None,
        ),
        where="offenders by name",
        remedy="date_format",
    ),
)
NUMBERS = (
    OfRows(
        name="quotient of longs",
        value=lambda: F.col("whole") / F.lit(2),
        kind="double",
        expected=(3.5, -3.5, 0.0, None, 4_503_599_627_370_496.0, 50.0, None),
        where="every mean and share",
        remedy="cast both to double",
    ),
    OfRows(
        name="floor of a negative quotient",
        value=lambda: F.floor(F.col("small") / 2),
        kind="bigint",
        expected=(1, -2, 0, None, 1_073_741_823, 50, None),
        where="quintiles and medians",
        remedy="(a - pmod(a, n)) / n",
    ),
    OfRows(
        name="divided by nothing",
        value=lambda: F.coalesce(F.col("small") / F.nullif("whole", F.lit(0)), F.lit(0.0)),
        kind="double",
        expected=(3 / 7, 3 / 7, 0.0, 0.0, 2_147_483_647 / 9_007_199_254_740_992, 1.0, 0.0),
        where="the share of late deliveries",
        remedy="case and when",
    ),
    OfRows(
        name="the greatest double before the next is a whole number more",
        value=lambda: F.col("whole").cast("double"),
        kind="double",
        expected=(7.0, -7.0, 0.0, None, 9_007_199_254_740_992.0, 100.0, None),
        where="counts as features",
        remedy="divide by one",
    ),
    OfRows(
        name="NaN is greater than any number",
        value=lambda: F.col("value") > 1.0,
        kind="boolean",
        expected=(True, True, False, None, True, False, None),
        where="the bins of drift, the ranges of the panel",
        remedy="isnan first",
    ),
    OfRows(
        name="NaN equals itself",
        value=lambda: F.col("value") == F.lit(NAN),
        kind="boolean",
        expected=(False, True, False, None, False, False, None),
        where="features compared with those without the future",
        remedy="isnan of both",
    ),
    OfRows(
        name="both null or both equal",
        value=lambda: F.col("value").eqNullSafe(F.when(F.col("id") < 5, F.col("value"))),
        kind="boolean",
        expected=(True, True, True, True, False, False, True),
        where="features compared with those without the future",
        remedy="coalesce of an equality and two isNull",
    ),
    OfRows(
        name="whether a value is null or NaN",
        value=lambda: F.col("value").isNull() | F.isnan("value"),
        kind="boolean",
        expected=(False, True, False, True, False, False, True),
        where="nulls and NaN refused in panels and scores",
        remedy="case and when",
    ),
    OfRows(
        name="the greater of two, null aside and NaN above",
        value=lambda: F.greatest("value", F.lit(1.0)),
        kind="double",
        expected=(1.5, NAN, 1.0, 1.0, INF, 1.0, 1.0),
        where="a customer's own gap",
        remedy="case and when",
    ),
    OfRows(
        name="the lesser of two, null aside and NaN above",
        value=lambda: F.least("value", F.lit(1.0)),
        kind="double",
        expected=(1.0, 1.0, -0.0, 1.0, 1.0, 1e-5, 1.0),
        where="the silence that makes a churner, the capacity of a list",
        remedy="case and when",
    ),
    OfRows(
        name="between zero and the largest double",
        value=lambda: F.col("value").between(0, 1.7976931348623157e308),
        kind="boolean",
        expected=(True, False, True, None, False, True, None),
        where="subtotals that cannot be",
        remedy="two comparisons",
    ),
    OfRows(
        name="one of two numbers, both zeros alike",
        value=lambda: F.col("value").isin(0.0, 1.5),
        kind="boolean",
        expected=(True, False, True, None, False, False, None),
        where="labels and yes-or-no features",
        remedy="two equalities",
    ),
    OfRows(
        name="absolute value",
        value=lambda: F.abs("value"),
        kind="double",
        expected=(1.5, NAN, 0.0, None, INF, 1e-5, None),
        where="sums of contributions",
        remedy="case and when",
    ),
    OfRows(
        name="number read from text",
        value=lambda: F.col("text").try_cast("double"),
        kind="double",
        expected=(2.5, None, None, None, None, 1000.0, None),
        where="sources whose numbers are text",
        remedy="read them through Arrow",
    ),
    OfRows(
        name="truth read from text",
        value=lambda: F.col("text").try_cast("boolean"),
        kind="boolean",
        expected=(None, None, None, None, True, None, None),
        where="sources whose truths are text",
        remedy="case and when of lower text",
    ),
    OfRows(
        name="text of a double of usual size",
        value=lambda: F.concat_ws("|", F.col("other").cast("string"), (-F.col("id")).cast("double").cast("string")),
        kind="string",
        expected=("0.1|-1.0", "0.2|-2.0", "0.3|-3.0", "-4.0", "2.675|-5.0", "123456.789|-6.0", "-7.0"),
        where="why a customer cannot be scored",
        remedy="in Python, where the text is shown",
    ),
    OfRows(
        name="text of integers and truths",
        value=lambda: F.concat_ws("|", F.col("whole").cast("string"), F.col("flag").cast("string")),
        kind="string",
        expected=("7|true", "-7|false", "0", "true", "9007199254740993|false", "100|true", ""),
        where="offenders by name, keys that are numbers",
        remedy="case and when",
    ),
    OfRows(
        name="a double as a decimal through its text, half up",
        value=lambda: (
            F.concat(F.col("other").cast("string"), F.lit("5")).cast("double").cast("string").cast("decimal(28,3)")
        ),
        kind="decimal(28,3)",
        expected=(
            Decimal("0.150"),
            Decimal("0.250"),
            Decimal("0.350"),
            None,
            Decimal("2.676"),
            Decimal("123456.790"),
            None,
        ),
        where="spend and scores, which no order of rows may change",
        remedy="round in Arrow, where orders are read",
    ),
    OfRows(
        name="a decimal as a double, by its digits",
        value=lambda: _exact("other").cast("string").cast("double"),
        kind="double",
        expected=(0.1, 0.2, 0.3, None, 2.675, 123456.789, None),
        where="spend and scores as features",
        remedy="none: without the text between, some engines miss the nearest double",
    ),
    OfRows(
        name="a double as a float",
        value=lambda: F.col("other").cast("float").cast("double"),
        kind="double",
        expected=(
            0.10000000149011612,
            0.20000000298023224,
            0.30000001192092896,
            None,
            2.674999952316284,
            123456.7890625,
            None,
        ),
        where="what XGBoost learns from",
        remedy="cast in Arrow",
    ),
    OfRows(
        name="exponential",
        value=lambda: F.abs(1 / (1 + F.exp(-2 * F.col("other"))) - F.lit(0.6)) < F.lit(0.04),
        kind="boolean",
        expected=(False, True, False, None, False, False, None),
        where="the additivity of reasons",
        remedy="in numpy",
    ),
)
TEXTS = (
    OfRows(
        name="text without the blanks around it, of any kind",
        value=lambda: F.nullif(
            F.btrim(F.concat(F.lit("\u00a0\t"), F.col("text"), F.lit(" \u3000")), F.lit("\t \u00a0\u3000")), F.lit("")
        ),
        kind="string",
        expected=("2.50", "x", None, None, "true", "1e3", None),
        where="keys of sources",
        remedy="trim in Arrow",
    ),
    OfRows(
        name="text that is more than blanks",
        value=lambda: F.col("text").rlike(r"(?U)\S"),
        kind="boolean",
        expected=(True, True, False, None, True, True, False),
        where="keys and segments of sources",
        remedy="trim in Arrow",
    ),
    OfRows(
        name="a part of a text by a pattern",
        value=lambda: F.regexp_extract(F.lower(F.col("text")), r"^(\d+)\.?(\d*)(?:e([+-]?\d+))?$", 3),
        kind="string",
        expected=("", "", "", None, "", "3", ""),
        where="numbers in rows set aside",
        remedy="in Arrow",
    ),
    OfRows(
        name="a text without what a pattern finds",
        value=lambda: F.regexp_replace(F.regexp_replace("key", "^C0+", ""), "1+$", ""),
        kind="string",
        expected=("", "2", "Zoë", None, "", "", "7"),
        where="numbers in rows set aside",
        remedy="in Arrow",
    ),
    OfRows(
        name="the inner part of a text, by characters",
        value=lambda: F.when(F.col("key") != "", F.substring("key", F.lit(2), F.length("key") - 2)),
        kind="string",
        expected=("000000", "000000", "o", None, None, "000000", "000000"),
        where="rows set aside",
        remedy="in Arrow",
    ),
    OfRows(
        name="a time in a format",
        value=lambda: F.date_format("at", "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"),
        kind="string",
        expected=(
            "2025-01-06T10:00:00.000001",
            "2025-01-06T23:59:59.999999",
            "1969-12-31T23:59:59.500000",
            None,
            "2024-02-29T12:00:00.000000",
            "2025-03-30T01:30:00.000000",
            None,
        ),
        where="rows set aside",
        remedy="in Arrow",
    ),
    OfRows(
        name="a time and a text as JSON",
        value=lambda: F.to_json(
            F.struct(
                F.coalesce("key", F.lit('"')).alias("k"), F.coalesce("at", F.timestamp_seconds(F.lit(0))).alias("t")
            ),
            {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"},
        ),
        kind="string",
        expected=(
            '{"k":"C0000001","t":"2025-01-06T10:00:00.000001Z"}',
            '{"k":"C0000002","t":"2025-01-06T23:59:59.999999Z"}',
            '{"k":"Zoë","t":"1969-12-31T23:59:59.500000Z"}',
            '{"k":"\\"","t":"1970-01-01T00:00:00.000000Z"}',
            '{"k":"","t":"2024-02-29T12:00:00.000000Z"}',
            '{"k":"C0000001","t":"2025-03-30T01:30:00.000000Z"}',
            '{"k":"C0000007","t":"1970-01-01T00:00:00.000000Z"}',
        ),
        where="rows set aside, whole",
        remedy="in Python, batch by batch",
    ),
    OfRows(
        name="text joined, nulls left out",
        value=lambda: F.concat_ws(":", F.lit("holdout"), F.col("day").cast("string"), F.col("key")),
        kind="string",
        expected=(
            "holdout:2025-01-06:C0000001",
            "holdout:2025-01-12:C0000002",
            "holdout:1969-12-31:Zoë",
            "holdout",
            "holdout:2024-02-29:",
            "holdout:2025-03-30:C0000001",
            "holdout:C0000007",
        ),
        where="who is held out, offenders by name",
        remedy="coalesce each part",
    ),
    OfRows(
        name="text concatenated, null with null",
        value=lambda: F.concat(F.lit("salt:"), F.col("key")),
        kind="string",
        expected=(
            "salt:C0000001",
            "salt:C0000002",
            "salt:Zoë",
            None,
            "salt:",
            "salt:C0000001",
            "salt:C0000007",
        ),
        where="the folds of the split",
        remedy="case and when",
    ),
    OfRows(
        name="the first that is not null",
        value=lambda: F.coalesce(F.col("key"), F.col("text"), F.lit("(null)")),
        kind="string",
        expected=("C0000001", "C0000002", "Zoë", "(null)", "", "C0000001", "C0000007"),
        where="nearly everywhere",
        remedy="case and when",
    ),
    OfRows(
        name="the first case that holds, null holding nowhere",
        value=lambda: F.when(F.col("flag"), "yes").when(~F.col("flag"), "no").otherwise("unknown"),
        kind="string",
        expected=("yes", "no", "unknown", "yes", "no", "yes", "unknown"),
        where="the rules of cleaning",
        remedy="coalesce each condition",
    ),
    OfRows(
        name="and, or and not with null",
        value=lambda: F.concat_ws(
            "",
            *[
                F.coalesce(each.cast("int").cast("string"), F.lit("-"))
                for each in (F.col("flag") & F.lit(False), F.col("flag") | F.lit(True), ~F.col("flag"))
            ],
        ),
        kind="string",
        expected=("010", "011", "01-", "010", "011", "010", "01-"),
        where="every condition over columns that may be null",
        remedy="coalesce each part",
    ),
    OfRows(
        name="a condition in SQL",
        value=lambda: F.expr("key is null or key = 'C0000001' and whole between 0 and 99"),
        kind="boolean",
        expected=(True, False, False, True, False, False, False),
        where="the rows of silver",
        remedy="the same as a column",
    ),
    OfRows(
        name="a case in SQL with doubles written out",
        value=lambda: F.expr(
            "CASE WHEN value IS NULL THEN 'is null' WHEN isnan(value) THEN 'is NaN' "
            "WHEN abs(value) = double('infinity') THEN 'is infinite' WHEN NOT (value >= 0.0D AND value <= 1.0D) "
            "THEN concat('is ', string(value)) END"
        ),
        kind="string",
        expected=("is 1.5", "is NaN", None, "is null", "is infinite", None, "is null"),
        where="why a customer cannot be scored",
        remedy="the same as columns",
    ),
)
ARRAYS = (
    OfRows(
        name="an array without its nulls",
        value=lambda: F.array_compact(F.array(F.lit("row"), F.when(F.col("value") > 1, "high"), F.col("key"))),
        kind="array<string>",
        expected=(
            ["row", "high", "C0000001"],
            ["row", "high", "C0000002"],
            ["row", "Zoë"],
            ["row"],
            ["row", "high", ""],
            ["row", "C0000001"],
            ["row", "C0000007"],
        ),
        where="the rules that a row breaks",
        remedy="filter",
    ),
    OfRows(
        name="the middle of a sorted array",
        value=lambda: F.get(F.sort_array(F.array("whole", "id", F.lit(5))), F.floor(F.lit(3) / 2).cast("int")),
        kind="bigint",
        expected=(5, 2, 3, 4, 5, 6, 5),
        where="the median gap",
        remedy="element_at",
    ),
    OfRows(
        name="beyond the end of an array",
        value=lambda: F.get(F.array("whole"), F.lit(1)),
        kind="bigint",
        expected=(None,) * 7,
        where="the median gap",
        remedy="case and when of the size",
    ),
    OfRows(
        name="size of an array",
        value=lambda: F.size(F.array_compact(F.array("key", "text"))),
        kind="int",
        expected=(2, 2, 2, 0, 2, 2, 2),
        where="the median gap, features that differ",
        remedy="cardinality",
    ),
    OfRows(
        name="whether an array holds a value",
        value=lambda: F.array_contains(F.array(F.lit("x"), F.coalesce("key", F.lit("y"))), "C0000001"),
        kind="boolean",
        expected=(True, False, False, False, False, True, False),
        where="the action that is suggested",
        remedy="exists",
    ),
    OfRows(
        name="array made of one value, several times",
        value=lambda: F.array_repeat(F.col("part"), F.least(F.col("id"), F.lit(2)).cast("int")),
        kind="array<string>",
        expected=(["a"], ["a", "a"], ["a", "a"], ["b", "b"], ["b", "b"], ["b", "b"], ["c", "c"]),
        where="the copies of a row, by name",
        remedy="in Python, where they are shown",
    ),
    OfRows(
        name="element of an array by its number",
        value=lambda: F.get(
            F.array(F.lit(None).cast("string"), F.lit("  "), F.lit("Legacy")), F.pmod("id", F.lit(3)).cast("int")
        ),
        kind="string",
        expected=("  ", "Legacy", None, "  ", "Legacy", None, "  "),
        where="the demo's planted faults",
        remedy="case and when",
    ),
    OfRows(
        name="value of a map by a key that may be missing or null",
        value=lambda: F.try_element_at(
            F.create_map(F.lit("a"), F.lit(0.0), F.lit("b"), F.lit(1.0)), F.when(F.col("id") != 4, F.col("part"))
        ),
        kind="double",
        expected=(0.0, 0.0, 0.0, None, 1.0, 1.0, None),
        where="the numbers of segments",
        remedy="case and when",
    ),
    OfRows(
        name="those of an array of structs that hold",
        value=lambda: F.size(
            F.filter(
                F.array(F.struct(F.col("id").alias("number")), F.struct(F.lit(9).cast("bigint").alias("number"))),
                lambda part: part["number"] < F.lit(3),
            )
        ),
        kind="int",
        expected=(1, 1, 0, 0, 0, 0, 0),
        where="the states of a review without those of later",
        remedy="explode and collect",
    ),
    OfRows(
        name="sum over an array of structs",
        value=lambda: F.aggregate(
            F.array(F.struct(F.col("id").cast("double").alias("share")), F.struct(F.lit(0.5).alias("share"))),
            F.lit(0.0),
            lambda total, part: total + part["share"],
        ),
        kind="double",
        expected=(1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5),
        where="the additivity of reasons",
        remedy="explode and sum",
    ),
    OfRows(
        name="the greatest of a field in an array of structs, null aside",
        value=lambda: F.array_max(F.transform(_states("at", "until"), lambda state: state["at"])),
        kind="timestamp",
        expected=(
            _utc("2025-01-06T10:45:30"),
            _utc("2025-01-06T23:59:59.999999"),
            _utc("1970-01-01T00:00:00"),
            None,
            _utc("2024-03-01T12:00:00"),
            _utc("2025-03-30T01:30:00"),
            None,
        ),
        where="the dates that observe a state of a review",
        remedy="explode and group",
    ),
)
WINDOWS = (
    OfRows(
        name="rank: null first, equal values share one",
        value=lambda: F.rank().over(_by_part().orderBy("flag")),
        kind="int",
        expected=(3, 2, 1, 2, 1, 2, 1),
        where="the states of a row, in cleaning",
        remedy="the number of rows before",
    ),
    OfRows(
        name="how many of a group hold, beside each row",
        value=lambda: F.count_if("flag").over(_by_part()),
        kind="bigint",
        expected=(1, 1, 1, 2, 2, 2, 0),
        where="rows alike in cleaning",
        remedy="a join with the counts",
    ),
    OfRows(
        name="lists of a growing window, as one",
        value=lambda: F.sort_array(
            F.flatten(
                F.collect_list(F.array("id")).over(
                    _by_part().orderBy("id").rowsBetween(Window.unboundedPreceding, Window.currentRow)
                )
            )
        ),
        kind="array<bigint>",
        expected=([1], [1, 2], [1, 2, 3], [4], [4, 5], [4, 5, 6], [7]),
        where="the median gap",
        remedy="a join with the rows before",
    ),
    OfRows(
        name="sum over a range before the row",
        value=lambda: F.sum("id").over(_by_part().orderBy("id").rangeBetween(-2, -1)),
        kind="bigint",
        expected=(None, 1, 3, None, 4, 9, None),
        where="how long late deliveries kept a customer waiting",
        remedy="a join with the rows before",
    ),
    OfRows(
        name="row number: null first, NaN last",
        value=lambda: F.row_number().over(_by_part().orderBy("value", "id")),
        kind="int",
        expected=(2, 3, 1, 1, 3, 2, 1),
        where="duplicates of a key, in cleaning",
        remedy="asc_nulls_first by name",
    ),
    OfRows(
        name="row number downwards: NaN first, null last",
        value=lambda: F.row_number().over(_by_part().orderBy(F.desc("value"), "id")),
        kind="int",
        expected=(2, 1, 3, 3, 1, 2, 1),
        where="the ranks of a list",
        remedy="desc_nulls_last by name",
    ),
    OfRows(
        name="row number with null last",
        value=lambda: F.row_number().over(_by_part().orderBy(F.asc_nulls_last("value"), "id")),
        kind="int",
        expected=(2, 3, 1, 3, 2, 1, 1),
        where="the customer's segment, in cleaning",
        remedy="order by isNull first",
    ),
    OfRows(
        name="strings in the order of their bytes",
        value=lambda: F.row_number().over(Window.partitionBy(F.lit(1)).orderBy("key", "id")),
        kind="int",
        expected=(3, 5, 7, 1, 2, 4, 6),
        where="ties, everywhere",
        remedy="order by the hash",
    ),
    OfRows(
        name="value of the row before",
        value=lambda: F.lag("id").over(_by_part().orderBy("at", "id")),
        kind="bigint",
        expected=(3, 1, None, None, 4, 5, None),
        where="gaps between orders, changes of scores",
        remedy="join by the row number less one",
    ),
    OfRows(
        name="value of the row after",
        value=lambda: F.lead("at").over(_by_part().orderBy("at", "id")),
        kind="timestamp",
        expected=(
            _utc("2025-01-06T23:59:59.999999"),
            None,
            _utc("2025-01-06T10:00:00.000001"),
            _utc("2024-02-29T12:00:00"),
            _utc("2025-03-30T01:30:00"),
            None,
            None,
        ),
        where="the demo's leaking column",
        remedy="lag over the reverse order",
    ),
    OfRows(
        name="rank with ties",
        value=lambda: F.rank().over(Window.partitionBy(F.lit(1)).orderBy(F.coalesce("key", F.lit("")))),
        kind="int",
        expected=(3, 5, 7, 1, 1, 3, 6),
        where="quintiles",
        remedy="count of the smaller ones plus one",
    ),
    OfRows(
        name="fifth of a value by its rank",
        value=lambda: (
            F.floor(
                5
                * (F.rank().over(Window.partitionBy(F.lit(1)).orderBy("id")) - 1)
                / F.count(F.lit(1)).over(Window.partitionBy(F.lit(1)))
            )
            + 1
        ),
        kind="bigint",
        expected=(1, 1, 2, 3, 3, 4, 5),
        where="quintiles",
        remedy="ntile, and its ties by hand",
    ),
    OfRows(
        name="count of what is known, over a part",
        value=lambda: F.count("other").over(_by_part()),
        kind="bigint",
        expected=(3, 3, 3, 2, 2, 2, 0),
        where="the usual rating",
        remedy="a grouping joined back",
    ),
    OfRows(
        name="sum of decimals over a part",
        value=lambda: F.sum(_exact("other")).over(_by_part()),
        kind="decimal(30,10)",
        expected=(*[Decimal("0.6000000000")] * 3, *[Decimal("123459.4640000000")] * 3, None),
        where="the usual rating",
        remedy="a grouping joined back",
    ),
    OfRows(
        name="median over a part, of an odd number",
        value=lambda: F.median(F.coalesce("other", "id")).over(_by_part()),
        kind="double",
        expected=(0.2, 0.2, 0.2, 4.0, 4.0, 4.0, 7.0),
        where="the usual gap between orders",
        remedy="a grouping joined back",
    ),
    OfRows(
        name="the date of a text that has a time",
        value=lambda: F.regexp_replace(F.trim(F.lit(" 2025-01-06T10:00:00+02:00 ")), "[ T].*", "").try_cast("date"),
        kind="date",
        expected=(date(2025, 1, 6),) * 7,
        where="dates of the source tables",
        remedy="cast in the select",
    ),
    OfRows(
        name="median over a part, of an even number and nulls",
        value=lambda: F.median(F.when(F.col("id") == 1, 15.30414).when(F.col("id") == 2, 54.919883276109374)).over(
            _by_part()
        ),
        kind="double",
        expected=(*[35.11201163805469] * 3, *[None] * 4),
        where="the usual gap between orders",
        remedy="the middle two over two",
    ),
    OfRows(
        name="the least up to this row",
        value=lambda: F.min("day").over(
            _by_part().orderBy("id").rowsBetween(Window.unboundedPreceding, Window.currentRow)
        ),
        kind="date",
        expected=(
            date(2025, 1, 6),
            date(2025, 1, 6),
            date(1969, 12, 31),
            None,
            date(2024, 2, 29),
            date(2024, 2, 29),
            None,
        ),
        where="the first order ever",
        remedy="a join with the rows before",
    ),
    OfRows(
        name="how many hold before this row",
        value=lambda: F.coalesce(
            F.count_if(F.col("flag")).over(_by_part().orderBy("id").rowsBetween(Window.unboundedPreceding, -1)),
            F.lit(0),
        ),
        kind="bigint",
        expected=(0, 1, 1, 0, 1, 1, 0),
        where="the capacity of a list",
        remedy="the sum of cases",
    ),
    OfRows(
        name="what is known up to this row, nulls dropped by name, sorted",
        value=lambda: F.sort_array(
            F.array_compact(
                F.collect_list("whole").over(
                    _by_part().orderBy("id").rowsBetween(Window.unboundedPreceding, Window.currentRow)
                )
            )
        ),
        kind="array<bigint>",
        expected=([7], [-7, 7], [-7, 0, 7], [], [9_007_199_254_740_993], [100, 9_007_199_254_740_993], []),
        where="the median gap",
        remedy="a join with the rows before",
    ),
)
AGGREGATES = (
    OfParts(
        name="rows, and those with a value",
        value=lambda: F.concat_ws("|", F.count(F.lit(1)).cast("string"), F.count("value").cast("string")),
        kind="string",
        expected=("3|3", "3|2", "1|0"),
        where="nearly everywhere",
        remedy="sums of cases",
    ),
    OfParts(
        name="how many hold",
        value=lambda: F.count_if(F.col("flag")),
        kind="bigint",
        expected=(1, 2, 0),
        where="late deliveries, alerts, churners",
        remedy="the sum of cases",
    ),
    OfParts(
        name="whether one holds, null with nothing known",
        value=lambda: F.bool_or(F.col("flag")),
        kind="boolean",
        expected=(True, True, None),
        where="crisis deliveries",
        remedy="the maximum of cases",
    ),
    OfParts(
        name="the least: null and NaN aside",
        value=lambda: F.min(F.when(~F.isnan("value"), F.col("value"))),
        kind="double",
        expected=(-0.0, 1e-5, None),
        where="the bounds of the panel",
        remedy="min of what is not NaN",
    ),
    OfParts(
        name="the greatest: null aside, infinity above",
        value=lambda: F.max(F.when(~F.isnan("value"), F.col("value"))),
        kind="double",
        expected=(1.5, INF, None),
        where="the bounds of the panel",
        remedy="in Arrow",
    ),
    OfParts(
        name="the latest time",
        value=lambda: F.max("at"),
        kind="timestamp",
        expected=(_utc("2025-01-06T23:59:59.999999"), _utc("2025-03-30T01:30:00"), None),
        where="the last order",
        remedy="max of microseconds",
    ),
    OfParts(
        name="sum of decimals",
        value=lambda: F.sum(_exact("other")),
        kind="decimal(30,10)",
        expected=(Decimal("0.6000000000"), Decimal("123459.4640000000"), None),
        where="spend and scores",
        remedy="sums of whole numbers",
    ),
    OfParts(
        name="sum of whole numbers",
        value=lambda: F.sum("small"),
        kind="bigint",
        expected=(0, 2_147_483_747, None),
        where="minutes of delay",
        remedy="the sum of decimals",
    ),
    OfParts(
        name="mean of decimals as a quotient",
        value=lambda: F.sum(_exact("other")).cast("string").cast("double") / F.nullif(F.count("other"), F.lit(0)),
        kind="double",
        expected=(0.19999999999999998, 61729.732, None),
        where="the mean score",
        remedy="divide in Python",
    ),
    OfParts(
        name="mean of doubles",
        value=lambda: F.avg("other"),
        kind="double",
        expected=(0.20000000000000004, 61729.732, None),
        where="the shares of a snapshot, summaries",
        remedy="the sum over the count",
    ),
    OfParts(
        name="the middle one of an odd number",
        value=lambda: F.percentile("id", 0.5),
        kind="double",
        expected=(2.0, 5.0, 7.0),
        where="the usual gap between orders, what is usual of a feature",
        remedy="in numpy",
    ),
    OfParts(
        name="value at the greatest of another",
        value=lambda: F.max_by("key", "whole"),
        kind="string",
        expected=("C0000001", "", None),
        where="the latest median gap",
        remedy="the maximum of a struct",
    ),
    OfParts(
        name="value at the least of another, null aside",
        value=lambda: F.min_by("id", F.when(F.col("flag"), F.col("key"))),
        kind="bigint",
        expected=(1, 6, None),
        where="first offenders",
        remedy="the minimum of a struct",
    ),
    OfParts(
        name="different values, sorted",
        value=lambda: F.array_sort(F.collect_set("key")),
        kind="array<string>",
        expected=(["C0000001", "C0000002", "Zoë"], ["", "C0000001"], ["C0000007"]),
        where="reasons for an exclusion, categories of drift",
        remedy="distinct rows",
    ),
    OfParts(
        name="different values of lists",
        value=lambda: F.array_sort(F.array_distinct(F.flatten(F.collect_set(F.array("part", "key"))))),
        kind="array<string>",
        expected=(["C0000001", "C0000002", "Zoë", "a"], ["", "C0000001", "b", None], ["C0000007", "c"]),
        where="features that have seen the future",
        remedy="explode and distinct",
    ),
    OfParts(
        name="a struct of the least and the greatest",
        value=lambda: F.struct(F.min("small").alias("low"), F.max("small").alias("high")),
        kind="struct<low:int,high:int>",
        expected=({"low": -3, "high": 3}, {"low": 100, "high": 2_147_483_647}, {"low": None, "high": None}),
        where="the bounds of the panel",
        remedy="two columns",
    ),
    OfParts(
        name="a share of a count, floored",
        value=lambda: F.floor(F.count("*") * F.lit(0.35)).cast("long"),
        kind="bigint",
        expected=(1, 1, 0),
        where="the capacity of a list",
        remedy="floor of a double",
    ),
)
FRAMES = (
    OfFrames(
        name="inner join: null keys find nobody",
        frame=lambda given: given.rows.select("id", "key").join(given.others, "key").select("id", "number"),
        expected=("1|1", "1|1", "6|1", "6|1"),
        where="scores and spend",
        remedy="filter the nulls first",
    ),
    OfFrames(
        name="left join",
        frame=lambda given: given.rows.join(given.others.distinct().drop("day"), "key", "left").select("id", "number"),
        expected=("1|1", "2|-", "3|-", "4|-", "5|-", "6|1", "7|-"),
        where="reviews of orders, outcomes of snapshots",
        remedy="inner join and anti join",
    ),
    OfFrames(
        name="full join: the key of either side",
        frame=lambda given: (
            given.rows.where("id < 3").join(given.others, ["key", "day"], "full_outer").select("key", "id", "number")
        ),
        expected=("-|-|2", "C0000001|1|1", "C0000001|1|1", "C0000002|2|-", "C0000009|-|3"),
        where="contacts and lists, panels with and without the future",
        remedy="left join and anti join",
    ),
    OfFrames(
        name="those with a match, each once",
        frame=lambda given: given.rows.join(given.others, ["key"], "left_semi").select("id"),
        expected=("1", "6"),
        where="opt-outs, the weeks scored",
        remedy="a join with distinct keys",
    ),
    OfFrames(
        name="those without a match, null keys among them",
        frame=lambda given: given.rows.join(given.others, ["key"], "left_anti").select("id"),
        expected=("2", "3", "4", "5", "7"),
        where="new segments, candidates of a list",
        remedy="left join and isNull",
    ),
    OfFrames(
        name="all but, with copies and nulls",
        frame=lambda given: given.others.select("key", "number").exceptAll(
            given.session.createDataFrame(OTHERS.select(["key", "number"]).slice(1, 2))
        ),
        expected=("C0000001|1", "C0000009|3"),
        where="the comparison of two engines",
        remedy="counts of rows, joined",
    ),
    OfFrames(
        name="different rows, null like null",
        frame=lambda given: given.rows.select("day").distinct(),
        expected=("-", "1969-12-31", "2024-02-29", "2025-01-06", "2025-01-12", "2025-03-30"),
        where="the dates of scores, dimensions",
        remedy="a grouping",
    ),
    OfFrames(
        name="null is a group",
        frame=lambda given: given.rows.groupBy("flag").count(),
        expected=("-|2", "false|2", "true|3"),
        where="rules by disposition",
        remedy="coalesce the key",
    ),
    OfFrames(
        name="an array of structs is a group, in whatever order they came",
        frame=lambda given: (
            given.rows.select("part", _states("at", "until").alias("states"))
            .unionByName(given.rows.select("part", _states("until", "at").alias("states")))
            .select("part", F.array_sort("states").alias("states"))
            .groupBy("part", "states")
            .agg(F.sum(F.lit(1)).alias("rows"))
            .select("part", "rows")
        ),
        expected=("a|2", "a|2", "a|2", "b|2", "b|2", "b|2", "c|2"),
        where="the orders that a refresh finds changed",
        remedy="a hash of the array as text",
    ),
    OfFrames(
        name="united by name, missing columns null",
        frame=lambda given: (
            given.rows.where("id = 1")
            .select("id", "part")
            .unionByName(given.others.select("number", F.col("number").alias("id")), allowMissingColumns=True)
        ),
        expected=("1|-|1", "1|-|1", "1|a|-", "2|-|2", "3|-|3"),
        where="the rules of the panel, rows set aside",
        remedy="add the columns by name",
    ),
    OfFrames(
        name="every seventh day, and no row where there is none",
        frame=lambda given: given.rows.select(
            "id",
            F.explode(F.when(F.col("small") < 101, F.sequence(F.lit(0), F.col("small") + 12, F.lit(7)))).alias("n"),
        ).where("id < 6 or n > 100"),
        expected=("1|0", "1|14", "1|7", "2|0", "2|7", "3|0", "3|7", "6|105", "6|112"),
        where="the as-of dates that observe an event",
        remedy="a join with the dates",
    ),
    OfFrames(
        name="an array of structs as rows",
        frame=lambda given: given.rows.where("id < 3").select(
            "id",
            F.inline(
                F.array(
                    F.struct(F.col("key").alias("name"), F.col("whole").alias("size")),
                    F.struct(F.lit("last").alias("name"), F.lit(None).cast("bigint").alias("size")),
                )
            ),
        ),
        expected=("1|C0000001|7", "1|last|-", "2|C0000002|-7", "2|last|-"),
        where="the demo's orders",
        remedy="explode and the struct's fields",
    ),
    OfFrames(
        name="the fields of an exploded struct",
        frame=lambda given: (
            given.rows.where("id < 2")
            .select(F.explode(F.array(F.struct(F.lit("x").alias("subject"), F.col("id").alias("bin")))).alias("binned"))
            .select("binned.*")
        ),
        expected=("x|1",),
        where="the bins of drift",
        remedy="the fields by name",
    ),
    OfFrames(
        name="the first rows in an order",
        frame=lambda given: given.rows.orderBy(F.desc("day"), "id").limit(3).select("id"),
        expected=("1", "2", "6"),
        where="reference rows, the latest week",
        remedy="a row number",
    ),
    OfFrames(
        name="a view in SQL",
        frame=lambda given: _in_sql(given, "SELECT part, sum(whole) AS whole FROM conformance_rows GROUP BY part"),
        expected=("a|0", "b|9007199254741093", "c|-"),
        where="the `select` of a source",
        remedy="none: a company's own mapping is SQL",
    ),
    OfFrames(
        name="joined to itself under two names",
        frame=lambda given: (
            given.rows.alias("here")
            .join(given.rows.alias("there"), F.col("here.id") == F.col("there.id") + 3)
            .select("here.id", F.col("there.key"))
        ),
        expected=("4|C0000001", "5|C0000002", "6|Zoë", "7|-"),
        where="features with and without the future",
        remedy="rename the columns of one side",
    ),
    OfFrames(
        name="a frame without rows has its columns",
        frame=lambda given: given.session.createDataFrame([], given.rows.schema).select(F.count("at"), F.max("day")),
        expected=("0|-",),
        where="optional sources that are absent",
        remedy="an Arrow table without rows",
    ),
    OfFrames(
        name="null filled by name",
        frame=lambda given: given.rows.select("id", "whole").fillna(0, ["whole"]).where("whole = 0"),
        expected=("3|0", "4|0", "7|0"),
        where="the capacity of a list",
        remedy="coalesce",
    ),
)


def _in_sql(given: Given, statement: str) -> DataFrame:
    given.rows.createOrReplaceTempView("conformance_rows")
    return given.session.sql(statement)


def _values(frame: DataFrame, *by: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame.toArrow().sort_by([(name, "ascending") for name in by]).to_pylist()
    return rows


def _through_arrow(given: Given) -> list[Any]:
    def doubled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow
        import pyarrow.compute as pc

        for batch in batches:
            columns = [batch.column(0), pc.multiply(batch.column(1), 2), batch.column(2)]
            yield pyarrow.RecordBatch.from_arrays(columns, ["id", "twice", "day"])

    frame = given.rows.select("id", "whole", "day").where("id != 5").repartition(2)
    mapped = frame.mapInArrow(doubled, "id bigint, twice bigint, day date")
    return [(row["id"], row["twice"], row["day"]) for row in _values(mapped, "id")]


def _through_pandas(given: Given) -> list[Any]:
    def described(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            batch["days"] = [f"{type(day).__name__} {day}" for day in batch["day"]]
            yield batch[["id", "value", "days"]]

    frame = given.rows.select("id", "value", "day").where("id in (1, 2, 5)")
    mapped = frame.mapInPandas(described, "id bigint, value double, days string")
    return [(row["id"], row["value"], row["days"]) for row in _values(mapped, "id")]


def _as_a_column(given: Given) -> list[Any]:
    from pyspark.sql.pandas.functions import arrow_udf

    def counted(one: pa.Array, other: pa.Array) -> pa.Array:
        import pyarrow

        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return pyarrow.array([None if a is None or b is None else a * b for a, b in pairs], pyarrow.float64())

    product: Any = arrow_udf(counted, "double")  # type: ignore[call-overload]
    frame = given.rows.select("id", product(F.col("whole").cast("double"), "other").alias("product"))
    return [row["product"] for row in _values(frame.where("id > 0"), "id")]


def _same_again(given: Given) -> list[Any]:
    frame = given.rows.select("id", "at", "day", "value").persist()
    try:
        return [frame.count(), [row["at"] for row in _values(frame, "id")][:3]]
    finally:
        frame.unpersist()


def _empty(given: Given) -> list[Any]:
    return [given.rows.where("id > 99").isEmpty(), given.rows.where("id > 6").isEmpty()]


def _collected(given: Given) -> list[Any]:
    row = given.rows.select("id", "day", "value", F.array("key").alias("keys"), F.lit(None).cast("int").alias("no"))
    return [tuple(row.orderBy("id").first() or ()), row.columns]


# What a file holds of ROWS: every type of a table, and a partition.
FILED = ("id", "key", "day", "at", "value", "whole", "flag", "part")


def arrows_filesystem(place: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    # Hadoop's scheme for S3 is s3a; Arrow's is s3.
    filesystem, folder = FileSystem.from_uri(place.replace("s3a://", "s3://", 1) if "://" in place else place)
    return filesystem, folder


def _files_written(given: Given) -> list[Any]:
    """What Arrow reads of a folder that the engine wrote by partitions."""
    import pyarrow.dataset as ds

    place = f"{given.folder}/written"
    exact = F.col("other").cast("decimal(20,12)").alias("exact")
    given.rows.select(*FILED, exact).write.option("compression", "zstd").partitionBy("part").parquet(place)
    filesystem, folder = arrows_filesystem(place)
    files = ds.dataset(folder, filesystem=filesystem, format="parquet", partitioning="hive")
    table = files.to_table().sort_by("id")
    kinds = [str(table.schema.field(name).type) for name in ("day", "at", "value", "exact", "part")]
    chunks = [
        fragment.metadata.row_group(group).column(0)
        for fragment in files.get_fragments()
        for group in range(fragment.metadata.num_row_groups)
    ]
    bounds = sorted((chunk.statistics.min, chunk.statistics.max, chunk.statistics.null_count) for chunk in chunks)
    span = [bounds[0][0], bounds[-1][1], sum(nulls for *_, nulls in bounds)]
    rows = [tuple(row[name] for name in (*FILED, "exact")) for row in table.to_pylist()]
    return [kinds, sorted({chunk.compression for chunk in chunks}), span, *rows]


def _files_by_a_copied_date(given: Given) -> list[Any]:
    """The folders that the engine writes by a copy of a date, one for none, and what it reads of their files."""
    import pyarrow.dataset as ds

    place = f"{given.folder}/dated"
    copied = F.coalesce("day", F.lit("0001-01-01").cast("date"))
    given.rows.select("id", "day").withColumn("of_day", copied).write.partitionBy("of_day").parquet(place)
    filesystem, folder = arrows_filesystem(place)
    files = [file.removeprefix(folder) for file in ds.dataset(folder, filesystem=filesystem).files]
    schema = given.rows.select("id", "day").schema
    frame = given.session.read.schema(schema).parquet(*[f"{place}{file}" for file in files])
    days = sorted({file.split("/")[1] for file in files})
    return [days, *[tuple(row.values()) for row in _values(frame, "id")]]


def _files_read(given: Given) -> list[Any]:
    """What the engine reads of a file that Arrow wrote, under a schema with a column more, and of times and NaN."""
    import pyarrow.parquet as pq

    filesystem, folder = arrows_filesystem(f"{given.folder}/read")
    filesystem.create_dir(folder, recursive=True)
    names = ["id", "key", "day", "at", "value"]
    pq.write_table(ROWS.select(names), f"{folder}/one.parquet", filesystem=filesystem, compression="zstd")
    schema = given.rows.select(*names, F.col("text").alias("new")).schema
    frame = given.session.read.schema(schema).parquet(f"{given.folder}/read/one.parquet")
    wanted = frame.where(
        (F.col("at") < F.lit(_utc("2025-01-01T00:00:00"))) | (F.col("value") > 1) | F.col("at").isNull()
    )
    return [tuple(row.values()) for row in _values(wanted, "id")]


_ROWS = {row["id"]: row for row in ROWS.to_pylist()}
_PRODUCTS = (0.7000000000000001, -1.4000000000000001, 0.0, None, 2.409425800643215e16, 12345678.9, None)
QUERIES = (
    OfQueries(
        name="batches through a Python function",
        found=_through_arrow,
        expected=(
            (1, 14, date(2025, 1, 6)),
            (2, -14, date(2025, 1, 12)),
            (3, 0, date(1969, 12, 31)),
            (4, None, None),
            (6, 200, date(2025, 3, 30)),
            (7, None, None),
        ),
        where="the simulator",
        remedy="none",
    ),
    OfQueries(
        name="pandas frames through a Python function",
        found=_through_pandas,
        expected=((1, 1.5, "date 2025-01-06"), (2, None, "date 2025-01-12"), (5, INF, "date 2024-02-29")),
        where="the reasons of a score",
        remedy="batches of Arrow",
    ),
    OfQueries(
        name="a Python function as a column, over null and before a filter",
        found=_as_a_column,
        expected=_PRODUCTS,
        where="the scores of a model",
        remedy="batches of Arrow",
    ),
    OfQueries(
        name="a frame that is asked twice",
        found=_same_again,
        expected=(7, [_ROWS[1]["at"], _ROWS[2]["at"], _ROWS[3]["at"]]),
        where="cleaning, training",
        remedy="ask once",
    ),
    OfQueries(
        name="whether there is a row",
        found=_empty,
        expected=(True, False),
        where="sources, eligible customers",
        remedy="a count",
    ),
    OfQueries(
        name="a row in Python's types",
        found=_collected,
        expected=((1, date(2025, 1, 6), 1.5, ["C0000001"], None), ["id", "day", "value", "keys", "no"]),
        where="everything that is collected",
        remedy="through Arrow",
    ),
    OfQueries(
        name="files by partitions, as Arrow reads them",
        found=_files_written,
        expected=(
            ["date32[day]", "timestamp[us, tz=UTC]", "double", "decimal128(20, 12)", "string"],
            ["ZSTD"],
            [1, 7, 0],
            *[
                (
                    *[row[name] for name in FILED],
                    None if row["other"] is None else Decimal(repr(row["other"])).quantize(Decimal("1e-12")),
                )
                for row in _ROWS.values()
            ],
        ),
        where="every table",
        remedy="write through Arrow",
    ),
    OfQueries(
        name="files by a copy of a date, which stays in them",
        found=_files_by_a_copied_date,
        expected=(
            [f"of_day={day}" for day in sorted({str(row["day"] or "0001-01-01") for row in _ROWS.values()})],
            *[(row["id"], row["day"]) for row in _ROWS.values()],
        ),
        where="what a refresh replaces by its dates",
        remedy="a write for each date",
    ),
    OfQueries(
        name="files of others, filtered as they are read",
        found=_files_read,
        expected=tuple(
            (*[_ROWS[number][name] for name in ("id", "key", "day", "at", "value")], None)
            for number in (1, 2, 3, 4, 5, 7)
        ),
        where="every table",
        remedy="read through Arrow",
    ),
)
RELIED_ON: tuple[Construct, ...] = (
    *HASHES,
    *TIMES,
    *NUMBERS,
    *TEXTS,
    *ARRAYS,
    *WINDOWS,
    *AGGREGATES,
    *FRAMES,
    *QUERIES,
)


# --- avoided ---


def _one(value: Callable[[], Column], kept: str = "id > 0") -> Callable[[Given], Any]:
    """The value of the expression for each row."""
    return lambda given: [row["v"] for row in _values(given.rows.where(kept).select("id", value().alias("v")), "id")]


def _of_parts(value: Callable[[], Column]) -> Callable[[Given], Any]:
    return lambda given: [row["v"] for row in _values(given.rows.groupBy("part").agg(value().alias("v")), "part")]


def _sorted_then_computed(given: Given) -> Any:
    numbers = given.session.range(100_000).select(F.pmod(F.col("id") * 7919, F.lit(100_003)).alias("n"))
    column = numbers.orderBy("n").select((F.col("n") + 1).alias("n")).toArrow().column("n").to_numpy()
    return bool((column[1:] > column[:-1]).all())


def _null_partition(given: Given) -> Any:
    import pyarrow.dataset as ds

    place = f"{given.folder}/null-partition"
    given.rows.where("id in (1, 4)").select("id", "day").write.partitionBy("day").parquet(place)
    filesystem, folder = arrows_filesystem(place)
    return sorted(file.rsplit("/", 2)[-2] for file in ds.dataset(folder, filesystem=filesystem).files)


def _empty_folder(given: Given) -> Any:
    from pyarrow.fs import FileType

    place = f"{given.folder}/empty"
    given.rows.where("id > 99").write.parquet(place)
    filesystem, folder = arrows_filesystem(place)
    return filesystem.get_file_info(folder).type == FileType.Directory


def _csv_options(given: Given) -> Any:
    place = f"{given.folder}/rows.csv"
    filesystem, file = arrows_filesystem(place)
    filesystem.create_dir(file.rpartition("/")[0], recursive=True)
    with filesystem.open_output_stream(file) as stream:
        stream.write(b"id,text\n1,NULL\n2, x \n")
    options: dict[str, Any] = {
        "header": True,
        "nullValue": "NULL",
        "ignoreLeadingWhiteSpace": True,
        "ignoreTrailingWhiteSpace": True,
    }
    return [row["text"] for row in _values(given.session.read.options(**options).csv(place), "id")]


def _nothing_matches(given: Given) -> Any:
    return given.session.read.schema("id bigint").parquet(f"{given.folder}/nothing-*.parquet").count()


def _in_another_zone(given: Given) -> Any:
    zone = given.session.conf.get("spark.sql.session.timeZone") or "UTC"
    given.session.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    try:
        shown = given.rows.where("id = 2").select(
            "id", F.hour("at").alias("hour"), F.col("at").cast("date").alias("day")
        )
        return [(row["hour"], row["day"]) for row in _values(shown, "id")]
    finally:
        given.session.conf.set("spark.sql.session.timeZone", zone)


def _kept(given: Given) -> Any:
    frame = given.rows.select("id", F.expr("uuid()").alias("v")).persist()
    try:
        return bool(_values(frame, "id") == _values(frame, "id"))
    finally:
        frame.unpersist()


def _greatest_in_either_order(*values: float | None) -> Callable[[Given], Any]:
    """The greatest of structs of one number and of the numbers, given in this order and in the other."""

    def found(given: Given) -> Any:
        answered = []
        for ordered in (values, values[::-1]):
            rows = given.session.createDataFrame(
                pa.table({"v": pa.array(ordered, pa.float64()), "g": [0] * len(values)})
            )
            row = _values(rows.groupBy("g").agg(F.max(F.struct("v")).alias("s"), F.max("v").alias("v")), "g")[0]
            answered.append((row["s"]["v"], row["v"]))
        return answered

    return found


AVOIDED = (
    Avoided(
        name="a sort, and then a computed column",
        found=_sorted_then_computed,
        answers={"local": "True", "sail": "False"},
        instead="sorts last, or in Arrow by key",
    ),
    Avoided(
        name="what is collected over a window has no nulls",
        found=_one(lambda: F.collect_list("whole").over(_by_part().orderBy("id")), "id in (4, 6)"),
        answers={"local": "((), (100))", "sail": "((None), (None, 100))"},
        instead="array_compact",
    ),
    Avoided(
        name="a double as a decimal",
        found=_one(lambda: F.lit(4.685).cast("decimal(20,2)"), "id = 1"),
        answers={"local": "(Decimal('4.69'))", "sail": "(Decimal('4.68'))"},
        instead="through its text",
    ),
    Avoided(
        name="a decimal as a double",
        found=_one(lambda: F.lit("178944120.4489037471").cast("decimal(38,10)").cast("double"), "id = 1"),
        answers={"local": "(178944120.44890374)", "sail": "(178944120.44890377)"},
        instead="through its text",
    ),
    Avoided(
        name="a double rounded",
        found=_one(lambda: F.round(F.lit(4.685), 2), "id = 1"),
        answers={"local": "(4.69)", "sail": "(4.68)"},
        instead="as a decimal through its text, or in Python",
    ),
    Avoided(
        name="the median of two",
        found=_one(
            lambda: F.percentile(F.when(F.col("id") == 1, 15.30414).otherwise(54.919883276109374), 0.5).over(
                Window.partitionBy(F.lit(1))
            ),
            "id < 3",
        ),
        answers={
            "local": "(35.11201163805469, 35.11201163805469)",
            "sail": "(35.11201163805468, 35.11201163805468)",
        },
        instead="median over a window, which is the middle two over two",
    ),
    Avoided(
        name="the mean of decimals",
        found=_of_parts(lambda: F.avg((F.col("id") * F.col("id")).cast("decimal(20,12)"))),
        answers={
            "local": "(Decimal('4.6666666666666667'), Decimal('25.6666666666666667'), Decimal('49.0000000000000000'))",
            "sail": "(Decimal('4.6666666666666666'), Decimal('25.6666666666666666'), Decimal('49.0000000000000000'))",
        },
        instead="sums over counts",
    ),
    Avoided(
        name="a quotient of decimals",
        found=_one(lambda: F.lit(2).cast("decimal(20,12)") / F.lit(7), "id = 1"),
        answers={"local": "(Decimal('0.28571428571429'))", "sail": "(Decimal('0.2857142857142857'))"},
        instead="doubles",
    ),
    Avoided(
        name="the first few values",
        found=_of_parts(lambda: F.min_by("id", "id", 2)),
        answers={"local": "((1, 2), (4, 5), (7))", "sail": "(1, 4, 7)"},
        instead="a row number, or the first only",
    ),
    Avoided(
        name="nulls in JSON",
        found=_one(lambda: F.to_json(F.struct("key", "value"), {"ignoreNullFields": "false"}), "id = 4"),
        answers={"local": """('{"key":null,"value":null}')""", "sail": "('{}')"},
        instead="a field at a time",
    ),
    Avoided(
        name="a null date of a partition",
        found=_null_partition,
        answers={
            "local": "('day=2025-01-06', 'day=__HIVE_DEFAULT_PARTITION__')",
            "sail": "('day=1970-01-01', 'day=2025-01-06')",
        },
        instead="no null date: refused before a write",
    ),
    Avoided(
        name="a product beyond a long",
        found=_one(lambda: F.col("whole") * F.lit(2**60), "id = 6"),
        answers={"local": "raises", "sail": "(4611686018427387904)"},
        instead="sums of decimals where they could grow so",
    ),
    Avoided(
        name="the greatest of structs that hold null",
        found=_greatest_in_either_order(1.5, None),
        answers={"local": "((1.5, 1.5), (1.5, 1.5))", "sail": "((1.5, 1.5), (None, 1.5))"},
        instead="structs of what is known",
    ),
    Avoided(
        name="a range of days",
        found=_one(
            lambda: F.expr("count(day) over (order by day range between interval 6 days preceding and current row)"),
            "id < 4",
        ),
        answers={"local": "(1, 2, 1)", "sail": "(2, 3, 1)"},
        instead="joins by as-of dates",
    ),
    Avoided(
        name="rows that both have, copies counted",
        found=lambda given: (
            given.others.select("key").intersectAll(given.rows.where("id in (1, 4)").select("key")).count()
        ),
        answers={"local": "2", "sail": "3"},
        instead="joins",
    ),
    Avoided(
        name="the weekday of a Sunday",
        found=_one(lambda: F.weekday("day"), "id = 2"),
        answers={"local": "(6)", "sail": "(-1)"},
        instead="the remainder of the day's number",
    ),
    Avoided(
        name="hour and date in a session that is not UTC",
        found=_in_another_zone,
        answers={"local": "((8, 2025-01-07))", "sail": "((23, 2025-01-06))"},
        instead="sessions in UTC",
    ),
    Avoided(
        name="options of a CSV file",
        found=_csv_options,
        answers={"local": "(None, 'x')", "sail": "('NULL', ' x ')"},
        instead="Arrow, where a source has such options",
    ),
    Avoided(
        name="a pattern of paths that matches nothing",
        found=_nothing_matches,
        answers={"local": "raises", "sail": "0"},
        instead="paths that are looked for first",
    ),
    Avoided(
        name="the same numbers at random, persisted",
        found=_kept,
        answers={"local": "True", "sail": "False"},
        instead="nothing at random; what is asked twice is computed twice",
    ),
    Avoided(
        name="approximate quantiles",
        found=lambda given: given.rows.approxQuantile("other", [0.5], 0.0),
        answers={"local": "(0.3)", "sail": "raises"},
        instead="exact ones, in numpy",
    ),
    Avoided(
        name="an element by a column in brackets",
        found=_one(lambda: F.array("key", "part")[(F.col("id") % 2).cast("int")], "id = 1"),
        answers={"local": "('a')", "sail": "raises"},
        instead="get",
    ),
    Avoided(
        name="a folder for no rows",
        found=_empty_folder,
        answers={"local": "True", "sail": "False"},
        instead="empty tables are committed without a file",
    ),
    Avoided(
        name="whether null is NaN",
        found=_one(lambda: F.isnan("value"), "id = 4"),
        answers={"local": "(False)", "sail": "(None)"},
        instead="isNull first",
    ),
    Avoided(
        name="text of infinite, small and large doubles",
        found=_one(
            lambda: F.concat_ws("|", F.col("value").cast("string"), (F.col("id") * 1e7).cast("string")), "id > 4"
        ),
        answers={
            "local": "('Infinity|5.0E7', '1.0E-5|6.0E7', '7.0E7')",
            "sail": "('inf|50000000.0', '0.00001|60000000.0', '70000000.0')",
        },
        instead="text of usual numbers; others are written by hand",
    ),
    Avoided(
        name="the greatest of doubles with NaN among them",
        found=_greatest_in_either_order(1.5, NAN),
        answers={"local": "((nan, nan), (nan, nan))", "sail": "((nan, nan), (nan, 1.5))"},
        instead="NaN counted for itself",
    ),
    Avoided(
        name="whether an array with a null holds a value",
        found=_one(lambda: F.array_contains(F.array(F.lit(None).cast("string"), F.lit("x")), "y"), "id = 1"),
        answers={"local": "(None)", "sail": "(False)"},
        instead="arrays without nulls",
    ),
    Avoided(
        name="the date of a time with a zone, as text",
        found=_one(lambda: F.col("moment").try_cast("date"), "id = 2"),
        answers={"local": "(2025-01-06)", "sail": "(None)"},
        instead="dates of ten characters, or times",
    ),
)
