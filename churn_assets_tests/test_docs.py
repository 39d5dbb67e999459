"""Every page says what is so: each of its commands is run by something named here, its snippets work, its links lead
somewhere, and what it lists is what there is."""

import ast
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pyspark
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import RETENTION_TABLES, SOURCE_TABLES
from churn_assets.cli import main
from churn_assets.commands import doctor
from churn_assets.definitions import build_defs, default_resources
from churn_assets.defs.training import TrainingConfig
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.sources import load_sources
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
PAGES = sorted([CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
LANGUAGES = {"json", "sh", "console", "python", "toml", "yaml", "text", "mermaid"}
PROGRAMS = ("make ", ".venv/bin/", "churn-assets ", "dagster ", "scripts/", ".ci/run", "pip ", "git ")
HERE = "churn_assets_tests/test_docs.py::"
COMMANDS = "churn_assets_tests/commands/"
RUN = COMMANDS + "test_run.py::test_the_stages_appear_in_the_order_of_the_flow_each_with_its_time"
CHECK = COMMANDS + "test_check.py::test_checks_that_pass_exit_with_0_are_recorded_and_make_nothing"
HISTORY = COMMANDS + "test_history.py::test_the_command_needs_no_jvm_and_shows_nothing_else"
REPRODUCE = COMMANDS + "test_reproduce.py::test_an_older_version_comes_out_the_same_after_the_tables_have_moved_on"
DOCTOR = HERE + "test_the_doctor_says_what_the_page_shows"
YOUR_DATA = "churn_assets_tests/test_your_data.py::test_what_the_page_shows_is_what_the_commands_say"
ENGINES = COMMANDS + "test_engines.py::test_the_command_runs_a_project_on_two_engines_apart_and_finds_it_equal"
PROMOTE = "churn_assets_tests/test_environments.py::test_the_command_promotes_what_serves_here_in_the_named_environment"
RUN_CONFIG = HERE + "test_jobs_take_the_run_config_that_pages_give_them"
SNIPPETS = HERE + "test_python_snippets_say_what_the_page_says"
CLUSTER = "churn_assets_tests/test_cluster.py::test_every_table_has_the_same_rows"

# Command, without variables before it and `.venv/bin/` -> what runs it: a test, or a step of .ci/run.
KILLS = "churn_assets_tests/test_kills.py::test_every_point_names_a_function_there_is_and_there_are_enough_of_them"
COVERED_BY = {
    "git clone <this repository> churn_assets && cd churn_assets": HERE + "test_a_clone_tells_what_can_be_typed",
    "make help": HERE + "test_a_clone_tells_what_can_be_typed",
    "make clean": HERE + "test_cleaning_removes_what_was_made_and_nothing_else",
    "make demo": "churn_assets_tests/test_pipeline.py::test_the_default_demo_runs_to_its_end",
    "make run": RUN,
    "make run CHURN_PROJECT=examples/uci_online_retail UCI_ONLINE_RETAIL=/path/to/online_retail.parquet": (
        "churn_assets_tests/test_real_data.py::test_the_job_runs_to_a_verdict_and_promotes_just_what_passed"
    ),
    "make dev": (
        "churn_assets_tests/test_dev.py::test_a_job_launched_from_the_interface_runs_and_ctrl_c_ends_everything"
    ),
    "make doctor": DOCTOR,
    "make install": ".ci/run: make install",
    "make install PYTHON=python3.12": "churn_assets_tests/test_packaging.py::test_an_unfit_python_is_refused_by_name",
    "make java": ".ci/run: make java",
    "make chromium": ".ci/run: make chromium",
    "python scripts/kills": KILLS,
    "scripts/kills": KILLS,
    "make postgres": ".ci/run: make postgres",
    "make check": ".ci/run: make check",
    "make format": ".ci/run: make check",
    "make test": ".ci/run: make test",
    'make test ARGS="-m unit"': ".ci/run: make test",
    'make test ARGS="-k features"': ".ci/run: make test",
    'make mutations ARGS="--run gate"': (
        "churn_assets_tests/test_mutations.py::test_only_a_test_that_fails_itself_has_noticed"
    ),
    "make bench": HERE + "test_every_measurement_that_a_page_names_can_be_made_again",
    "churn-assets run": RUN,
    "churn-assets check": CHECK,
    "churn-assets check --junit reports/checks.xml --markdown reports/checks.md": CHECK,
    "churn-assets history": HISTORY,
    "churn-assets reproduce": REPRODUCE,
    "churn-assets reproduce 1": REPRODUCE,
    "churn-assets doctor": DOCTOR,
    "churn-assets doctor --sources": YOUR_DATA,
    "scripts/pharmacy my_pharmacy": YOUR_DATA,
    "churn-assets engines": ENGINES,
    "churn-assets engines sail local": ENGINES,
    "churn-assets engines sail connect": ENGINES,
    "dagster dev -w workspace.yaml": (
        "churn_assets_tests/test_definitions.py::test_dagster_validates_what_the_workspace_file_names"
    ),
    "dagster definitions validate": ".ci/run: make check",
    "dagster job execute -m churn_assets.definitions -j churn_training -c gbt.yaml": RUN_CONFIG,
    "churn-assets promote --to prod": PROMOTE,
    'churn-assets promote --to prod --approver ada@quickbite.example --reason "four calm weeks in staging"': PROMOTE,
    "dagster job execute -m churn_assets.definitions -j rollback_production_model -c rollback.yaml": RUN_CONFIG,
    "cat > gbt.yaml": RUN_CONFIG,
    "dagster job execute -m churn_assets.definitions -j forget_customers -c forget.yaml": RUN_CONFIG,
    "cat > forget.yaml": RUN_CONFIG,
    "cat > rollback.yaml": RUN_CONFIG,
    "python -c": SNIPPETS,
    "export SPARK_HOME=$(.venv/bin/python -c 'import pyspark; print(pyspark.__path__[0])')": (
        HERE + "test_spark_is_started_in_the_tests_as_the_page_says"
    ),
    "$SPARK_HOME/bin/spark-class org.apache.spark.deploy.master.Master --host MASTER --port 7077": CLUSTER,
    "$SPARK_HOME/bin/spark-class org.apache.spark.deploy.worker.Worker --cores 4 --memory 8g spark://MASTER:7077": (
        CLUSTER
    ),
    "$SPARK_HOME/bin/spark-submit --class org.apache.spark.sql.connect.service.SparkConnectServer --driver-memory 8g "
    "spark-internal": CLUSTER,
    "pip install": ".ci/run: make install",
    ".ci/run": ".ci/run: make test",
    "scripts/assets-page": HERE + "test_the_page_of_assets_is_what_dagster_loads",
    "scripts/lock python3.11 python3.12 python3.13 python3.14": (
        "churn_assets_tests/test_packaging.py::test_versions_that_differ_between_pythons_get_a_marker"
    ),
}
# What a target runs; a page may name it where a test or a step runs just that.
TARGETS = {
    "demo": "-m churn_assets.cli run",
    "run": "-m churn_assets.cli run",
    "doctor": "-m churn_assets.cli doctor",
    "dev": "scripts/dev",
    "mutations": "scripts/mutations",
    "bench": "-m benchmarks",
    "clean": "scripts/clean",
    "java": "scripts/ensure-java",
    "chromium": "scripts/ensure-chromium",
    "postgres": "scripts/ensure-postgres",
    "check": "scripts/validate-definitions",
    "format": "-m ruff format .",
    "test": "-m pytest",
}


@dataclass(frozen=True)
class Command:
    """text: on one line, without a document that follows it. document: what `<<` hands to it, or the code of `-c`."""

    page: str
    text: str
    document: str = ""

    @property
    def key(self) -> str:
        """As in COVERED_BY."""
        words = re.sub(r"^(\w+=\S+ )+", "", self.text).removeprefix(".venv/bin/")
        return "python -c" if words.startswith("python -c ") else words


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def fences(page: Path, *languages: str) -> list[str]:
    """The texts of the page's blocks in these languages."""
    return [each.content for each in tokens(page) if each.type == "fence" and each.info in languages]


def inline(page: Path, kind: str) -> list[Token]:
    """The page's tokens of a kind within its text: code_inline, link_open, image."""
    return [child for each in tokens(page) for child in each.children or [] if child.type == kind]


def name_of(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def typed(block: str, page: str, prompt: str = "") -> Iterator[Command]:
    """What a person types of a block: whole commands, where quotes and documents span lines; only after `prompt`."""
    lines = iter(block.splitlines())
    for line in lines:
        if not line.startswith(prompt) or not line.strip() or line.startswith("#"):
            continue
        text = line.removeprefix(prompt)
        if document := re.search(r" <<'(\w+)'$", text):
            content = "\n".join(iter(lambda: next(lines), document[1]))
            yield Command(page, text.removesuffix(document[0]), content)
            continue
        while not is_complete(text):
            text += "\n" + next(lines)
        code = shlex.split(text)[-1] if "\n" in text else ""
        yield Command(page, " ".join(text.split()), code)


def is_complete(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def commands() -> Iterator[Command]:
    """Every command of every page, from its blocks and from code within its text."""
    for page in PAGES:
        name = name_of(page)
        for block in fences(page, "sh"):
            yield from typed(block, name)
        for block in fences(page, "console"):
            yield from typed(block, name, "$ ")
        for code in inline(page, "code_inline"):
            if code.content.startswith(PROGRAMS):
                yield Command(name, code.content)


def exists(reference: str) -> bool:
    """Whether a test `file::name` or a step `.ci/run: step` is there."""
    file, is_step, step = reference.partition(": ")
    if is_step:
        return f"step {step}" in (CHECKOUT / file).read_text(encoding="utf-8").splitlines()
    file, _, test = reference.partition("::")
    module = ast.parse((CHECKOUT / file).read_text(encoding="utf-8"))
    return test in [each.name for each in module.body if isinstance(each, ast.FunctionDef)]


def script(name: str) -> ModuleType:
    """A Python script of scripts/, loaded without running it."""
    loader = SourceFileLoader(name.replace("-", "_"), str(CHECKOUT / "scripts" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped() -> dg.Definitions:
    """What Dagster loads with the shipped sources.toml and policy.toml."""
    return build_defs(default_resources(settings_from_env({"CHURN_PROJECT": str(CHECKOUT)})))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of this checkout's last commit, with nothing installed."""
    folder = tmp_path_factory.mktemp("clone") / "churn_assets"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(folder)], check=True, capture_output=True)
    return folder


def make(folder: Path, *arguments: str) -> str:
    """What `make` prints in `folder`, where the packages count as installed."""
    ran = subprocess.run(
        ["make", "-C", str(folder), "--no-print-directory", *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# --- commands ---


def test_every_command_of_a_page_is_run_by_something_that_exists() -> None:
    found = list(commands())
    bench = [each for each in found if each.key.startswith("make bench ARGS=")]
    unknown = {(each.page, each.key) for each in found if each not in bench and each.key not in COVERED_BY}
    assert unknown == set(), "name in COVERED_BY what runs these"
    assert set(COVERED_BY) - {each.key for each in found} == set(), "no page has these any more"
    assert [reference for reference in COVERED_BY.values() if not exists(reference)] == []


def test_variables_before_a_command_are_those_that_are_documented() -> None:
    known = {name for row in rows_of(DOCS / "configuration.md") for name in re.findall(r"`(\w+)`", row[0])}
    used = {name for each in commands() for name in re.findall(r"(?:^| )([A-Z_]+)=", each.text)}
    arguments = {"ARGS", "PYTHON", "UCI_ONLINE_RETAIL", "SPARK_HOME"}
    assert used - known == arguments


def test_the_tiers_are_those_that_tests_are_marked_with(pytestconfig: pytest.Config) -> None:
    marked = [line.partition(":")[0] for line in pytestconfig.getini("markers")]
    _, *tiers = first_cells(CHECKOUT / "CONTRIBUTING.md", "Tests")
    assert {tier.strip("*") for tier in tiers} <= set(marked)
    assert len(tiers) == 3
    asked = {name for each in commands() for name in re.findall(r'"-m (\w+)"', each.text)}
    assert asked <= {tier.strip("*") for tier in tiers}


def test_a_target_that_a_page_names_runs_what_its_test_runs() -> None:
    named = {each.key.split()[1] for each in commands() if each.key.startswith("make ")}
    assert named - {"help", "install"} <= set(TARGETS)
    for target, runs in TARGETS.items():
        assert runs in make(CHECKOUT, "--dry-run", target), target


def test_a_clone_tells_what_can_be_typed(clone: Path) -> None:
    told = make(clone, "help")
    for target in TARGETS:
        assert re.search(rf"^  {target} +\w", told, re.MULTILINE), target
    # The first thing the second command does in a fresh clone.
    assert make(clone, "--dry-run", "demo").startswith("scripts/install\n")


def test_cleaning_removes_what_was_made_and_nothing_else(clone: Path) -> None:
    for folder in ("data/lakehouse", "data/mlflow", "data/logs", "churn_assets/__pycache__", ".venv"):
        (clone / folder).mkdir(parents=True)
    (clone / "data" / "mine.csv").write_text("1\n", encoding="utf-8")
    assert "data/mine.csv" in make(clone, "clean")
    assert [str(path.relative_to(clone)) for path in sorted((clone / "data").rglob("*"))] == ["data/mine.csv"]
    assert not (clone / ".venv").exists()
    changed = subprocess.run(["git", "status", "--short"], cwd=clone, check=True, capture_output=True, text=True)
    assert changed.stdout == ""


def test_the_doctor_says_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project.create(tmp_path, policy=TINY_POLICY, sources=TINY_DEMO)
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "CHURN_LAKEHOUSE", "CHURN_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHURN_PROJECT", str(project.settings.project))
    # Whether this machine is in order is not the question.
    assert main(["doctor"]) in (0, 1)
    told = re.findall(r"^(?:ok|warning|WRONG) +(\w+): ", capsys.readouterr().out, re.MULTILINE)
    assert told == [probe.__name__ for probe in doctor.PROBES]
    (page,) = [block for block in fences(DOCS / "operating.md", "console") if "churn-assets doctor" in block]
    shown = re.findall(r"^ok +(\w+): ", page, re.MULTILINE)
    assert [name for name in told if name in shown] == shown


def test_every_measurement_that_a_page_names_can_be_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("benchmarks.__main__").main(["--help"])
    assert ended.value.code == 0
    (offered,) = re.findall(r"NAME of (.*?); default", " ".join(capsys.readouterr().out.split()))
    named = {each.key.partition("ARGS=")[2] for each in commands() if each.key.startswith("make bench ARGS=")}
    assert named
    assert named <= set(offered.split(", "))


def test_spark_is_started_in_the_tests_as_the_page_says() -> None:
    started = (CHECKOUT / "churn_assets_tests" / "clusters.py").read_text(encoding="utf-8")
    spark = [each.text for each in commands() if "$SPARK_HOME/bin/" in each.text]
    assert len(spark) == 3
    for command in spark:
        program, name = re.findall(r"\$SPARK_HOME/bin/([\w-]+) .*?org\.apache\.spark\.([\w.]+)", command)[0]
        assert f'"{program}"' in started
        assert name.removeprefix("deploy.") in started
        assert (Path(pyspark.__path__[0]) / "bin" / program).is_file()


# --- snippets ---


def test_jobs_take_the_run_config_that_pages_give_them(shipped: dg.Definitions) -> None:
    # Its stubs are not among the packages of constraints.txt.
    yaml = importlib.import_module("yaml")
    given = {(each.page, each.text.split()[-1]): each.document for each in commands() if each.text.startswith("cat > ")}
    launched = [
        (each.page, *re.findall(r" -j (\w+) -c (\S+)$", each.text)[0])
        for each in commands()
        if "dagster job execute" in each.text
    ]
    assert {job for _, job, _ in launched} == {"churn_training", "rollback_production_model", "forget_customers"}
    for page, job, file in launched:
        (other,) = fences(CHECKOUT / page, "yaml") or [""]
        config = yaml.safe_load(given.get((page, file), other))
        assert config["ops"]
        assert dg.validate_run_config(shipped.resolve_job_def(job), config)


def test_the_sources_of_the_page_are_taken(tmp_path: Path) -> None:
    (block,) = fences(DOCS / "configuration.md", "toml")
    (tmp_path / "sources.toml").write_text(block, encoding="utf-8")
    assert load_sources(tmp_path / "sources.toml").orders is not None


def test_the_example_is_a_project() -> None:
    resources = default_resources(
        settings_from_env({"CHURN_PROJECT": str(CHECKOUT / "examples" / "uci_online_retail")})
    )
    assert resources["sources"].sources.orders is not None


def test_python_snippets_say_what_the_page_says(
    built: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(built.settings.project)
    ledger, run = [each.document for each in commands() if each.key == "python -c" and "\n" in each.document]
    exec(compile(ledger, "ledger", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["decided_at", "action", "version", "previous_version", "verdict", "decided_by"]
    assert re.search(r"promoted +1 +None +PASS +policy$", lines[1])
    exec(compile(run, "run", "exec"), {})
    told = capsys.readouterr().out
    assert re.search(r"^version 1 of run \w+ FINISHED$", told, re.MULTILINE)
    assert re.search(r"^recall [01]\.\d+ as of 2025-\d\d-\d\d$", told, re.MULTILINE)


def test_both_ways_to_score_that_the_page_shows_give_the_same(built: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of this process may have pointed MLflow at its own store, which goes before the environment.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", built.settings.tracking_uri)
    by_spark, by_pandas, by_compared = fences(DOCS / "operating.md", "python")
    rows = built.lakehouse.read("food_delivery/test_features").limit(20).orderBy("customer_id")
    first: dict[str, Any] = {"rows": rows}
    exec(compile(by_spark, "spark", "exec"), first)
    second: dict[str, Any] = {"rows": rows.toPandas()}
    exec(compile(by_pandas, "pandas", "exec"), second)
    third: dict[str, Any] = {"rows": second["rows"]}
    exec(compile(by_compared, "compared", "exec"), third)
    assert third["scored"].equals(second["scored"])
    scored = first["scored"].orderBy("customer_id").toPandas()
    assert len(scored) == 20
    assert abs(scored["churn_probability"] - second["scored"]["churn_probability"]).max() <= 1e-9
    assert (scored["is_alert"] == second["scored"]["is_alert"]).all()


# --- links and pictures ---


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    found = tokens(page)
    texts = [found[index + 1].content for index, each in enumerate(found) if each.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def targets(page: Path) -> Iterator[str]:
    yield from (str(each.attrs["href"]) for each in inline(page, "link_open"))
    yield from (str(each.attrs["src"]) for each in inline(page, "image"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_what_is_there(page: Path) -> None:
    broken = []
    for target in targets(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    top = [path.name for path in CHECKOUT.iterdir() if path.is_dir() and path.name not in (".git", "data")]
    named = [each.content for each in inline(page, "code_inline")]
    paths = [text for text in named if re.fullmatch(r"[\w.\-/]+", text) and "/" in text and text.split("/")[0] in top]
    # A decision may be named by its number alone.
    missing = [path for path in paths if not (CHECKOUT / path).exists() and not list(CHECKOUT.glob(f"{path}-*"))]
    assert missing == []


def test_every_picture_is_on_a_page() -> None:
    shown = {(page.parent / str(each.attrs["src"])).resolve() for page in PAGES for each in inline(page, "image")}
    assert set((DOCS / "images").iterdir()) == shown


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_its_language(page: Path) -> None:
    assert {each.info for each in tokens(page) if each.type == "fence"} <= LANGUAGES


# --- what pages list ---


def rows_of(page: Path) -> list[list[str]]:
    """The cells of all tables of the page, as written."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("| ")]


def first_cells(page: Path, heading: str) -> list[str]:
    """The first cells of the tables under a heading, without the header."""
    _, _, section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert section, heading
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in lines if not set(line) <= set("|- ")]


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readme_leads_to_every_page() -> None:
    found = {(CHECKOUT / target.partition("#")[0]).resolve() for target in targets(CHECKOUT / "README.md")}
    assert set(DOCS.glob("*.md")) <= found


def test_the_page_of_assets_is_what_dagster_loads(shipped: dg.Definitions) -> None:
    made: str = script("assets-page").page(shipped)
    assert (DOCS / "assets.md").read_text(encoding="utf-8") == made, "run scripts/assets-page"


def test_every_decision_is_in_the_index_with_number_title_and_status() -> None:
    expected = []
    for page in sorted((DOCS / "decisions").glob("0*.md")):
        number, _, title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(". ")
        assert page.name.startswith(f"{int(number):04}-")
        expected.append([number, f"[{title}]({page.name})"])
    _, _, *rows = rows_of(DOCS / "decisions" / "README.md")
    assert [row[:2] for row in rows] == expected
    assert [row[0] for row in rows if not row[2].startswith(("in force", "replaced by ["))] == []


def test_every_section_of_the_policy_is_on_the_page() -> None:
    header, *rows = first_cells(DOCS / "configuration.md", "policy.toml")
    assert header == "section"
    assert sorted(re.sub(r"[`\[\]]", "", row) for row in rows) == sorted(ChurnPolicy.model_fields)


def test_every_source_column_is_on_the_page() -> None:
    rows = {row[0]: row[1] for row in rows_of(DOCS / "configuration.md") if len(row) == 2}
    for table in (*SOURCE_TABLES, *RETENTION_TABLES):
        told = rows[f"`{table.name}`" + ("?" if table.is_optional else "")]
        expected = [(column.name, "?" if column.is_optional else "", column.kind) for column in table.columns]
        assert re.findall(r"`(\w+)`(\??) (\w+)", told) == expected


def test_every_variable_that_is_read_is_on_the_page() -> None:
    source = (CHECKOUT / "churn_assets" / "resources" / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'env\.get\("(\w+)"\)', source))
    cells = first_cells(DOCS / "configuration.md", "The environment")
    assert len(read) >= 12
    assert read <= {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_knob_of_a_training_is_on_the_page_with_its_default() -> None:
    rows = [row[:2] for row in rows_of(DOCS / "configuration.md") if row[0].strip("`") in TrainingConfig.model_fields]
    defaults = {name: field.default for name, field in TrainingConfig.model_fields.items()} | ChurnPolicy().model.knobs
    assert {name.strip("`"): default.strip("`") for name, default in rows} == {
        name: str(default) for name, default in defaults.items()
    }


def test_every_sensor_and_schedule_is_explained(shipped: dg.Definitions) -> None:
    cells = first_cells(DOCS / "operating.md", "What runs by itself")
    names = {each.name for each in (*(shipped.sensors or []), *(shipped.schedules or []))}
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == names
