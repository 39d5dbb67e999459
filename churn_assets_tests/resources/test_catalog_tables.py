"""Tables of a catalog as sources: only Spark has one, so a process with a JVM of its own reads them."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from churn_assets_tests.clusters import spark_environ
from churn_assets_tests.feature_tables import BASELINE, COLUMNS, FEATURES, visits
from churn_assets_tests.processes import CHECKOUT, PATIENCE_SECONDS

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("java")]

READS = """
import json
import sys
from pathlib import Path

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.sources import SourceCatalog, load_sources
from churn_assets.resources.spark import spark_resource

folder = Path(sys.argv[1])
spark = spark_resource(settings_from_env()).spark_session
spark.sql("CREATE DATABASE shop")
spark.read.parquet(str(folder / "visits.parquet")).write.saveAsTable("shop.visits")
catalog = SourceCatalog(load_sources(folder / "sources.toml"), folder, "")
features, rule = catalog.sources.panel_tables
opened = catalog.examined(spark, features)
found = [{name: row[name] for name in opened.rows.columns} for row in opened.rows.collect()]
print(json.dumps({"found": found, "unreadable": len(opened.unreadable)}, default=str))
try:
    catalog.examined(spark, rule)
except UnreadableSourceError as named:
    print(json.dumps(str(named)))
"""


def test_a_ready_feature_table_is_read_from_a_catalog_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    rows = visits(customers=20, weeks=6, labelled=2).assign(notes="not declared")
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "visits.parquet")
    sources = FEATURES + BASELINE
    for path, table in (("visits", "shop.visits"), ("rule", "shop.rule")):
        written = f'format = "delta"\npath = "{path}"'
        assert written in sources
        sources = sources.replace(written, f'format = "table"\npath = "{table}"')
    (tmp_path / "sources.toml").write_text(sources, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", READS, str(tmp_path)],
        cwd=tmp_path,
        env=spark_environ(tmp_path) | {"CHURN_ENGINE": "local", "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read, refused = map(json.loads, done.stdout.splitlines()[-2:])
    wanted = pa.Table.from_pandas(rows[["customer_id", "as_of", *COLUMNS, "label"]], preserve_index=False).to_pylist()

    def key(row: dict[str, object]) -> tuple[str, str]:
        return str(row["customer_id"]), str(row["as_of"])

    expected = [row | {"as_of": str(row["as_of"])} for row in wanted]
    assert sorted(read["found"], key=key) == sorted(expected, key=key)
    assert read["unreadable"] == 0
    assert refused.startswith("Source table baseline (table at shop.rule) cannot be read.")
    assert "Next step: check format, path, options and select under [baseline]" in refused
