"""What docs/add_a_feature.md shows is all it takes: applied to a copy of the package, everything knows the feature."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from churn_assets.churn.catalogue import FEATURE_SETS, FEATURES
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.panel_code import panel_code
from churn_assets_tests.processes import CHECKOUT
from churn_assets_tests.with_weekend_orders import BEGIN, NAME, orders

# Where each block of the page goes: its file, and the line before which the list it joins ends.
PLACES = {"churn/observed.py": "}\n_SILENCE = ", "churn/catalogue.py": ")\nFEATURE_OF"}


def blocks() -> list[tuple[str, str]]:
    """The entries that the page's blocks of code add, each with the file that the line before the block names."""
    page = (CHECKOUT / "docs" / "add_a_feature.md").read_text(encoding="utf-8")
    pattern = r"in `churn_assets/([\w/.]+)`:\n\n```python\n[^\n]*\n    # … [^\n]*\n(.*?\n)[)}]\n```"
    return re.findall(pattern, page, flags=re.DOTALL)


def copy_with_the_feature(folder: Path) -> None:
    shutil.copytree(CHECKOUT / "churn_assets", folder / "churn_assets", ignore=shutil.ignore_patterns("__pycache__"))
    for name, block in blocks():
        file = folder / "churn_assets" / name
        source = file.read_text(encoding="utf-8")
        assert source.count(PLACES[name]) == 1
        file.write_text(source.replace(PLACES[name], block + PLACES[name]), encoding="utf-8")


def weekend_shares() -> Iterator[tuple[tuple[str, date], float]]:
    """By plain counting, of every customer at every Monday that observes an order of theirs."""
    times: dict[str, list[datetime]] = {}
    for row in orders():
        times.setdefault(row["customer_id"], []).append(row["ordered_at"])
    for customer, ordered in times.items():
        for week in range(30):
            t = BEGIN + timedelta(weeks=week)
            seen = [moment.weekday() in (5, 6) for moment in ordered if t - timedelta(days=60) <= moment < t]
            if seen:
                yield (customer, t.date()), sum(seen) / len(seen)


def test_the_page_changes_two_places_and_no_more() -> None:
    assert [name for name, _ in blocks()] == [*PLACES]
    page = (CHECKOUT / "docs" / "add_a_feature.md").read_text(encoding="utf-8")
    assert page.count("```python") == len(PLACES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `with_weekend_orders` made with the copy of the package."""
    folder = tmp_path_factory.mktemp("added")
    copy_with_the_feature(folder)
    ran = subprocess.run(
        [sys.executable, "-m", "churn_assets_tests.with_weekend_orders"],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{CHECKOUT}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert Path(result["package"]).is_relative_to(folder)
    return result


@pytest.mark.system
def test_its_values_are_those_of_plain_counting(made: dict[str, Any]) -> None:
    expected = dict(weekend_shares())
    computed = {(customer, date.fromisoformat(day)): value for customer, day, value in made["values"]}
    assert len(computed) > 1_000
    assert {key: expected[key] for key in computed} == computed
    assert len(Counter(computed.values())) > 50


@pytest.mark.system
def test_panel_contract_lineage_and_card_know_it(made: dict[str, Any]) -> None:
    assert made["broken"] == []
    assert made["schema"][-2:] == [NAME, "label"]
    assert made["ranges"].endswith(f"; {NAME} 0 to 1")
    baseline = "food_delivery/gold_customer_churn_risk"
    assert made["reads"] == [[baseline, "weekend_orders"], [baseline, "total_orders"]]
    assert made["meaning"].startswith("how many of their orders they place on a weekend: ")
    (row,) = re.findall(rf"^\| `{NAME}` \|.*$", made["card"], flags=re.MULTILINE)
    assert made["meaning"].replace(": ", " | ") in row
    assert row.endswith("| 0 to 1 |")


@pytest.mark.system
def test_the_model_learns_from_it_and_reasons_tell_it(made: dict[str, Any]) -> None:
    assert made["importance"] > 0
    values = {(customer, value) for customer, _, value in made["values"]}
    assert len(made["reasons"]) > 10
    for customer, value, usual, sentence in made["reasons"]:
        assert (customer, value) in values
        assert 0.3 < usual < 1
        assert re.fullmatch(r"placed (none|\d+ in \d+) of their orders on a weekend; usual is \d+ in 10", sentence)


@pytest.mark.system
def test_drift_has_a_profile_of_it_by_deciles(made: dict[str, Any]) -> None:
    assert made["drift"] == {"is_by_value": False, "rows": made["train_rows"]}


@pytest.mark.system
def test_it_is_a_member_of_the_sets_it_names_and_the_digests_say_so(made: dict[str, Any]) -> None:
    before = {name: list(members) for name, members in FEATURE_SETS.items()}
    assert made["sets"] == {**before, "crisis_aware": [*before["crisis_aware"], NAME]}
    assert NAME not in {feature.name for feature in FEATURES}
    policy = ChurnPolicy()
    for digest, other in zip(made["digests"], [policy.digest, policy.panel_digest(panel_code())], strict=True):
        assert digest != other
