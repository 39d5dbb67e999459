"""Where things run and where files lie, read from the environment. Business rules live in `churn/policy.py`."""

import os
import sqlite3
import tomllib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from churn_assets.engines.addresses import public
from churn_assets.engines.choice import Engine, chosen_engine

NAME_VARIABLES = {
    "experiment": "CHURN_EXPERIMENT",
    "run": "CHURN_RUN_NAME",
    "registered_model": "CHURN_REGISTERED_MODEL",
    "table_prefix": "CHURN_TABLE_PREFIX",
}
CONNECT_SECONDS = 10
# A bare postgresql:// means psycopg 3 since SQLAlchemy 2.1, and dagster-postgres brings psycopg2 (2026-11).
DRIVER_ADVICE = "name the driver (postgresql+psycopg2://…) and install it: pip install 'churn_assets[postgres]'"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """Places of one installation.

    project: folder of `policy.toml`, `sources.toml` and `data/`; relative paths in `sources.toml` start there.
    lakehouse: folder or URI under which the Delta tables lie. tables: paths, or catalog for managed tables of one.
    tracking_uri, artifact_root: MLflow's store and, for a store this project creates, its artifacts.
    mlflow_ui, dagster_ui: addresses of their pages, for the links between them.
    dfs_tmpdir: where Spark writes a model on its way to MLflow; None is MLflow's own default.
    alert_webhook, alert_smtp: where people are told of failures; see `AlertsResource`. contacts_webhook: where the
    retention team's own tool is told whom to contact; see `ContactsResource`. These, tracking_uri and spark_remote may
    hold secrets: no resource keeps them, and none is shown.
    code_commit: what is recorded as the code's commit; None asks git.
    dagster_home: where Dagster keeps its history.
    engine, spark_master, spark_remote: where the tables are computed; `engines.choice` decides. driver_memory: how much
    memory an engine on this machine may use.
    names: those of the policy's [names] that the environment has instead. is_automated: whether the sensors run from
    the start, and what passed is promoted without a person if the policy says so.
    """

    project: Path
    lakehouse: str
    tables: str
    tracking_uri: str = field(repr=False)
    artifact_root: str
    mlflow_ui: str
    dagster_ui: str
    dfs_tmpdir: str | None
    code_commit: str | None
    alert_webhook: str | None = field(repr=False)
    alert_smtp: str | None = field(repr=False)
    contacts_webhook: str | None = field(repr=False)
    dagster_home: Path
    engine: str | None
    spark_master: str | None
    spark_remote: str | None = field(repr=False)
    driver_memory: str
    names: Mapping[str, str] = field(default_factory=dict)
    is_automated: bool = False

    @property
    def data(self) -> Path:
        return self.project / "data"

    @property
    def policy_file(self) -> Path:
        return self.project / "policy.toml"

    @property
    def sources_file(self) -> Path:
        return self.project / "sources.toml"


def prepare_dagster_home(settings: Settings) -> Path:
    """Dagster's folder, made if it is not there: it sends no usage data home and greets nobody with a form."""
    home = settings.dagster_home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\nnux:\n  enabled: false\n", encoding="utf-8")
    return home


def settings_from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that `environ` (default: this process's environment) asks for; embedded defaults for the rest."""
    env = os.environ if environ is None else environ
    # A wheel has no checkout around it: then the current folder is the project.
    default_project = CHECKOUT if (CHECKOUT / "policy.toml").is_file() else Path.cwd()
    project = Path(env.get("CHURN_PROJECT") or default_project).resolve()
    data = project / "data"
    tracking_uri = env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{data / 'mlflow' / 'mlflow.db'}"
    served = tracking_uri if tracking_uri.startswith("http") else "http://127.0.0.1:5000"
    mlflow_ui, dagster_ui = env.get("MLFLOW_UI_URL") or served, env.get("DAGSTER_UI_URL") or "http://127.0.0.1:3000"
    return Settings(
        project=project,
        lakehouse=_absolute(env.get("CHURN_LAKEHOUSE") or str(data / "lakehouse")),
        tables=env.get("CHURN_TABLES") or "paths",
        tracking_uri=tracking_uri,
        artifact_root=_absolute(env.get("CHURN_ARTIFACTS") or str(data / "mlflow" / "artifacts")),
        mlflow_ui=public(mlflow_ui),
        dagster_ui=public(dagster_ui),
        dfs_tmpdir=env.get("MLFLOW_DFS_TMP") or None,
        code_commit=env.get("CHURN_CODE_COMMIT") or None,
        alert_webhook=env.get("CHURN_ALERT_WEBHOOK") or None,
        alert_smtp=env.get("CHURN_ALERT_SMTP") or None,
        contacts_webhook=env.get("CHURN_CONTACTS_WEBHOOK") or None,
        dagster_home=Path(env.get("DAGSTER_HOME") or data / "dagster_home"),
        engine=env.get("CHURN_ENGINE") or None,
        spark_master=env.get("SPARK_MASTER") or None,
        spark_remote=env.get("SPARK_REMOTE") or None,
        driver_memory=env.get("SPARK_DRIVER_MEMORY") or "4g",
        is_automated=env.get("CHURN_AUTOMATION") == "on",
        names={name: env[variable] for name, variable in NAME_VARIABLES.items() if env.get(variable)},
    )


def make_store_folder(tracking_uri: str) -> None:
    """The folder of a local sqlite store, made if it is not there; of another store nothing."""
    file = _sqlite_file(tracking_uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)


def is_new_store(tracking_uri: str) -> bool:
    """Whether it is a local sqlite store that holds nothing yet."""
    file = _sqlite_file(tracking_uri)
    return file is not None and not (file.is_file() and file.stat().st_size)


def require_database(tracking_uri: str) -> None:
    """Asks a store that is a database at once, which MLflow would try for 100 s where it does not answer (3.17).

    Raises sqlite3.Error, SQLAlchemyError, or ImportError for a driver that is not installed.
    """
    file = _sqlite_file(tracking_uri)
    if file is not None:
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")
    elif is_database_server(tracking_uri):
        from sqlalchemy import create_engine, make_url
        from sqlalchemy.exc import ArgumentError

        if "@" in (make_url(tracking_uri).host or ""):
            # The driver would tell what follows it as the name of a host.
            raise ArgumentError("the password holds an @: write it as %40")
        has_timeout = not tracking_uri.startswith("mssql")
        engine = create_engine(tracking_uri, connect_args={"connect_timeout": CONNECT_SECONDS} if has_timeout else {})
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def is_database_server(tracking_uri: str) -> bool:
    """Whether MLflow's store is a database that a server holds."""
    return tracking_uri.startswith(("postgresql", "mysql", "mssql"))


def _sqlite_file(tracking_uri: str) -> Path | None:
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix):
        return None
    return Path(tracking_uri.removeprefix(prefix).removeprefix("file:").partition("?")[0])


def engine_of(settings: Settings) -> Engine:
    """The engine these settings choose. Raises UnknownEngineError."""
    return chosen_engine(
        settings.engine, settings.spark_master, settings.spark_remote, is_simulated=_is_simulated(settings)
    )


def _is_simulated(settings: Settings) -> bool:
    """Whether sources.toml has [demo]; whatever else is wrong with that file is said where it is loaded."""
    try:
        return "demo" in tomllib.loads(settings.sources_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _absolute(place: str) -> str:
    """A URI as it is; a folder from the current one, because Spark and MLflow would each resolve it differently."""
    return place if "://" in place else str(Path(place).resolve())


def mlflow_page(ui: str, page: str) -> str:
    """The address of a page of MLflow's, such as `experiments`, in its view for model training.

    Left to itself MLflow 3.17 opens its view for traces of language models, whatever an experiment holds (2026-11).
    """
    return f"{ui.rstrip('/')}/#/{page}?workflowType=machine_learning"
