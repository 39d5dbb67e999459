"""A digest of code is of the modules named and of all they import, wherever these lie, and of nothing else."""

from pathlib import Path

import pytest

from churn_assets.resources.running_code import code_digest

FILES = {
    "house/__init__.py": "",
    "house/rules/__init__.py": "",
    "house/rules/contract.py": "import math\nfrom house.rules.parts.ranges import LOW\nfrom house import words\n",
    "house/rules/parts/__init__.py": "",
    "house/rules/parts/ranges.py": "LOW = 1\n\ndef high():\n    import house.outside.bounds\n",
    "house/outside/__init__.py": "",
    "house/outside/bounds.py": "HIGH = 2\n",
    "house/words.py": "TEXT = 'a'\n",
    "house/rules/unrelated.py": "X = 1\n",
    "math.py": "PI = 3\n",
}
RULES = ["house.rules.contract"]


def digest_of(root: Path, **changed: str) -> str:
    """The digest of RULES where the files of the given names have another text; dots stand for folders."""
    root.mkdir()
    for name, text in (FILES | {name.replace(".", "/") + ".py": text for name, text in changed.items()}).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return code_digest(RULES, root)


@pytest.mark.parametrize(
    "module",
    [
        "house.rules.contract",
        "house.rules.parts.ranges",
        "house.outside.bounds",
        "house.words",
        "house.rules.parts.__init__",
        "house.outside.__init__",
        "house.__init__",
    ],
)
def test_a_change_of_anything_the_rules_import_is_another_digest(tmp_path: Path, module: str) -> None:
    text = FILES[module.replace(".", "/") + ".py"]
    before = digest_of(tmp_path / "before")
    assert digest_of(tmp_path / "after", **{module: text + "NEW = 1\n"}) != before
    assert digest_of(tmp_path / "again") == before


@pytest.mark.parametrize("module", ["house.rules.unrelated", "math"])
def test_what_the_rules_do_not_import_and_other_packages_change_no_digest(tmp_path: Path, module: str) -> None:
    assert digest_of(tmp_path / "after", **{module: "OTHER = 1\n"}) == digest_of(tmp_path / "before")


def test_a_new_subpackage_is_followed_as_soon_as_it_is_imported(tmp_path: Path) -> None:
    importing = {"house.words": "from house.rules.new.deep import thing\n"}
    found = {
        digest_of(tmp_path / number, **importing, **{"house.rules.new.deep.thing": f"VALUE = {number}\n"})
        for number in ("1", "2")
    }
    assert len(found) == 2


def test_a_file_moved_with_its_text_is_another_digest(tmp_path: Path) -> None:
    before = digest_of(tmp_path / "before")
    moved = FILES["house/rules/contract.py"].replace("from house import words", "from house.rules import words")
    after = digest_of(
        tmp_path / "after", **{"house.rules.contract": moved, "house.rules.words": FILES["house/words.py"]}
    )
    assert after != before


def test_a_module_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"house\.gone"):
        code_digest(["house.gone"], tmp_path)
