"""The interface as a person uses it: the button, a run, checks and pictures, and a broken feature table that stops it.

CHURN_SCREENSHOTS=folder keeps what was seen.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from churn_assets.definitions import LIFECYCLE, TRAINING
from churn_assets.defs.features import PANEL
from churn_assets.resources.abandoned_runs import GOING_ON
from churn_assets.resources.trained_models import REGISTERED_MODEL
from churn_assets_tests.conftest import Project
from churn_assets_tests.processes import Served, dev_servers, wait_for

pytestmark = pytest.mark.system

LOCATION = "churn_assets.definitions"
SLOW_MS = 60_000
STAGES = ("lakehouse", "features", "feasibility", "splits", "training", "evaluation", "registry")


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        # A container's root has no sandbox; nothing but this machine's own pages is opened.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1500, "height": 900})
        opened.set_default_timeout(SLOW_MS)
        expect.set_options(timeout=SLOW_MS)
        yield opened
        browser.close()


@dataclass(frozen=True)
class Interface:
    """Dagster's and MLflow's pages, by what a person does there."""

    page: Page
    served: Served
    pictures: Path

    def open(self, path: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self.served.dagster_port}{path}")

    def keep(self, name: str) -> None:
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def asset_graph(self) -> None:
        self.open("/asset-groups")
        for stage in STAGES:
            expect(self.page.get_by_text(stage, exact=True).first).to_be_visible()

    def materialize_all(self, job: str) -> str:
        """Presses the button of a job; the id of the run it starts."""
        before = self._runs(job)
        self.open(f"/locations/{LOCATION}/jobs/{job}")
        self.page.get_by_role("button", name="Materialize all").click()
        expect(self.page.get_by_text("Launched run")).to_be_visible()
        (run_id,) = self._runs(job) - before
        return run_id

    def watch(self, run_id: str, outcome: str) -> None:
        """Looks at a run until its page says how it ended."""
        self.open(f"/runs/{run_id}")
        wait_for(f"the end of run {run_id}", lambda: self._has_ended(run_id))
        expect(self.page.get_by_text(outcome, exact=True).first).to_be_visible()

    def check(self, asset: str, name: str) -> None:
        self.open(f"/assets/{asset}?view=checks&checkDetail={name}")
        # In the list and as the heading of its page.
        expect(self.page.get_by_text(name, exact=True).locator("visible=true").nth(1)).to_be_visible()

    def figures(self, *told: str) -> None:
        """The page of a check shows its figures as a table, behind its link, and plots each over time."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text("figures", exact=True))
        row.get_by_text("[Show Markdown]").click()
        shown = self.page.get_by_role("dialog")
        expect(shown.get_by_role("table")).to_be_visible()
        for text in told:
            expect(shown.get_by_text(text, exact=True).first).to_be_visible()
        self.page.keyboard.press("Escape")
        expect(shown).to_be_hidden()

    def plots(self, *names: str) -> None:
        for name in names:
            # Among the metadata, and as the heading of its plot.
            expect(self.page.get_by_text(name, exact=True).nth(1)).to_be_attached()
        expect(self.page.locator("canvas").first).to_be_attached()

    def launchpad(self, job: str, *lines: str) -> None:
        self.open(f"/locations/{LOCATION}/jobs/{job}/playground")
        editor = self.page.locator(".CodeMirror-code").first
        expect(editor).to_contain_text(lines[0])
        # The editor shows an empty line as a character without width.
        shown = [line.strip(" \u200b") for line in editor.inner_text().splitlines()]
        assert [line for line in shown if line and not line.isdecimal()] == list(lines)

    def picture(self, asset: str, name: str) -> None:
        """Opens a picture of the latest materialization."""
        self.open(f"/assets/{asset}?view=events")
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(name, exact=True))
        row.get_by_text("[Show Markdown]").click()
        shown = self.page.locator('img[src^="data:image/png;base64,"]')
        expect(shown).to_be_visible()
        assert shown.evaluate("image => image.naturalWidth") > 300

    def model_version(self, version: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self.served.mlflow_port}/#/models/{REGISTERED_MODEL}/versions/{version}")
        expect(self.page.get_by_text(re.compile(f"Version {version}")).first).to_be_visible()
        expect(self.page.get_by_text("production").first).to_be_visible()

    def wait_until_idle(self) -> None:
        """The sensor may have seen the same features just before the button; its checks are shown as in progress."""
        wait_for("the end of every run", self._is_idle)

    def _is_idle(self) -> bool:
        with self.served.project.instance() as instance:
            return not instance.get_runs(dg.RunsFilter(statuses=list(GOING_ON)))

    def _runs(self, job: str) -> set[str]:
        """The runs a person started; sensors start others."""
        with self.served.project.instance() as instance:
            runs = instance.get_runs(dg.RunsFilter(job_name=job))
        return {run.run_id for run in runs if "dagster/sensor_name" not in run.tags}

    def _has_ended(self, run_id: str) -> bool:
        with self.served.project.instance() as instance:
            run = instance.get_run_by_id(run_id)
        return run is not None and run.is_finished


@pytest.fixture
def interface(page: Page, project: Project, tmp_path: Path) -> Iterator[Interface]:
    pictures = Path(os.environ.get("CHURN_SCREENSHOTS") or tmp_path / "pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    with dev_servers(project, tmp_path) as served:
        yield Interface(page, served, pictures)


def break_features(project: Project) -> None:
    """Another tool empties a feature of some customers."""
    path = project.lakehouse.path(PANEL)
    rows = deltalake.DeltaTable(path).to_pyarrow_table()
    ratio = rows.column("late_order_ratio").to_pylist()
    emptied = pa.array([None if place < 7 else value for place, value in enumerate(ratio)], pa.float64())
    place = rows.schema.get_field_index("late_order_ratio")
    deltalake.write_deltalake(path, rows.set_column(place, "late_order_ratio", emptied), mode="overwrite")


def test_the_flow_by_the_button_and_a_broken_feature_table_that_stops_it(interface: Interface) -> None:
    project = interface.served.project
    interface.asset_graph()
    interface.keep("asset_graph")
    interface.watch(interface.materialize_all(LIFECYCLE), "Success")
    # The model is the one that serves.
    assert project.alias("production") == "1"
    interface.check("recall_churn", "recall_gate")
    expect(interface.page.get_by_text("Passed").first).to_be_visible()
    interface.keep("check_passed")
    interface.figures("recall", "precision", "met")
    interface.plots("recall", "recall_allowed", "precision", "alert_share")
    interface.launchpad("forget_customers", "ops:", "forget:", "config:", "customer_ids: []", "reason: ''")
    interface.picture("recall_churn", "precision_recall")
    interface.keep("evaluation")
    # MLflow opens on traces of chats where a link does not say otherwise.
    interface.open("/assets/churn_pipeline_model?view=events")
    link = interface.page.locator("a[href*='/runs/'][href*='/experiments/']").first
    expect(link).to_have_attribute("href", re.compile("workflowType=machine_learning"))
    interface.model_version("1")
    interface.keep("mlflow_version")

    before = project.versions()
    break_features(project)
    stopped = interface.materialize_all(TRAINING)
    interface.watch(stopped, "Failure")
    interface.wait_until_idle()
    interface.check(PANEL, "no_nulls")
    expect(interface.page.get_by_text("Failed").first).to_be_visible()
    expect(interface.page.get_by_text(re.compile("observed: 7 offending rows")).first).to_be_visible()
    interface.keep("check_failed")
    with project.instance() as instance:
        made = instance.all_logs(stopped, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        checked = instance.all_logs(stopped, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    assert made == []
    # The run of the button itself found it, though the button leaves out the checks of what it does not make.
    found = [event.dagster_event.asset_check_evaluation_data for event in checked if event.dagster_event]
    assert {evaluation.check_name for evaluation in found if not evaluation.passed} == {"no_nulls", "no_future_leakage"}
    assert {name: version for name, version in project.versions().items() if version != before[name]} == {
        PANEL: (before[PANEL] or 0) + 1
    }
    assert project.alias("production") == "1"
