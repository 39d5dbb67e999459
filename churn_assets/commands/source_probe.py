"""What the configured sources hold, before anything of them is landed: columns, rows, keys, dates and what matches."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from churn_assets.churn.catalogue import Catalogue
from churn_assets.churn.contract import ONE_ROW_EACH, delivered_outcomes, require_whole_dates
from churn_assets.churn.errors import ChurnError
from churn_assets.churn.outcomes import broken_rules
from churn_assets.churn.plain_text import in_one_line
from churn_assets.churn.tables import ORDERS, RETENTION_TABLES, SourceTable, as_canonical
from churn_assets.commands.doctor import Finding, report
from churn_assets.commands.terminal import DONE, FAILED
from churn_assets.definitions import default_resources
from churn_assets.engines.sessions import engine_errors, reason_of
from churn_assets.resources.settings import Settings
from churn_assets.resources.sources import SourceCatalog
from churn_assets.resources.spark import spark_resource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS_SHOWN = 10
# A cell of the rows that are shown, and a line of the picture.
CELL, WIDTH = 24, 72
LEVELS = "▁▂▃▄▅▆▇█"
# Of these nothing is set aside: they are refused whole.
READY = ("features", "baseline")
KEYS: Mapping[str, tuple[str, ...]] = {
    "orders": ("order_id",),
    "reviews": ("order_id",),
    "customers": ("customer_id",),
    "features": ("customer_id", "as_of"),
    "baseline": ("customer_id", "as_of"),
    "campaign_contacts": ("customer_id", "as_of"),
    "opt_outs": ("customer_id",),
}
# The time that says when a row of a table happened.
MOMENTS = {
    "orders": "ordered_at",
    "reviews": "reviewed_at",
    "features": "as_of",
    "baseline": "as_of",
    "campaign_contacts": "contacted_at",
}
# Where the ids of a table have to be known. A customer who never ordered is nothing unusual.
MATCHED_WITH = {
    "orders": ("customers",),
    "reviews": ("orders",),
    "customers": ("orders",),
    "features": (),
    "baseline": ("features",),
    "campaign_contacts": ("orders", "customers", "features"),
    "opt_outs": ("orders", "customers", "features"),
}
# Below that share of rows that match, the ids are written in two ways rather than that some are unknown.
USUAL_SHARE = 0.9


@dataclass
class Probed:
    """What one table holds, as lines for people, and what is wrong with it, gathered while it is asked.

    canonical: its rows, if it can be read.
    """

    table: SourceTable
    lines: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    canonical: "DataFrame | None" = None


def probed(spark: "SparkSession", sources: SourceCatalog) -> Iterator[Probed]:
    """Each configured table; a table that cannot be read does not keep the others from being probed."""
    tables = [table for table in (*sources.sources.panel_tables, *RETENTION_TABLES) if sources.is_configured(table)]
    found = {table.name: _probed(spark, sources, table) for table in tables}
    for each in found.values():
        with _told(each):
            _match(each, {name: other.canonical for name, other in found.items() if other.canonical is not None})
        yield each


def _probed(spark: "SparkSession", sources: SourceCatalog, table: SourceTable) -> Probed:
    found = Probed(table)
    with _told(found), sources.explained(spark, table):
        opened = sources.examined(spark, table)
        assert opened is not None, "only configured tables are probed"
        found.lines.append("columns    " + ", ".join(f"{name} {kind}" for name, kind in opened.rows.dtypes))
        absent = [column.name for column in table.columns if column.name not in opened.rows.columns]
        found.lines.append(f"absent     {', '.join(absent) or 'none'}")
        found.lines.extend(_first_rows(opened.rows))
        is_refused = table.name in READY
        fix = f"say under [{table.name}.convert] in sources.toml how these values are written; as it is " + (
            "the table is refused" if is_refused else "they are null, and their rows go by the rules of cleaning"
        )
        found.findings.extend(
            Finding(table.name, str(each), fix, is_warning=not is_refused) for each in opened.unreadable
        )
        canonical = as_canonical(opened.rows, table)
        _count(found, canonical)
        if table.name == "features":
            found.findings.extend(_against_the_declaration(canonical, sources.sources.catalogue))
            require_whole_dates(opened.rows, "as_of")
        if table == ORDERS:
            found.lines.extend(orders_by_day(_days(canonical)))
        found.canonical = canonical
    return found


@contextmanager
def _told(found: Probed) -> Iterator[None]:
    """Whatever keeps a table from being probed is a finding."""
    try:
        yield
    except ChurnError as error:
        observed = "; ".join([error.summary, *error.problems])
        found.findings.append(Finding(found.table.name, observed, error.next_step or "see docs/your_data.md"))
    except engine_errors() as error:
        found.findings.append(Finding(found.table.name, reason_of(error), "mend what this message names"))


def _first_rows(rows: "DataFrame") -> list[str]:
    shown = [[_cell(value) for value in row] for row in rows.limit(ROWS_SHOWN).collect()]
    table = [[_cell(name) for name in rows.columns], *shown]
    widths = [max(len(line[at]) for line in table) for at in range(len(rows.columns))]
    return [
        "           " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def _cell(value: Any) -> str:
    text = "" if value is None else in_one_line(str(value))
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def _count(found: Probed, canonical: "DataFrame") -> None:
    """Rows, distinct keys and the range of dates, in one query."""
    from pyspark.sql import functions as F

    table, keys = found.table, KEYS[found.table.name]
    has_key = F.lit(True)
    for key in keys:
        has_key = has_key & F.col(key).isNotNull()
    asked = [F.count(F.lit(1)).alias("rows"), F.count_if(has_key).alias("with_key")]
    if table.name in MOMENTS:
        moment = F.col(MOMENTS[table.name]).cast("date")
        asked += [F.min(moment).alias("first"), F.max(moment).alias("last")]
    (counted,) = canonical.agg(*asked).collect()
    distinct = canonical.where(has_key).select(*keys).distinct().count()
    name = " and ".join(keys)
    found.lines.append(f"rows       {counted['rows']:,}, {distinct:,} different {name}")
    is_refused = table.name in READY
    if counted["rows"] > counted["with_key"]:
        found.findings.append(
            Finding(
                table.name,
                f"{counted['rows'] - counted['with_key']:,} of {counted['rows']:,} rows have no {name}",
                "map the key by `select`" + ("" if is_refused else "; rows without one are quarantined"),
                is_warning=not is_refused,
            )
        )
    if twice := counted["with_key"] - distinct:
        set_aside = (
            ", or map updated_at: of rows that contradict each other the first stays and the others are set aside"
        )
        found.findings.append(
            Finding(
                table.name,
                f"{name} is there more than once in {twice:,} of {counted['rows']:,} rows",
                "make one row of each by `select` (GROUP BY)" + ("" if is_refused else set_aside),
                is_warning=not is_refused,
            )
        )
    if table.name in MOMENTS and counted["first"] is not None:
        found.lines.append(f"dates      {counted['first']} to {counted['last']} ({MOMENTS[table.name]}, UTC)")
        if counted["last"] > datetime.now(UTC).date() + timedelta(days=1):
            found.findings.append(
                Finding(
                    table.name,
                    f"{MOMENTS[table.name]} goes to {counted['last']}, which is not over yet",
                    f"check how {MOMENTS[table.name]} is written: day or month first, the year's digits, the time zone",
                    is_warning=True,
                )
            )


def _against_the_declaration(features: "DataFrame", catalogue: Catalogue) -> list[Finding]:
    """What keeps a ready feature table from being published, beside what the keys alone tell."""
    rows = features if "label" in features.columns else features.selectExpr("*", "CAST(NULL AS double) AS label")
    outcomes = delivered_outcomes(rows, catalogue, datetime.now(UTC).date())
    fix = "mend the table, or what [features] in sources.toml declares of it (docs/feature_tables.md)"
    told = broken_rules(outcome for outcome in outcomes if outcome.rule != ONE_ROW_EACH)
    return [Finding("features", each, fix) for each in told]


def _days(orders: "DataFrame") -> Counter[date]:
    from pyspark.sql import functions as F

    day = F.col("ordered_at").cast("date").alias("day")
    rows = orders.groupBy(day).agg(F.count(F.lit(1)).alias("orders")).collect()
    return Counter({row["day"]: row["orders"] for row in rows if row["day"] is not None})


def orders_by_day(days: Mapping[date, int]) -> list[str]:
    """A picture of orders per day, a character for each day or for as many as fit; a day without one is a blank."""
    if not days:
        return []
    first, last = min(days), max(days)
    number = (last - first).days + 1
    at_once = -(-number // WIDTH)
    sums = [
        sum(days.get(first + timedelta(days=start + place), 0) for place in range(at_once))
        for start in range(0, number, at_once)
    ]
    most = max(sums)
    bars = "".join(LEVELS[max(0, -(-each * len(LEVELS) // most) - 1)] if each else " " for each in sums)
    unit = "day" if at_once == 1 else f"{at_once} days"
    return [f"per {unit:<7}{bars}", f"           {first} to {last}, at most {most:,} orders in {unit}"]


def _match(found: Probed, canonical: "Mapping[str, DataFrame]") -> None:
    """How many rows of a table match one of orders or customers, where there are such."""
    name, rows = found.table.name, canonical.get(found.table.name)
    if rows is None:
        return
    key = "order_id" if name == "reviews" else "customer_id"
    known = [canonical[other].select(key) for other in MATCHED_WITH[name] if other in canonical]
    if not known:
        return
    ids = reduce(lambda one, other: one.unionByName(other), known).distinct()
    with_key = rows.where(f"{key} IS NOT NULL")
    total, matched = with_key.count(), with_key.join(ids, key, "left_semi").count()
    others = " and ".join(other for other in MATCHED_WITH[name] if other in canonical)
    found.lines.append(f"matches    {matched:,} of {total:,} rows by {key} with {others}")
    if name != "customers" and matched < USUAL_SHARE * total:
        (unknown,) = with_key.join(ids, key, "left_anti").orderBy(key).limit(1).collect()
        fix = f"compare how {key} is written in both (letters, zeros in front, a .0 behind), and map it by `select`"
        observed = f"{total - matched:,} of {total:,} rows match no {key} of {others}, such as {unknown[key]!r}"
        found.findings.append(Finding(name, observed, fix, is_warning=True))


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    """Writes what each source holds and what is wrong with it, each with its fix; the exit codes are the doctor's."""
    try:
        sources = default_resources(settings)["sources"]
        spark = spark_resource(settings).spark_session
    except ChurnError as error:
        finding = Finding("configuration", "; ".join([error.summary, *error.problems]), error.next_step)
        print(report([finding]), file=terminal)
        return FAILED
    findings: list[Finding] = []
    for found in probed(spark, sources):
        findings += found.findings
        print("\n".join(["", found.table.name, *(f"  {line}" for line in found.lines)]), file=terminal)
        print(report(found.findings or [Finding(found.table.name, "nothing wrong is seen")]), file=terminal)
    return FAILED if any(each.fix and not each.is_warning for each in findings) else DONE
