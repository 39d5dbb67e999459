"""Which cast of a `select` failed, and on what: engines name neither the column nor how many rows it happens to."""

from typing import TYPE_CHECKING, Any

from churn_assets.engines.sessions import engine_errors

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def failed_casts(spark: "SparkSession", select: str) -> list[str]:
    """The casts of `select`, over views that are there, that fail: column, rows, and an example. Empty if none does.

    One query for each cast. What cannot be asked so, such as a cast of an aggregate, is not told.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        (tree,) = sqlglot.parse(select, dialect="spark")
    except (SqlglotError, ValueError):
        return []
    if not isinstance(tree, exp.Select):
        return []
    told = []
    for column in tree.expressions:
        for cast in column.find_all(exp.Cast, exp.StrToTime):
            if cast.args.get("safe") or cast.this.find(exp.AggFunc, exp.Window):
                continue
            told += _failure(spark, tree, column.alias_or_name, cast)
    return list(dict.fromkeys(told))


def _failure(spark: "SparkSession", tree: Any, column: str, cast: Any) -> list[str]:
    from sqlglot import exp

    text = cast.this.sql(dialect="spark")
    lenient = (
        f"TRY_CAST({text} AS {cast.args['to'].sql(dialect='spark')})"
        if isinstance(cast, exp.Cast)
        else cast.sql(dialect="spark").replace("TO_TIMESTAMP(", "TRY_TO_TIMESTAMP(", 1)
    )
    is_lost = f"{text} IS NOT NULL AND {lenient} IS NULL"
    asked = tree.copy()
    # A condition may hold the cast itself, and so fail as it did.
    for clause in ("where", "group", "having", "distinct", "order", "limit"):
        asked.set(clause, None)
    asked.set("expressions", [])
    query = asked.select(
        f"count_if({is_lost}) AS rows", f"min(CASE WHEN {is_lost} THEN {text} END) AS example", dialect="spark"
    )
    try:
        (found,) = spark.sql(query.sql(dialect="spark")).collect()
    except engine_errors():
        return []
    if not found["rows"]:
        return []
    return [f"{column}: {cast.sql(dialect='spark')} fails in {found['rows']:,} rows, such as for {found['example']!r}"]
