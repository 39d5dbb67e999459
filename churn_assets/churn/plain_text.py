"""Text from data and from people where it is shown as plain text: terminal, notices, spreadsheets. No markup here."""

import csv
import unicodedata
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

if TYPE_CHECKING:
    import pandas as pd

# A spreadsheet takes a cell that begins so for a formula; the apostrophe is of them, or a cell that begins with one of
# the others behind an apostrophe of its own could not be told from a protected one.
COMPUTED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
PROTECTION = "'"
# Of lines of JSON in a page, each with its customer_id: by this the page's lines are found again to be erased.
JSON_LINES = "application/jsonl"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# They change the order in which the characters around them are shown.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_control(character: str) -> bool:
    """Whether it does something where text is shown: ends a line, moves the cursor, turns the direction, rings."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _DIRECTIONS


def controls(text: str) -> list[str]:
    """What is in `text` that no person can have meant to write in one line, each with its place, from 1."""
    return [f"U+{ord(each):04X} at character {place}" for place, each in enumerate(text, start=1) if is_control(each)]


def without_controls(text: str, *, but: str = "") -> str:
    """`text` with the replacement character for whatever controls a terminal; `but` are kept."""
    if text.isprintable():
        return text
    return "".join(REPLACEMENT if is_control(each) and each not in but else each for each in text)


def in_one_line(text: str) -> str:
    """`text` as one line that only shows characters."""
    return without_controls(" ".join(text.split()))


def protected(text: str) -> str:
    """`text` as a cell that a spreadsheet does not compute: behind an apostrophe if it begins like a formula."""
    return f"{PROTECTION}{text}" if text.startswith(COMPUTED) else text


def unprotected(text: Column) -> Column:
    """What `protected` was given, from a column of what it gave; other text as it is."""
    is_protected = (F.substring(text, 1, 1) == PROTECTION) & F.substring(text, 2, 1).isin(*COMPUTED)
    return F.when(is_protected, F.substring(text, 2, 1_000_000)).otherwise(text)


def as_csv(rows: "pd.DataFrame") -> bytes:
    """`rows` as a CSV file for people's spreadsheets: every cell of text `protected`."""
    shown = rows.map(lambda cell: protected(cell) if isinstance(cell, str) else cell)
    # Every text in quotes: of itself pandas leaves a lone carriage return without, which ends the row where it is read.
    return shown.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode()
