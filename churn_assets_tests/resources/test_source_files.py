"""A path names a file, all files below a folder, or those that a pattern fits; hidden ones are never meant."""

from pathlib import Path

import pytest

from churn_assets.resources.source_files import base_folder, data_files, files_state, partition_values

FILES = ("2024/a.csv", "2024/b.txt", "2025/09/c.csv", "d.csv", "_SUCCESS", ".e.csv", "_tmp/f.csv", "g [1].csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "lake" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lake" / name).touch()
    return tmp_path / "lake"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["2024/a.csv", "2024/b.txt", "2025/09/c.csv", "d.csv", "g [1].csv"]),
        ("/d.csv", ["d.csv"]),
        ("/*.csv", ["d.csv", "g [1].csv"]),
        ("/*/*.csv", ["2024/a.csv"]),
        ("/**/*.csv", ["2024/a.csv", "2025/09/c.csv", "d.csv", "g [1].csv"]),
        ("/202?", ["2024/a.csv", "2024/b.txt", "2025/09/c.csv"]),
        ("/2024/[a-c].{csv,txt}", ["2024/a.csv", "2024/b.txt"]),
        ("/2024/[!a].*", ["2024/b.txt"]),
        ("/g [1].csv", ["g [1].csv"]),
        ("/nothing*", []),
        ("/nothing", []),
        ("/_tmp/*", ["_tmp/f.csv"]),
    ],
)
def test_the_files_of_a_path(folder: Path, pattern: str, names: list[str]) -> None:
    assert data_files(f"{folder}{pattern}") == [f"{folder}/{name}" for name in names]


def test_the_state_of_a_pattern_moves_with_its_files(folder: Path) -> None:
    before = files_state(f"{folder}/*/*.csv")
    (folder / "2024" / "b.txt").write_text("other")
    assert files_state(f"{folder}/*/*.csv") == before
    (folder / "2024" / "a.csv").write_text("more")
    assert files_state(f"{folder}/*/*.csv") != before


def test_folders_give_values_below_the_base_alone() -> None:
    assert base_folder("/lake/day=1/*/x.csv") == "/lake/day=1"
    assert partition_values("/lake/day=1", "/lake/day=1/shop=a%20b/n=2/x=y.csv") == {"shop": "a b", "n": "2"}
