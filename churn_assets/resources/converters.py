"""How text and numbers of a raw column become what they stand for: the converters of sources.toml. No casts by hand.

Text is taken apart by regular expressions and put together as every engine reads it: engines do not agree on the
formats of `to_timestamp` (pysail 0.7.2, Spark 4.2.0). What cannot be read is null, and counted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.churn.tables import SourceTable, as_canonical

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NumberStyle = Literal["1.234,56", "1234,56", "1,234.56", "1 234,56", "1'234.56"]
# What groups thousands, and what stands before the fraction.
SIGNS: Mapping[str, tuple[str, str]] = {
    "1.234,56": (r"\.", ","),
    "1234,56": ("", ","),
    "1,234.56": (",", r"\."),
    "1 234,56": ("[ \u00a0\u202f]", ","),
    "1'234.56": ("['\u2019]", r"\."),
}
ISO = "iso"
# A part of a format -> its expression. Each but `a` is one group of digits.
LETTERS = {
    "yyyy": r"(\d{4})",
    "yy": r"(\d{2})",
    "MM": r"(\d{2})",
    "M": r"(\d{1,2})",
    "dd": r"(\d{2})",
    "d": r"(\d{1,2})",
    "HH": r"(\d{2})",
    "H": r"(\d{1,2})",
    "hh": r"(\d{2})",
    "h": r"(\d{1,2})",
    "mm": r"(\d{2})",
    "m": r"(\d{1,2})",
    "ss": r"(\d{2})",
    "s": r"(\d{1,2})",
    "S": r"(\d{1,9})",
    "a": r"([AaPp]\.?[Mm]\.?)",
}
PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
# 0001-01-01 and 9999-12-31 in microseconds: beyond them is a number that counts something else.
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999
# A column of which more texts than that are unreadable is read in another way than it was written.
MAX_UNREADABLE_SHARE = 0.5


class Converter(BaseModel):
    """How the values of one raw column are written; one of `number`, `time` (perhaps with `zone`) and `epoch`.

    number: an example of how numbers look; they become doubles. A currency sign or code beside them is no matter.
    time: the format, as "dd.MM.yyyy HH:mm", or "iso"; `[…]` may be absent. zone: where a clock showed these times, such
    as Europe/Berlin; without it UTC. epoch: the unit that is counted since 1970, UTC. The last three become timestamps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    number: NumberStyle | None = None
    time: str | None = None
    zone: str | None = None
    epoch: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] | None = None

    @field_validator("time")
    @classmethod
    def format_is_known(cls, text: str | None) -> str | None:
        if text is not None:
            _expression(text)
        return text

    @field_validator("zone")
    @classmethod
    def zone_is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (KeyError, ValueError, OSError) as unknown:
                raise ValueError("should be a time zone by its region, such as Europe/Berlin") from unknown
        return name

    @model_validator(mode="after")
    def one_of_them(self) -> "Converter":
        given = [self.number, self.time or self.zone, self.epoch]
        if sum(each is not None for each in given) != 1:
            raise ValueError("needs one of number, time (perhaps with zone), and epoch")
        return self

    def __str__(self) -> str:
        told = {"number": self.number, "time": self.time, "zone": self.zone, "epoch": self.epoch}
        return "{ " + ", ".join(f'{name} = "{value}"' for name, value in told.items() if value) + " }"


@dataclass(frozen=True)
class Unreadable:
    """Values of a column that became null: how many rows of how many that have one, and the least of them."""

    column: str
    meant: str
    rows: int
    rows_with_value: int
    example: str

    @property
    def is_most(self) -> bool:
        return self.rows > MAX_UNREADABLE_SHARE * self.rows_with_value

    def __str__(self) -> str:
        share = f"{self.rows:,} of {self.rows_with_value:,} values"
        return f"{self.column}: {share} cannot be read as {self.meant}, such as {self.example!r}"


def converted(raw: "DataFrame", converters: Mapping[str, Converter]) -> "DataFrame":
    """`raw` with the columns that have a converter as it gives them. Raises UnreadableSourceError for unfit types."""
    kinds = {name.lower(): (name, kind) for name, kind in raw.dtypes}
    problems = []
    values: dict[str, Column] = {}
    for column, converter in converters.items():
        name, kind = kinds.get(column.lower(), (column, ""))
        value = _converted(_named(name), kind, converter) if kind else None
        if value is not None:
            values[name] = value.alias(name)
        elif kind:
            problems.append(f"{column} is {kind}, which {converter} does not read")
        else:
            problems.append(f"{column} is no column; there are {', '.join(raw.columns)}")
    if problems:
        raise UnreadableSourceError(
            "Converters do not fit their columns.", problems, next_step="correct `convert`, which goes by raw columns"
        )
    return raw.select(*[values.get(name, _named(name)) for name in raw.columns])


def unreadable_by_converters(raw: "DataFrame", converters: Mapping[str, Converter]) -> list[Unreadable]:
    """The text of `raw` that its converters make null. One query; none without a converter."""
    if not converters:
        return []
    after = converted(raw, converters)
    names = {name.lower(): name for name in raw.columns}
    columns = [(names[column.lower()], str(converter)) for column, converter in converters.items()]
    values = dict(zip(after.columns, _values_of(raw, converters), strict=True))
    return _counted(raw, [(name, meant, _named(name).cast("string"), values[name]) for name, meant in columns])


def unreadable_as_canonical(rows: "DataFrame", table: SourceTable) -> list[Unreadable]:
    """The text of `rows` that becomes null where `table` wants a number, a time or a boolean. One query at most."""
    kinds = dict(rows.dtypes)
    texts = [each for each in table.columns if kinds.get(each.name) == "string" and each.kind != "string"]
    if not texts:
        return []
    both = as_canonical(rows, table, *[_named(each.name).alias(f"text of {each.name}") for each in texts])
    told = [(each.name, f"a {each.kind}", _named(f"text of {each.name}"), _named(each.name)) for each in texts]
    return _counted(both, told)


def _values_of(raw: "DataFrame", converters: Mapping[str, Converter]) -> list["Column"]:
    by_name = {column.lower(): converter for column, converter in converters.items()}
    values = []
    for name, kind in raw.dtypes:
        converter = by_name.get(name.lower())
        value = None if converter is None else _converted(_named(name), kind, converter)
        values.append(_named(name) if value is None else value)
    return values


def _counted(rows: "DataFrame", columns: Sequence[tuple[str, str, "Column", "Column"]]) -> list[Unreadable]:
    from pyspark.sql import functions as F

    aggregates = []
    for place, (_, _, text, value) in enumerate(columns):
        has_value = text.rlike(r"(?U)\S")
        aggregates += [
            F.count_if(has_value).alias(f"with_{place}"),
            F.count_if(has_value & value.isNull()).alias(f"bad_{place}"),
            F.min(F.when(has_value & value.isNull(), text)).alias(f"example_{place}"),
        ]
    (found,) = rows.agg(*aggregates).collect()
    return [
        Unreadable(name, meant, found[f"bad_{place}"], found[f"with_{place}"], found[f"example_{place}"][:60])
        for place, (name, meant, _, _) in enumerate(columns)
        if found[f"bad_{place}"]
    ]


def _named(name: str) -> "Column":
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def _converted(value: "Column", kind: str, converter: Converter) -> "Column | None":
    """None for a type that the converter does not read."""
    is_number = kind in ("tinyint", "smallint", "int", "bigint", "float", "double") or kind.startswith("decimal")
    if converter.number is not None:
        return _number(value, converter.number) if kind == "string" else value if is_number else None
    if converter.epoch is not None:
        return _epoch(value, kind, PER_SECOND[converter.epoch]) if kind == "string" or is_number else None
    zone = converter.zone or "UTC"
    if kind == "string":
        is_iso = converter.time in (None, ISO)
        return _iso(value, zone) if is_iso else _in_utc(_time(value, str(converter.time)), zone)
    is_clock = kind in ("timestamp_ntz", "date") and converter.time in (None, ISO)
    return _in_utc(value.cast("timestamp"), zone) if is_clock else None


def _number(text: "Column", style: str) -> "Column":
    from pyspark.sql import functions as F

    group, point = SIGNS[style]
    whole = rf"\d{{1,3}}(?:{group}\d{{3}})+|\d+" if group else r"\d+"
    unit = r"(?:\p{Sc}|[A-Za-z]{3})?"
    # With the group in front of the longer choice: else `\d+` would be satisfied by the first three digits.
    pattern = rf"^\s*{unit}\s*([+-]?)\s*{unit}\s*({whole})?(?:{point}(\d+))?(-?)\s*{unit}\s*$"
    sign, digits, fraction, behind = (F.regexp_extract(text, pattern, place) for place in (1, 2, 3, 4))
    if group:
        digits = F.regexp_replace(digits, group, "")
    minus = F.when((sign == "-") | (behind == "-"), F.lit("-")).otherwise(F.lit(""))
    written = F.concat(minus, digits, F.lit("."), fraction)
    return F.when((digits != "") | (fraction != ""), written.try_cast("double"))


def _epoch(value: "Column", kind: str, per_second: int) -> "Column":
    from pyspark.sql import functions as F

    if kind in ("float", "double"):
        micros = F.floor(value.cast("double") * F.lit(1_000_000 / per_second))
        micros = F.when(F.abs(value) < F.lit(1e18), micros)
    else:
        text = value.cast("string")
        exact = F.when(text.rlike(r"^\s*[+-]?\d{1,19}(\.\d+)?\s*$"), text.try_cast("decimal(28,9)"))
        factor = "0.001" if per_second > 1_000_000 else str(1_000_000 // per_second)
        micros = F.floor(exact * F.lit(factor).cast("decimal(10,3)"))
    micros = micros.try_cast("bigint")
    return F.timestamp_micros(F.when(micros.between(F.lit(EARLIEST), F.lit(LATEST)), micros))


def _iso(text: "Column", zone: str) -> "Column":
    from pyspark.sql import functions as F

    moment = text.try_cast("timestamp")
    has_offset = text.rlike(r"[0-9]\s*(Z|z|[+-]\d{2}:?\d{2})\s*$")
    return F.when(has_offset, moment).otherwise(_in_utc(moment, zone))


def _in_utc(clock: "Column", zone: str) -> "Column":
    from pyspark.sql import functions as F

    return clock if zone == "UTC" else F.to_utc_timestamp(clock, F.lit(zone))


def _time(text: "Column", layout: str) -> "Column":
    """The time by a clock that stands in the text, as a timestamp."""
    from pyspark.sql import functions as F

    pattern, letters = _expression(layout)

    def part(*names: str, width: int = 2, absent: str = "00") -> "Column":
        place = next((letters.index(name) + 1 for name in names if name in letters), None)
        if place is None:
            return F.lit(absent)
        found = F.regexp_extract(text, pattern, place)
        return F.when(found == "", F.lit(absent)).otherwise(F.lpad(found, width, "0"))

    year = F.concat(F.lit("20"), part("yy")) if "yy" in letters else part("yyyy", width=4)
    hour = part("HH", "H", "hh", "h")
    if "a" in letters:
        is_afternoon = F.lower(F.substring(part("a"), 1, 1)) == "p"
        noon = hour == "12"
        late = F.when(noon, hour).otherwise(F.lpad((hour.try_cast("int") + F.lit(12)).cast("string"), 2, "0"))
        hour = F.when(is_afternoon, late).when(noon, F.lit("00")).otherwise(hour)
    date = F.concat_ws("-", year, part("MM", "M"), part("dd", "d"))
    time = F.concat_ws(":", hour, part("mm", "m"), part("ss", "s"))
    fraction = F.substring(F.rpad(_fraction(text, pattern, letters), 6, "0"), 1, 6)
    written = F.concat(date, F.lit("T"), time, F.lit("."), fraction)
    return F.when(text.rlike(pattern), written.try_cast("timestamp"))


def _fraction(text: "Column", pattern: str, letters: Sequence[str]) -> "Column":
    from pyspark.sql import functions as F

    return F.regexp_extract(text, pattern, letters.index("S") + 1) if "S" in letters else F.lit("0")


def _expression(layout: str) -> tuple[str, list[str]]:
    """The regular expression of a format, and the letters that its groups stand for, in order. Raises ValueError."""
    if layout == ISO:
        return "", []
    parts = [match[0] for match in re.finditer(r"'[^']*'|([A-Za-z])\1*|.", layout, flags=re.DOTALL)]
    pattern, letters = "", []
    for part in parts:
        letter = "S" if set(part) == {"S"} else part
        if letter in LETTERS:
            letters.append(letter)
            pattern += LETTERS[letter]
        elif part in "[]":
            pattern += "(?:" if part == "[" else ")?"
        elif part[0].isalpha():
            raise ValueError(f"{part} is not known; known are {', '.join(LETTERS)}, and text within '…'")
        else:
            pattern += r"\s+" if part.isspace() else re.escape(part.strip("'") if len(part) > 1 else part)
    absent = [name for name, kinds in NEEDED.items() if not any(kind in letters for kind in kinds)]
    if absent or len(set(letters)) < len(letters) or layout.count("[") != layout.count("]"):
        raise ValueError('should be a format with year, month and day once each, such as "dd.MM.yyyy HH:mm", or "iso"')
    return rf"^\s*{pattern}\s*$", letters


NEEDED = {"year": ("yyyy", "yy"), "month": ("MM", "M"), "day": ("dd", "d")}
