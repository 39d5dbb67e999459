"""Ids and segments that mean something to a spreadsheet, a page or a terminal, from the sources to the list."""

import csv
import io
import json
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.plain_text import COMPUTED
from churn_assets.churn.worklist import TO_CONTACT
from churn_assets.defs.features import PANEL
from churn_assets.defs.list_page import PAGE
from churn_assets.defs.retention import EXCLUSIONS, EXPORTS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets_tests.conftest import TINY_POLICY, Project, causes_of
from churn_assets_tests.shops import SOURCES, shop, written

# The first seven are those of the public reports; the others break out of quotes, lines, pages and reading direction.
TEXTS = (
    "=1+1 ",
    "@SUM(1) ",
    "+49 ",
    "-5 ",
    "<b>",
    "a|b ",
    "a\nb ",
    '",="',
    "<script>alert(1)</script>",
    "\x1b[31m",
    "\u202e",
)
SEGMENTS = ("<i>vip</i>", "=cmd|' /C calc'!A0", "gold | a\n## b")
# Of the customers, by number: one of each of three texts.
OPTED_OUT = (0, 4, 6)


@dataclass(frozen=True)
class Ran:
    """The whole flow over a shop of such texts. ids: of its customers; listed: the CSV file of the list, as rows."""

    project: Project
    week: date
    ids: set[str]

    @property
    def listed(self) -> list[list[str]]:
        path = Path(self.project.lakehouse.path(f"{EXPORTS}/{self.week}.csv"))
        return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


@pytest.fixture(scope="module")
def ran(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder, made = tmp_path_factory.mktemp("hostile"), shop(customers=300)
    ids = {f"C{number:04d}": f"{TEXTS[number % len(TEXTS)]}{number}" for number in range(300)}
    written(
        folder,
        orders=[row | {"customer_id": ids[row["customer_id"]]} for row in made.orders],
        reviews=made.reviews,
        customers=[
            {"customer_id": ids[row["customer_id"]], "segment": SEGMENTS[place % len(SEGMENTS)]}
            for place, row in enumerate(made.customers)
        ],
        opt_outs=[{"customer_id": ids[f"C{number:04d}"]} for number in OPTED_OUT],
    )
    sources = SOURCES + '[opt_outs]\nformat = "parquet"\npath = "opt_outs.parquet"\n'
    project = Project.create(folder, policy=f"{TINY_POLICY}[freshness]\ntoday = 2025-11-03\n", sources=sources)
    trained = project.run()
    assert trained.success, project.lakehouse.records("recall_churn")
    week = project.weeks()[-1]
    scored = project.score(week, week)
    assert scored.success, causes_of(scored)
    return Ran(project, week, set(ids.values()))


def test_tables_keep_every_id_as_it_is(ran: Ran) -> None:
    lakehouse = ran.project.lakehouse
    kept = {row["customer_id"] for row in lakehouse.records(PANEL)}
    assert kept <= ran.ids
    assert {text for text in TEXTS if not any(each.startswith(text) for each in kept)} == set()
    listed = {row["customer_id"] for row in lakehouse.records(TARGETS)}
    assert listed <= ran.ids
    # Whoever opted out by such an id is known by it.
    opted_out = {f"{TEXTS[number]}{number}" for number in OPTED_OUT}
    assert not listed & opted_out
    assert {row["customer_id"] for row in lakehouse.records(EXCLUSIONS)} <= opted_out


def test_no_cell_of_the_list_is_computed_and_each_is_one_customer(ran: Ran) -> None:
    header, *rows = ran.listed
    targets = ran.project.lakehouse.records(TARGETS)
    contacts = {row["customer_id"] for row in targets if not row["is_holdout"]}
    at = header.index("customer_id")
    assert {len(row) for row in rows} == {len(header)}
    assert {row[at].removeprefix("'") for row in rows} == contacts
    assert [cell for row in rows for cell in row if cell.startswith(COMPUTED[:-1])] == []


def test_the_list_page_has_every_id_as_it_is_and_whoever_opted_out_is_not_to_be_contacted(ran: Ran) -> None:
    html = Path(ran.project.lakehouse.path(f"{FOLDER}/{PAGE}.html")).read_text(encoding="utf-8")
    told = [json.loads(line) for line in html.split("\n") if line.startswith('{"customer_id"')]
    rows = {row["customer_id"]: row for row in told}
    targets = {row["customer_id"]: row["is_holdout"] for row in ran.project.lakehouse.records(TARGETS)}
    assert {each for each, row in rows.items() if row["standing"] == TO_CONTACT} == {
        each for each in targets if not targets[each]
    }
    off = {row["customer_id"] for row in ran.project.lakehouse.records(EXCLUSIONS)}
    assert {rows[each]["why"] for each in off} <= {"opted out"}
    assert set(rows) == {*targets, *off}


def test_no_text_is_markup_on_the_page_or_the_card(ran: Ran) -> None:
    page = Path(ran.project.lakehouse.path(f"{FOLDER}/{REPORT}.html")).read_text(encoding="utf-8")
    assert "&lt;i&gt;vip&lt;/i&gt;" in page
    version = ran.project.tracking.version_under("production")
    assert version is not None
    assert version.run_id is not None
    card = Path(ran.project.tracking.client.download_artifacts(version.run_id, "model_card.md")).read_text("utf-8")
    assert "vip" in card
    for shown in (page, card):
        assert not re.search(r"<i>vip|<script>alert|<b>\d", shown)
    assert not re.search(r"^## b", card, flags=re.MULTILINE)
