"""The list of mutations fits the code as it is; the script that applies them knows a test that notices from another."""

import ast
import json
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from churn_assets.resources.settings import CHECKOUT
from churn_assets_tests.processes import PATIENCE_SECONDS

SCRIPT = runpy.run_path(str(CHECKOUT / "scripts" / "mutations"))
MUTATIONS = SCRIPT["listed"]()
Mutation = SCRIPT["Mutation"]
SYSTEM = "pytest.mark.system"


@cache
def unit_and_flow_tests(file: Path) -> set[str]:
    module = ast.parse(file.read_text(encoding="utf-8"))
    if any(ast.unparse(node) == f"pytestmark = {SYSTEM}" for node in module.body):
        return set()
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    return {each.name for each in functions if SYSTEM not in map(ast.unparse, each.decorator_list)}


def test_no_two_mutations_are_the_same() -> None:
    assert len({(each.group, each.name) for each in MUTATIONS}) == len(MUTATIONS)
    assert len({(each.file, each.before, each.after) for each in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.group}: {each.name}")
def test_a_mutation_is_one_change_that_compiles_and_names_a_unit_or_flow_test(mutation: Any) -> None:
    original = (CHECKOUT / mutation.path).read_text(encoding="utf-8")
    mutated = mutation.applied(original)
    assert mutated != original
    compile(mutated, mutation.path, "exec")
    file, _, test = mutation.node.partition("::")
    assert test.partition("[")[0] in unit_and_flow_tests(CHECKOUT / file), mutation.node


def test_what_is_replaced_has_to_be_one_place() -> None:
    mutation = Mutation("group", "one is two", "code.py", "1", "2", "test.py::test")
    assert mutation.applied("x = 1") == "x = 2"
    for text in ("x = 3", "x = 1 + 1"):
        with pytest.raises(ValueError, match=r"one is two: .* times in churn_assets/code\.py, not once"):
            mutation.applied(text)


CODE = "def double(value):\n    return value * 2\n"
TESTS = """\
import churn_assets.code as code
import pytest

def test_that_looks():
    assert code.double(3) == 6

def test_that_does_not():
    assert code.double(2) == 4
"""


def test_only_a_test_that_fails_itself_has_noticed(tmp_path: Path) -> None:
    def entry(name: str, test: str, before: str = "value * 2", after: str = "value ** 2") -> str:
        values = {"name": name, "file": "code.py", "before": before, "after": after, "test": f"test_code.py::{test}"}
        return "[[sums]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())

    files = {
        "scripts/mutations": (CHECKOUT / "scripts" / "mutations").read_text(encoding="utf-8"),
        "scripts/mutations.toml": "".join(
            [
                entry("noticed", "test_that_looks"),
                entry("not noticed", "test_that_does_not"),
                entry("not compiled", "test_that_looks", after="value *"),
                entry("in two places", "test_that_looks", before="value"),
            ]
        ),
        "churn_assets/__init__.py": "",
        "churn_assets/code.py": CODE,
        "churn_assets_tests/__init__.py": "",
        "churn_assets_tests/test_code.py": TESTS,
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    tried = [sys.executable, "scripts/mutations", "--run"]
    result = subprocess.run(tried, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    ends = re.findall(r"^ +\d/4  (killed|SURVIVED|COULD NOT RUN) .*: (.*)$", result.stdout, re.MULTILINE)
    assert ends == [
        ("killed", "noticed"),
        ("SURVIVED", "not noticed"),
        ("COULD NOT RUN", "not compiled"),
        ("COULD NOT RUN", "in two places"),
    ], result
    assert "1 killed, 1 SURVIVED, 2 COULD NOT RUN" in result.stdout
    assert result.returncode == 1
    assert (tmp_path / "churn_assets" / "code.py").read_text(encoding="utf-8") == CODE
