"""What a person sees who types `churn-assets run`: the stages, the outcome, and nothing of what libraries print."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from pyspark.sql import SparkSession

from churn_assets.commands.progress import STAGE_NAMES
from churn_assets.commands.run import run_jobs
from churn_assets.commands.summary import Ending, Errand, _advice, closing, errand_closing, summary
from churn_assets.commands.terminal import output_to
from churn_assets.definitions import DEMO, LIFECYCLE, jobs_to_run
from churn_assets.defs.features import PANEL
from churn_assets.defs.scoring import SCORES, SCORING
from churn_assets.resources.abandoned_runs import DAGSTER_PROCESS_TAG, this_process
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import prepare_dagster_home
from churn_assets.resources.spark import spark_resource
from churn_assets.resources.tracking import PRODUCTION
from churn_assets.resources.trained_models import REGISTERED_MODEL
from churn_assets_tests.conftest import ENGINE, TINY_DEMO, TINY_POLICY, Project

CHECKOUT = Path(__file__).resolve().parents[2]
CHATTER = re.compile(r"\bDEBUG\b|\bINFO\b|\bWARN(ING)?\b|RUN_START|log4j|Traceback|BetaWarning|Downloading artifacts")


@dataclass(frozen=True)
class Shown:
    exit_code: int
    out: str
    err: str
    log: str

    @property
    def told(self) -> str:
        """What was shown, as if no line were ever broken."""
        return " ".join(self.out.split())


def start_churn_assets_run(project: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, its streams taken from the real descriptors."""
    return subprocess.Popen(
        [sys.executable, "-m", "churn_assets.cli", "run"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(project),
            "CHURN_PROJECT": str(project),
            **ENGINE,
        },
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shown_by(process: subprocess.Popen[str], project: Path) -> Shown:
    out, err = process.communicate()
    logs = sorted((project / "data" / "logs").glob("*.log"))
    return Shown(process.returncode, out, err, logs[-1].read_text(encoding="utf-8"))


def churn_assets_run(project: Path) -> Shown:
    return shown_by(start_churn_assets_run(project), project)


def tiny_project(folder: Path, **gate: tuple[str, str]) -> Path:
    """A tiny demo under the tiny policy, in which some values (found, instead) are changed."""
    policy = TINY_POLICY
    for name, (found, instead) in gate.items():
        assert f"{name} = {found}" in policy
        policy = policy.replace(f"{name} = {found}", f"{name} = {instead}")
    (folder / "policy.toml").write_text(policy, encoding="utf-8")
    (folder / "sources.toml").write_text(TINY_DEMO, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A tiny demo whose model does not reach the recall its policy wants, though a perfect one would."""
    asked = {"budget": ("0.90", "0.30"), "min_recall": ("0.05", "0.80")}
    return churn_assets_run(tiny_project(tmp_path_factory.mktemp("cli"), **asked))


@pytest.mark.system
def test_the_exit_code_is_1_and_the_reason_is_shown_when_the_gate_refuses(refused: Shown) -> None:
    assert refused.exit_code == 1
    assert "recall_gate: no pass; see Evaluation, below" in refused.out
    assert re.search(
        r"^    recall +0\.\d{3} .* at least 0\.800 \(lower end\), 80% of the 1\.000 in budget +MISSED$",
        refused.out,
        re.MULTILINE,
    )
    # A verdict is no failure of the run; what was short is told with what to do, and only what exists is named.
    assert "The run came to a verdict" in refused.out
    assert "FAILED" not in refused.out
    assert re.search(
        r"what was short: recall: 0\.\d+, allowed at least 0\.800 \(lower end\), "
        r"80% of the 1\.000 in budget more weeks",
        refused.told,
    )
    assert "risk report" not in refused.out
    assert "no version is under alias production" in refused.out
    assert refused.out.rstrip().splitlines()[-1].startswith("Took ")


@pytest.mark.system
def test_the_stages_appear_in_the_order_of_the_flow_each_with_its_time(refused: Shown) -> None:
    begun = re.findall(r"^● (.+)$", refused.out, re.MULTILINE)
    names = list(STAGE_NAMES.values())
    assert begun == names[: len(begun)]
    assert len(begun) >= len(names) - 2 == 7, "the registry stage may be skipped, and nothing is scored; no other"
    assert len(re.findall(r"^  done in \d+\.\d s", refused.out, re.MULTILINE)) == len(begun)
    for step in ("simulated_quickbite", "orders", "silver_orders_enriched", "ml_churn_features", "recall_churn"):
        assert re.search(rf"^    {step} +\d+\.\d s$", refused.out, re.MULTILINE), step
    assert re.search(r"^Took \d+ s in all\.$", refused.out, re.MULTILINE)


@pytest.mark.system
def test_what_libraries_print_is_in_the_log_file_and_not_on_the_terminal(refused: Shown) -> None:
    assert refused.err == ""
    assert not CHATTER.search(refused.out), CHATTER.search(refused.out)
    assert "RUN_START" in refused.log
    (named,) = re.findall(r"^Log file +(.+)$", refused.out, re.MULTILINE)
    assert Path(named).read_text(encoding="utf-8") == refused.log


@pytest.mark.system
def test_the_summary_names_rows_snapshots_recall_with_interval_and_budget(refused: Shown) -> None:
    for table in ("orders", "reviews", "customers"):
        (line,) = re.findall(rf"^  {table} +(.* in .*)$", refused.out, re.MULTILINE)
        rows_in, kept, cancelled, superseded, quarantined = (
            int(number.replace(",", "")) for number in re.findall(r"[\d,]+", line)[:5]
        )
        assert rows_in == kept + cancelled + superseded + quarantined > 0
    assert re.search(r"rows in 1\d snapshots, 2025-\d\d-\d\d to 2025-12-29; \d+ with known labels", refused.out)
    assert re.search(
        r"recall +0\.\d{3} \(95% interval 0\.\d{3} to [01]\.\d{3}\): \d+ of \d+ churners found", refused.out
    )
    assert re.search(r"alerts +[\d,]+ of [\d,]+ customers, [\d.]+%; budget 30%", refused.out)
    for rival in ("the retention team's rule", "the count of orders alone", "the purchase model"):
        named = rf"{rival}(?: \(the strongest rival\))?"
        told = rf"{named}: PR-AUC 0\.\d+; with as many alerts it finds [01]\.\d+ of the churners"
        assert re.search(told, refused.told)
    assert refused.told.count("(the strongest rival)") == 1
    assert re.search(
        r"FEASIBLE no order for 30 days \(the policy's\): \d+ of \d+ customers of 20\d\d-\d\d-\d\d; "
        r"about \d+ churners to judge on",
        refused.told,
    )


def test_a_definition_that_leaves_any_verdict_open_ends_the_run_before_training_with_its_reasons(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.at(tiny_project(tmp_path, max_recall_interval=("0.99", "0.10")))
    monkeypatch.setenv("DAGSTER_HOME", str(prepare_dagster_home(project.settings)))
    monkeypatch.setattr("churn_assets.resources.lakehouse.note_process", lambda *_: None)
    terminal = StringIO()
    code = run_jobs(project.settings, spark_resource(project.settings), terminal, tmp_path / "log")
    shown = Shown(code, terminal.getvalue(), "", "")
    assert shown.exit_code == 1
    # In Dagster's overview and in the histories of its jobs these runs are as any other.
    with project.instance() as instance:
        runs = instance.get_runs()
    assert {run.tags[REPOSITORY_LABEL_TAG] for run in runs} == {"__repository__@churn_assets.definitions"}
    assert {run.remote_job_origin.job_name if run.remote_job_origin else "" for run in runs} == {DEMO, LIFECYCLE}
    begun = re.findall(r"^● (.+)$", shown.out, re.MULTILINE)
    names = list(STAGE_NAMES.values())
    assert begun == names[: names.index(STAGE_NAMES["feasibility"]) + 1]
    assert shown.told.count("NOT FEASIBLE no order for 30 days (the policy's): ") == 1
    assert "churn_definition_is_feasible: no pass; see Feasibility of churn definitions, below" in shown.out
    reason = r"with \d+ churners to judge on, the recall's 95% interval can be 0\.\d\d wide; allowed 0\.10"
    assert re.search(reason, shown.told)
    assert "The run came to a verdict" in shown.out
    assert "no churn definition of those compared would work" in shown.out
    for absent in ("MLflow", "churn-assets history", "risk report"):
        assert absent not in shown.out.partition("\nNext\n")[2], absent
    # All candidates are shown, so that another can be chosen.
    assert len(re.findall(r"^  NOT FEASIBLE  ", shown.out, re.MULTILINE)) == 7
    assert re.search(r"NOT FEASIBLE no order for 30 days \(the policy's\): \d+ of \d+ customers", shown.told)
    assert "no version is under alias production" in shown.out
    # A run that is killed before any resource is there can be told from one that goes on.
    with project.instance() as instance:
        executed_by = [json.loads(run.tags[DAGSTER_PROCESS_TAG]) for run in instance.get_runs()]
        assert executed_by == [this_process() | {"run": run.run_id} for run in instance.get_runs()]


@pytest.mark.system
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_a_run_that_is_stopped_says_so_in_one_line_and_leaves_what_was_finished(
    tmp_path: Path, asked: signal.Signals
) -> None:
    project = Project.create(tmp_path, policy=TINY_POLICY, sources=TINY_DEMO.replace("1_000", "200"))
    process = start_churn_assets_run(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("● Lakehouse"):
            process.send_signal(asked)
            break
    shown = shown_by(process, tmp_path)
    assert shown.exit_code == 130
    assert re.search(r"^Interrupted\. .*\nNext step: the same command again$", shown.out, re.MULTILINE)
    assert "Traceback" not in shown.out + shown.err
    assert shown.err == ""
    assert project.lakehouse.version("demo/orders") == 0
    assert project.lakehouse.version("recall_churn") is None


@pytest.mark.system
@pytest.mark.parametrize("wrong", ["policy.toml", "sources.toml"])
def test_a_wrong_file_is_shown_with_all_its_problems_and_the_exit_code_is_1(tmp_path: Path, wrong: str) -> None:
    files = {"policy.toml": TINY_POLICY, "sources.toml": TINY_DEMO}
    files[wrong] = "[alerts]\nbudget = 2.0\n[nonsense]\n"
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    shown = churn_assets_run(tmp_path)
    assert shown.exit_code == 1
    assert f"{tmp_path}/{wrong}: " in shown.out
    assert "nonsense: unknown key" in shown.out
    assert "Next step: " in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert shown.err == ""


def print_everywhere_and_fail(log: Path) -> None:
    with output_to(log) as terminal:
        os.write(1, b"from a library\n")
        os.write(2, b"from a JVM\n")
        print("for a person", file=terminal)
        raise ZeroDivisionError


def test_the_terminal_is_given_back_after_a_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with pytest.raises(ZeroDivisionError):
        print_everywhere_and_fail(log)
    os.write(1, b"after\n")
    shown = capfd.readouterr()
    assert shown.out == "for a person\nafter\n"
    assert shown.err == ""
    assert log.read_text(encoding="utf-8") == "from a library\nfrom a JVM\n"


def test_the_summary_of_a_success_names_the_version_that_serves(built: Project) -> None:
    begun_at = datetime.fromtimestamp(0, tz=UTC)
    text = summary(built.resources, built.settings, begun_at=begun_at, ending=Ending.SUCCESS, log=Path("run.log"))
    assert "The lifecycle ran to its end." in text
    assert re.search(r"^Evaluation\n  PASS\n .*\n    recall .* met$", text, re.MULTILINE)
    assert "quickbite_churn_predictor: version 1, alias production" in text


def test_the_jobs_end_with_the_scores_of_the_latest_week_once_a_version_serves(project: Project) -> None:
    week = str(project.lakehouse.dates(PANEL, "as_of")[-1])
    assert list(jobs_to_run(project.resources)) == [(DEMO, None), (LIFECYCLE, None), (SCORING, week)]
    project.tracking.client.delete_registered_model_alias(REGISTERED_MODEL, PRODUCTION)
    assert list(jobs_to_run(project.resources)) == [(DEMO, None), (LIFECYCLE, None)]


def test_the_summary_counts_the_latest_weeks_scores_alerts_and_tiers(listed: Project) -> None:
    project, weeks = listed, [str(day) for day in listed.weeks()[-2:]]
    rows = [row for row in project.lakehouse.read(SCORES).collect() if str(row.as_of) == weeks[-1]]
    alerts = sum(row.is_alert for row in rows)
    tiers = Counter(row.risk_tier for row in rows)
    text = summary(
        project.resources, project.settings, begun_at=datetime.now(UTC), ending=Ending.SUCCESS, log=Path("run.log")
    )
    assert f"week {weeks[-1]}: {len(rows):,} scored by version 1, 0 not scorable" in text
    assert (
        f"{alerts:,} alerts, {alerts / len(rows):.1%}; risk: {tiers['high']:,} high, {tiers['medium']:,} medium" in text
    )
    # Thirteen stability indices, unseen segments, alerts, recall and precision.
    assert re.search(rf"^Monitoring\n  week {weeks[-1]}: of 18 figures \d+ ok, .*2 not yet known$", text, re.MULTILINE)
    assert re.search(r"^  (no need to )?retrain: ", text, re.MULTILINE)


def test_an_evaluation_from_before_the_run_is_shown_as_an_earlier_ones(built: Project) -> None:
    begun_at = datetime.now(UTC)
    text = summary(built.resources, built.settings, begun_at=begun_at, ending=Ending.FAILURE, log=Path("run.log"))
    assert re.search(r"^Evaluation \(of an earlier run: .*\)\n  PASS$", text, re.MULTILINE)
    assert "The run FAILED" in text
    assert "run.log" in text


def test_a_failure_that_leaves_nobody_to_ask_still_says_where_to_look(
    built: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object) -> None:
        raise ConnectionRefusedError("the disk is gone")

    monkeypatch.setattr(LakehouseResource, "records", dead)
    begun_at, log = datetime.now(UTC), Path("run.log")
    text = closing(built.resources, built.settings, begun_at=begun_at, ending=Ending.FAILURE, log=log)
    assert "The run FAILED" in text
    assert "ConnectionRefusedError: the disk is gone" in text
    assert "Next step: look for the cause at the end of run.log" in text
    with pytest.raises(ConnectionRefusedError):
        closing(built.resources, built.settings, begun_at=begun_at, ending=Ending.SUCCESS, log=log)


def test_the_definitions_that_would_work_are_named_with_what_to_write(built: Project) -> None:
    rows = built.lakehouse.records("food_delivery/label_feasibility")
    others = {row["definition"]: row["setting"] for row in rows if row["is_feasible"] and not row["is_chosen"]}
    assert others
    asked = [{**row, "is_feasible": row["is_feasible"] and not row["is_chosen"]} for row in rows]
    lakehouse = SimpleNamespace(records=lambda _: asked)
    told = "\n".join(_advice(lakehouse, datetime.now(UTC)))  # type: ignore[arg-type]
    assert all(f"{definition}: {setting}" in told for definition, setting in others.items())


LATE = """
import atexit, os, sys
from pathlib import Path
from churn_assets.commands.terminal import output_to, silence_at_exit
atexit.register(lambda: os.write(2, b"a library's last words"))
with output_to(Path(sys.argv[1])) as terminal:
    print("Took 1 s in all.", file=terminal)
silence_at_exit(Path(sys.argv[1]))
"""


def test_what_is_printed_while_the_process_ends_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ended = subprocess.run(
        [sys.executable, "-c", LATE, str(log)], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("Took 1 s in all.\n", "")
    assert log.read_text(encoding="utf-8") == "a library's last words"


def test_an_errand_says_what_it_did_and_nothing_of_what_it_does_not_make(built: Project) -> None:
    errand = Errand("lakehouse_maintenance", ["food_delivery/orders: nothing to do; kept versions 0 (0.1 MiB)"])
    text = errand_closing(errand, built.resources["promotions"])
    assert "The job lakehouse_maintenance ran to its end.\n  food_delivery/orders: nothing to do;" in text
    assert "quickbite_churn_predictor: version 1, alias production" in text
    assert not {"Evaluation", "Panel", "Scores", "lifecycle"} & {*text.split()}
