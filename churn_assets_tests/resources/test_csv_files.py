"""CSV files of any tool come out by the names of their headers; what cannot is told by file, column and line."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.resources.csv_files import dialect_of, write_parquet_of_csv
from churn_assets.resources.used_columns import ALL_COLUMNS, UsedColumns

Options = Mapping[str, str | int | float | bool]


def read(
    folder: Path, texts: Mapping[str, bytes | str], options: Options | None = None, used: UsedColumns = ALL_COLUMNS
) -> list[dict[str, Any]]:
    for name, text in texts.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    files = [str(folder / name) for name in texts]
    write_parquet_of_csv(files, dialect_of(options or {}), used, str(folder / "rows.parquet"))
    rows: list[dict[str, Any]] = pq.read_table(folder / "rows.parquet").to_pylist()
    return rows


def values(folder: Path, text: bytes | str, options: Options | None = None) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in read(folder, {"a.csv": text}, options)]


def refused(folder: Path, text: bytes | str, options: Options | None = None) -> str:
    with pytest.raises(UnreadableSourceError) as error:
        read(folder, {"a.csv": text}, options)
    assert error.value.next_step
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        ('a,b\n1,\n,2\n"",x\n" q ", y \n', {}, [("1", None), (None, "2"), (None, "x"), (" q ", " y ")]),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4", {}, [("1", "2"), ("3", "4")]),
        ("a,b\rone,2\r3,4\r", {}, [("one", "2"), ("3", "4")]),
        ("a,b\n   \n1,2\n\n", {}, [("1", "2")]),
        ("a,b\nNA,z\n,NA\n", {"nullValue": "NA"}, [(None, "z"), (None, None)]),
        ("a,b\nNaN,null\nnull,N/A\n", {}, [("NaN", "null"), ("null", "N/A")]),
        ("a\tb\n1\t2,3\n", {"sep": "\\t"}, [("1", "2,3")]),
        ("a;b\n1;2\n", {"DELIMITER": ";"}, [("1", "2")]),
        ("1,2\n3,\n", {"header": False}, [("1", "2"), ("3", None)]),
        ("a,b\n#no,row\n1,2\n", {"comment": "#"}, [("1", "2")]),
        (" a , b\n1,2\n", {}, [("1", "2")]),
        ('a,b\n1, "x, y"\n', {"ignoreLeadingWhiteSpace": True}, [("1", "x, y")]),
        ('a,b\n5" pipe,2\n', {}, [('5" pipe', "2")]),
        ("a,b\nC:\\x,y\n", {}, [("C:\\x", "y")]),
        ('a,b\n"q\\"r",s\n', {"escape": "\\"}, [('q"r', "s")]),
        ("a,b\n'x,y',2\n", {"quote": "'"}, [("x,y", "2")]),
        ("a,b\nfür,ß\n".encode("cp1252"), {"encoding": "cp1252"}, [("für", "ß")]),
        ("a\tb\n1\tü\n".encode("utf-16"), {"sep": "\t", "charset": "utf-16"}, [("1", "ü")]),
        ("  a   b  \n 0001\t 19970101  \n\n x  'y' \n", {"sep": r"\s+"}, [("0001", "19970101"), ("x", "'y'")]),
        ('a b\n"New York" "say ""hi"""\n', {"sep": r"\s+"}, [("New York", 'say "hi"')]),
    ],
)
def test_what_tools_write_is_read(
    tmp_path: Path, text: bytes | str, options: Options, rows: list[tuple[Any, ...]]
) -> None:
    assert values(tmp_path, text, options) == rows


def test_a_quote_written_twice_and_a_line_within_quotes_are_parts_of_one_field(tmp_path: Path) -> None:
    text = 'id,comment,score\n1,"said ""cold, late"" to me",5\n2,"two\nlines, ""x""",1\n3,"""",2\n'
    assert values(tmp_path, text) == [
        ("1", 'said "cold, late" to me', "5"),
        ("2", 'two\nlines, "x"', "1"),
        ("3", '"', "2"),
    ]


def test_columns_go_by_the_header_of_each_file(tmp_path: Path) -> None:
    rows = read(tmp_path, {"a.csv": "x,y\n1,2\n", "b.csv": "y,x\n4,3\n", "empty.csv": "", "header.csv": "x,y\n"})
    assert rows == [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}]


def test_a_column_that_a_file_lacks_is_left_out_or_told_if_it_is_used(tmp_path: Path) -> None:
    texts = {"a.csv": "x,y\n1,2\n", "b.csv": "x,z\n3,4\n", "c.csv": "x,z\n5,6\n"}
    assert read(tmp_path, texts, used=UsedColumns(frozenset({"x"}))) == [{"x": "1"}, {"x": "3"}, {"x": "5"}]
    with pytest.raises(UnreadableSourceError) as error:
        read(tmp_path, texts, used=UsedColumns(frozenset({"x", "y"})))
    (problem,) = error.value.problems
    assert problem == f"{tmp_path}/b.csv lacks y, as 1 more files; it has x, z"


def test_columns_without_a_name_and_names_that_are_there_twice_are_left_out_unless_used(tmp_path: Path) -> None:
    # pandas writes its index so.
    assert read(tmp_path, {"a.csv": ",x\n0,1\n"}) == [{"x": "1"}]
    twice = {"a.csv": "x,y,Y\n1,2,3\n"}
    assert read(tmp_path, twice, used=UsedColumns(frozenset({"x"}))) == [{"x": "1"}]
    with pytest.raises(UnreadableSourceError, match="has y twice"):
        read(tmp_path, twice)


def test_files_are_decompressed_by_their_names(tmp_path: Path) -> None:
    assert read(tmp_path, {"a.csv.gz": gzip.compress(b"x,y\n1,2\n")}) == [{"x": "1", "y": "2"}]


def test_many_rows_are_written_a_part_at_a_time(tmp_path: Path) -> None:
    rows = read(tmp_path, {"a.csv": "n\n" + "".join(f"{number}\n" for number in range(120_001))})
    assert [row["n"] for row in rows[::40_000]] == ["0", "40000", "80000", "120000"]


def test_rows_with_more_or_fewer_fields_than_the_header_are_told_with_file_line_and_count(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError) as error:
        read(tmp_path, {"a.csv": "a,b\n1,2\nx,y,z\n1\n", "b.csv": "a,b\n1,2,3\n"})
    assert error.value.summary.startswith("3 rows")
    assert error.value.problems == (
        f"{tmp_path}/a.csv: 2 rows, such as line 3 has 3 fields, not 2: x,y,z",
        f"{tmp_path}/b.csv: 1 rows, such as line 2 has 3 fields, not 2: 1,2,3",
    )


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ('a,b\n"q\\"r",s\n', {}, 'escape = "\\\\"'),
        ('a,b\n1,2\n"x,5\n', {}, "line 3: unexpected end of data"),
        (b"a,b\n\xff,2\n", {}, 'encoding = "cp1252"'),
        ("", {}, "they have no header"),
        ("a,b\n1,2\n", {"inferSchema": True, "mode": "PERMISSIVE"}, "inferSchema: not known\n  - mode: not known"),
        ("a,b\n1,2\n", {"sep": "||"}, r"one character, or \s+"),
        ("a,b\n1,2\n", {"quote": "''"}, "one character at most"),
        ("a,b\n1,2\n", {"encoding": "klingon"}, "no encoding"),
        ("a,b\n1,2\n", {"header": "perhaps"}, "only true or false"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused_with_what_to_do(
    tmp_path: Path, text: bytes | str, options: Options, why: str
) -> None:
    assert why in refused(tmp_path, text, options)
