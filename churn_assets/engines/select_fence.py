"""What a `select` of sources.toml may hold where it is not Spark that answers it: what was tried and came out equal.

Tried on Sail (pysail 0.7.2) and Spark 4.2.0 over nulls, NaN, infinities, negative zero, empty and foreign text, numbers
at their ends, times before 1970 and after 2262, and 170,000 random doubles and decimals. What is not here may be equal
too; nobody has looked. Numbers that Spark refuses at their ends and Sail lets wrap (integer sums) are not here, nor is
what depends on the order of rows (a sum of doubles).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

# An expression of sqlglot, whose arguments go by their names.
Node: TypeAlias = Any

# A kind is integer, decimal(P,S), double, float, string, text of a double, boolean, date, timestamp, timestamp_ntz or
# null; UNKNOWN is that of what has been told already, or is not there, which the engine itself tells.
UNKNOWN = "?"
TEXT_OF_DOUBLE = "text of a double"
INTEGERS = ("tinyint", "smallint", "int", "integer", "bigint", "long", "short", "byte")
SCALARS = ("integer", "decimal", "double", "float", "string", "boolean", "date", "timestamp", "timestamp_ntz", "null")
ORDERED = ("integer", "decimal", "string", "date", "timestamp")
MOMENTS = ("date", "timestamp")

# From what to what a CAST or TRY_CAST comes out equal.
CASTS = {
    "integer": ("integer", "decimal", "double", "string", "boolean"),
    "decimal": ("integer", "decimal", "string"),
    "double": ("integer", "double", "float", "string"),
    "float": ("double", "float"),
    "string": ("string", "integer", "double", "timestamp", "boolean"),
    TEXT_OF_DOUBLE: ("decimal",),
    "boolean": ("boolean", "integer", "string"),
    "date": ("date", "string"),
    "timestamp": ("timestamp", "date", "string"),
    "timestamp_ntz": ("timestamp_ntz", "timestamp", "date", "string"),
    "null": SCALARS,
}
INSTEAD = {
    ("decimal", "double"): "cast to STRING between them, which rounds correctly on both",
    ("double", "decimal"): "cast to STRING between them, which rounds correctly on both",
    ("string", "date"): "cast to TIMESTAMP first",
    ("string", "decimal"): "cast to DOUBLE, and from there by STRING to DECIMAL",
}
# Formats of to_timestamp, try_to_timestamp and to_date.
FORMATS = ("M/d/yy H:mm", "yyyy-MM-dd HH:mm:ss", "yyyy-MM-dd", "dd.MM.yyyy")
# Functions by sqlglot's names: the kinds of their arguments, and the kind of the result ("" is that of the first
# argument that is no null).
FUNCTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "Coalesce": (SCALARS, ""),
    "Upper": (("string",), "string"),
    "Lower": (("string",), "string"),
    "Trim": (("string",), "string"),
    "Concat": (("string", "null"), "string"),
    "DPipe": (("string", "null"), "string"),
    "ConcatWs": (("string", "null"), "string"),
    "Substring": (("string", "integer"), "string"),
    "Left": (("string", "integer"), "string"),
    "Right": (("string", "integer"), "string"),
    "Pad": (("string", "integer"), "string"),
    "Length": (("string",), "integer"),
    "Replace": (("string",), "string"),
    "SplitPart": (("string", "integer"), "string"),
    "Reverse": (("string",), "string"),
    "Translate": (("string",), "string"),
    "StartsWith": (("string",), "boolean"),
    "EndsWith": (("string",), "boolean"),
    "Contains": (("string",), "boolean"),
    "SHA2": (("string", "integer"), "string"),
    "MD5": (("string",), "string"),
    "Abs": (("double", "decimal", "integer"), ""),
    "Year": (MOMENTS, "integer"),
    "Quarter": (MOMENTS, "integer"),
    "Month": (MOMENTS, "integer"),
    "Day": (MOMENTS, "integer"),
    "DayOfMonth": (MOMENTS, "integer"),
    "DayOfYear": (("date",), "integer"),
    "DayOfWeek": (("date",), "integer"),
    "Hour": (("timestamp",), "integer"),
    "Minute": (("timestamp",), "integer"),
    "Second": (("timestamp",), "integer"),
    "TsOrDsToDate": (MOMENTS, "date"),
    "isnull": (SCALARS, "boolean"),
    "isnotnull": (SCALARS, "boolean"),
    "Greatest": (ORDERED, ""),
    "Least": (ORDERED, ""),
    "Count": (SCALARS, "integer"),
    "CountIf": (("boolean",), "integer"),
    "LogicalOr": (("boolean",), "boolean"),
    "LogicalAnd": (("boolean",), "boolean"),
    "Min": ((*ORDERED, "boolean"), ""),
    "Max": ((*ORDERED, "boolean"), ""),
}
# What a SELECT may have beside its columns.
CLAUSES = {"expressions", "from_", "joins", "where", "group", "having", "distinct", "kind"}
# How raw tables may be joined, by sqlglot's names; and the kinds of what they may be joined by.
JOINS = ("", "INNER", "LEFT", "LEFT OUTER")
JOINED_BY = ("integer", "string", "date", "timestamp")
PLAIN_OPERATIONS = ("And", "Or", "Not", "Is", "Paren", "Alias")
COMPARISONS = ("EQ", "NEQ", "GT", "GTE", "LT", "LTE", "NullSafeEQ")


def select_problems(select: str, views: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Whatever in the SELECT text over `views` is not known to give on Sail what it gives on Spark; or nothing.

    views: of each its columns with Spark's names of their types, such as decimal(18,6).
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        (tree,) = sqlglot.parse(select, dialect="spark")
    except (SqlglotError, ValueError) as unread:
        plain = re.sub(r"\x1b[^m]*m", "", str(unread))
        return [f"it cannot be taken apart: {plain.splitlines()[0]}"]
    if not isinstance(tree, exp.Select):
        return ["it is not one SELECT: no UNION, WITH or other statement is known to be equal"]
    return _Reader(tree, views).problems()


class _Reader:
    """One SELECT: goes through it from the inside out, with the kind of each expression."""

    def __init__(self, tree: Node, views: Mapping[str, Mapping[str, str]]) -> None:
        self._tree = tree
        self._views = views
        # By the name of a column, and by that with its table's in front.
        self._kinds: dict[str, str] = {}
        self._found: list[str] = []
        self._known_values: set[str] = set()

    def problems(self) -> list[str]:
        tree = self._tree
        for name, clause in tree.args.items():
            if clause and name not in CLAUSES:
                self._refuse(name.upper().rstrip("S_"), "only SELECT, FROM, WHERE, GROUP BY and HAVING are known")
        source = tree.args.get("from_")
        self._read_from("FROM", source.this if source else None)
        for join in tree.args.get("joins") or ():
            self._read_from("JOIN", join.this)
            self._join(join)
        where = tree.args.get("where")
        if where:
            # Of a joined table they may be null all the same.
            self._known_values = set() if tree.args.get("joins") else set(_columns_not_null(where.this))
            self._kind(where.this)
        group = tree.args.get("group")
        if group:
            if extras := _extras(group):
                self._refuse(f"GROUP BY with {', '.join(extras)}", "only columns and expressions are known")
            for key in group.expressions:
                self._kind(key)
        having = tree.args.get("having")
        if having:
            self._kind(having.this)
        for column in tree.expressions:
            if self._kind(column) == TEXT_OF_DOUBLE:
                self._refuse(_sql(column), "Sail writes doubles otherwise (inf, 1e22); keep the number, or its decimal")
        return list(dict.fromkeys(self._found))

    def _read_from(self, where: str, table: Node | None) -> None:
        """Takes the columns of a table in, by their names and by those with the table's in front."""
        from sqlglot import exp

        is_known = isinstance(table, exp.Table) and table.name.lower() in self._views
        if table is None or not is_known or table.db or _extras(table):
            self._refuse(where, f"only {', '.join(self._views)} itself is known, without subqueries or samples")
            return
        for name, text in self._views[table.name.lower()].items():
            kind, column = _kind_of_type(text), name.lower()
            self._kinds[f"{table.alias_or_name.lower()}.{column}"] = kind
            # Of two tables with a column of one name the engine itself asks which is meant.
            self._kinds[column] = kind if self._kinds.get(column, kind) == kind else UNKNOWN

    def _join(self, join: Node) -> None:
        from sqlglot import exp

        how = " ".join(filter(None, (join.side, join.kind))).upper()
        equal = join.args.get("on")
        conditions: list[Node] = list(equal.flatten()) if isinstance(equal, exp.And) else [equal]
        is_plain = all(
            isinstance(each, exp.EQ) and isinstance(each.left, exp.Column) and isinstance(each.right, exp.Column)
            for each in conditions
        )
        if how not in JOINS or join.args.get("using") or join.args.get("method") or not is_plain:
            self._refuse(
                f"{how} JOIN".strip(), "only JOIN and LEFT JOIN are known, ON columns that are equal, joined by AND"
            )
            return
        for each in conditions:
            kinds = {_base(self._kind(each.left)), _base(self._kind(each.right))}
            if len(kinds) > 1 or not kinds <= {*JOINED_BY, UNKNOWN}:
                self._refuse(_sql(each), f"joining by {' and '.join(sorted(kinds))} is not known to be equal")

    def _refuse(self, what: str, why: str) -> str:
        self._found.append(f"{what}: {why}")
        return UNKNOWN

    def _kind(self, node: Node) -> str:
        name = type(node).__name__
        own: Mapping[str, Callable[[Node], str]] = {
            "Column": self._column,
            "Literal": self._literal,
            "Cast": self._cast,
            "TryCast": self._cast,
            "StrToTime": self._parsed_time,
            "StrToDate": self._parsed_time,
            "TsOrDsToDate": self._to_date,
            "Case": self._branches,
            "If": self._branches,
            "Nullif": self._nullif,
            "Like": self._like,
            "In": self._in,
            "Between": self._between,
            "Neg": self._negative,
            "Add": self._arithmetic,
            "Sub": self._arithmetic,
            "Mul": self._arithmetic,
            "Div": self._divided,
            "Mod": self._remainder,
            "Sum": self._sum,
            "ArgMin": self._extreme_by,
            "ArgMax": self._extreme_by,
            "Filter": self._filtered,
            "Distinct": self._distinct,
        }
        if name in own:
            return own[name](node)
        if name in ("Star", "Null", "Boolean"):
            return {"Star": "integer", "Null": "null", "Boolean": "boolean"}[name]
        if name in PLAIN_OPERATIONS:
            kinds = [self._kind(part) for part in node.iter_expressions() if type(part).__name__ != "Identifier"]
            return kinds[0] if name in ("Paren", "Alias") else "boolean"
        if name in COMPARISONS:
            self._compare(node, node.left, node.right)
            return "boolean"
        called = node.name.lower() if name == "Anonymous" else name
        if called == "try_to_timestamp":
            return self._parsed_time(node)
        return self._function(node, called)

    def _function(self, node: Node, called: str) -> str:
        if called not in FUNCTIONS:
            return self._refuse(_sql(node), "not known to be equal")
        allowed, result = FUNCTIONS[called]
        parts = [part for part in node.iter_expressions() if type(part).__name__ != "Var"]
        kinds = [self._kind(part) for part in parts]
        for part, kind in zip(parts, kinds, strict=True):
            if kind != UNKNOWN and _base(kind) not in allowed:
                return self._refuse(_sql(node), f"not known to be equal for {kind} ({_sql(part)})")
            if called in ("Left", "Right", "Pad", "SplitPart") and kind == "integer" and not _is_natural(part):
                return self._refuse(_sql(node), "only known with a number that is written out and not negative")
        if called == "Coalesce" and len({_base(kind) for kind in kinds} - {"null", UNKNOWN}) > 1:
            return self._refuse(_sql(node), f"not known to be equal for {' and '.join(kinds)}")
        return result or next((kind for kind in kinds if kind != "null"), "null")

    def _column(self, node: Node) -> str:
        name = node.name.lower()
        return self._kinds.get(f"{node.table.lower()}.{name}" if node.table else name, UNKNOWN)

    def _literal(self, node: Node) -> str:
        if node.args["is_string"]:
            return "string"
        text = str(node.this)
        if "e" in text.lower():
            return "double"
        if "." in text:
            return f"decimal({len(text.replace('.', ''))},{len(text.split('.')[1])})"
        return "integer"

    def _cast(self, node: Node) -> str:
        inner, target = self._kind(node.this), _kind_of_type(node.args["to"].sql(dialect="spark"))
        written = type(node.this).__name__ == "Literal"
        if inner == UNKNOWN or (written and _base(target) in ("date", "timestamp", "double", "integer")):
            return target
        # TRY_CAST makes nulls of small numbers, which Sail writes as 1e-5 and does not read again.
        is_lossy = inner == TEXT_OF_DOUBLE and bool(node.args.get("safe"))
        if _base(target) not in CASTS.get(_base(inner), ()) or is_lossy:
            advice = INSTEAD.get((_base(inner), _base(target)), "")
            return self._refuse(
                _sql(node), f"{inner} to {target} is not known to be equal" + (f"; {advice}" if advice else "")
            )
        return TEXT_OF_DOUBLE if (inner, target) == ("double", "string") else target

    def _parsed_time(self, node: Node) -> str:
        result = "date" if type(node).__name__ == "StrToDate" else "timestamp"
        parts = list(node.iter_expressions())
        kind = self._kind(parts[0])
        formats = re.findall(r",\s*'([^']*)'\)$", _sql(node))
        if kind not in ("string", UNKNOWN) or (formats[:1] or [""])[0] not in FORMATS:
            return self._refuse(_sql(node), f"only known of text, with one of the formats {', '.join(FORMATS)}")
        return result

    def _to_date(self, node: Node) -> str:
        # sqlglot reads year(x) as year(to_date(x)), and to_date('text', format) as StrToDate within.
        kind = self._kind(node.this)
        if kind not in ("date", "timestamp", UNKNOWN):
            return self._refuse(_sql(node), f"not known to be equal for {kind}")
        return "date" if kind == "date" else kind

    def _branches(self, node: Node) -> str:
        if type(node).__name__ == "Case":
            choices = node.args["ifs"]
            for choice in choices:
                if node.this:
                    self._compare(choice, node.this, choice.this)
                else:
                    self._kind(choice.this)
            values = [choice.args["true"] for choice in choices]
            last = node.args.get("default")
        else:
            self._kind(node.this)
            values, last = [node.args["true"]], node.args.get("false")
        kinds = [self._kind(value) for value in [*values, *([last] if last else [])]]
        known = [kind for kind in kinds if kind not in ("null", UNKNOWN)]
        if len({_base(kind) for kind in known}) > 1:
            return self._refuse(
                _sql(node), f"branches of different types ({', '.join(known)}) are not known to be equal"
            )
        return known[0] if known else kinds[0]

    def _nullif(self, node: Node) -> str:
        kind = self._kind(node.this)
        if kind in ("double", "float"):
            return self._refuse(_sql(node), "of doubles it treats negative zero otherwise")
        self._compare(node, node.this, node.expression)
        return kind

    def _like(self, node: Node) -> str:
        kind = self._kind(node.this)
        if kind not in ("string", UNKNOWN) or type(node.expression).__name__ != "Literal" or node.args.get("escape"):
            self._refuse(_sql(node), "only known of text, with a pattern that is written out")
        return "boolean"

    def _in(self, node: Node) -> str:
        if _extras(node) or not node.expressions:
            self._refuse(_sql(node), "only a list that is written out is known, no subquery")
        for value in node.expressions:
            self._compare(node, node.this, value)
        return "boolean"

    def _between(self, node: Node) -> str:
        for bound in ("low", "high"):
            self._compare(node, node.this, node.args[bound])
        return "boolean"

    def _compare(self, node: Node, left: Node, right: Node) -> None:
        kinds = [self._kind(left), self._kind(right)]
        bases = {_base(kind) for kind in kinds} - {"null", UNKNOWN}
        # A date or time may be compared with text that is written out; numbers with integers.
        is_written = "Literal" in (type(left).__name__, type(right).__name__)
        mixed = ({"integer", "double"}, {"integer", "decimal"}, {"integer", "string"}, {"timestamp", "timestamp_ntz"})
        is_alike = (
            len(bases) < 2 or bases in mixed or (is_written and bases in ({"date", "string"}, {"timestamp", "string"}))
        )
        if not is_alike:
            advice = "; write the number as 1.5D" if bases == {"decimal", "double"} else ""
            self._refuse(_sql(node), f"{kinds[0]} beside {kinds[1]} is not known to be compared equally{advice}")
        elif not bases <= set(SCALARS):
            self._refuse(_sql(node), f"comparing {kinds[0]} is not known to be equal")

    def _negative(self, node: Node) -> str:
        kind = self._kind(node.this)
        is_written = type(node.this).__name__ == "Literal"
        if kind != UNKNOWN and _base(kind) not in ("double", "decimal") and not is_written:
            return self._refuse(_sql(node), f"not known to be equal for {kind}")
        return kind

    def _arithmetic(self, node: Node) -> str:
        sign = type(node).__name__
        if type(node.right).__name__ == "Interval" and sign in ("Add", "Sub"):
            return self._moved(node)
        left, right = self._kind(node.left), self._kind(node.right)
        if UNKNOWN in (left, right):
            return UNKNOWN
        bases = {_base(left), _base(right)}
        if bases <= {"double", "integer"} and "double" in bases:
            return "double"
        if bases == {"integer"}:
            return self._refuse(_sql(node), "Sail lets integers overflow where Spark ends; cast them to DECIMAL first")
        if bases != {"decimal"}:
            return self._refuse(_sql(node), f"{left} with {right} is not known to be equal")
        (p1, s1), (p2, s2) = _digits(left), _digits(right)
        digits = (p1 + p2 + 1, s1 + s2) if sign == "Mul" else (max(p1 - s1, p2 - s2) + max(s1, s2) + 1, max(s1, s2))
        if digits[0] > 38:
            return self._refuse(_sql(node), "decimals of more than 38 digits are rounded otherwise; cast them to fewer")
        return f"decimal({digits[0]},{digits[1]})"

    def _moved(self, node: Node) -> str:
        kind, interval = self._kind(node.left), node.right
        unit = str(interval.args.get("unit") or "").upper().rstrip("S")
        if kind not in ("timestamp", UNKNOWN) or unit not in ("DAY", "HOUR", "MINUTE", "SECOND"):
            return self._refuse(
                _sql(node), "only days, hours, minutes and seconds before or after a timestamp are known"
            )
        return kind

    def _divided(self, node: Node) -> str:
        kind = self._kind(node.left)
        self._kind(node.right)
        if (kind not in ("double", "integer", UNKNOWN)) or not _is_natural(node.right) or not int(node.right.name):
            return self._refuse(
                _sql(node), "only a double or an integer by a whole number that is written out is known"
            )
        return "double"

    def _remainder(self, node: Node) -> str:
        kind = self._kind(node.left)
        if kind not in ("integer", UNKNOWN) or not _is_natural(node.right) or not int(node.right.name):
            return self._refuse(_sql(node), "only an integer by a whole number that is written out is known")
        return kind

    def _sum(self, node: Node) -> str:
        kind = self._kind(node.this)
        if kind == UNKNOWN:
            return kind
        if _base(kind) != "decimal":
            why = {
                "double": "a sum of doubles depends on the order of rows; cast them to DECIMAL by STRING first",
                "integer": "Sail lets integers overflow where Spark ends; cast them to DECIMAL first",
            }
            return self._refuse(_sql(node), why.get(kind, f"not known to be equal for {kind}"))
        precision, scale = _digits(kind)
        if precision > 28:
            return self._refuse(_sql(node), f"sums of {kind} may overflow otherwise; cast it to DECIMAL(28, …) first")
        return f"decimal({precision + 10},{scale})"

    def _extreme_by(self, node: Node) -> str:
        from sqlglot import exp

        value, order = self._kind(node.this), node.expression
        parts = order.expressions if isinstance(order, exp.Struct) else [order]
        parts = [part.expression if isinstance(part, exp.PropertyEQ) else part for part in parts]
        for part in parts:
            kind = self._kind(part)
            if kind != UNKNOWN and _base(kind) not in ORDERED:
                return self._refuse(_sql(node), f"ordering by {kind} is not known to be equal")
            if nullable := sorted({column.name.lower() for column in part.find_all(exp.Column)} - self._known_values):
                return self._refuse(
                    _sql(node), f"nulls are ordered otherwise; add `{nullable[0]} IS NOT NULL` to the WHERE"
                )
            if part.find(exp.TryCast, exp.Anonymous, exp.Case, exp.If, exp.Nullif):
                return self._refuse(_sql(node), "nulls are ordered otherwise, and what it is ordered by may be one")
        return value

    def _filtered(self, node: Node) -> str:
        self._kind(node.expression.this)
        return self._kind(node.this)

    def _distinct(self, node: Node) -> str:
        kinds = [self._kind(part) for part in node.expressions]
        return kinds[0] if len(kinds) == 1 else self._refuse(_sql(node), "DISTINCT of one column alone is known")


def _columns_not_null(condition: Node) -> Iterator[str]:
    """The columns that the conditions joined by AND say to be no null."""
    from sqlglot import exp

    if isinstance(condition, exp.And):
        yield from _columns_not_null(condition.left)
        yield from _columns_not_null(condition.right)
    elif isinstance(condition, exp.Paren):
        yield from _columns_not_null(condition.this)
    elif isinstance(condition, exp.Not) and isinstance(condition.this, exp.Is):
        known = condition.this
        if isinstance(known.this, exp.Column) and isinstance(known.expression, exp.Null):
            yield known.this.name.lower()


def _kind_of_type(text: str) -> str:
    name = text.lower().replace(" ", "")
    if name in INTEGERS:
        return "integer"
    if name in ("decimal", "numeric", "dec"):
        return "decimal(10,0)"
    if re.fullmatch(r"decimal\(\d+\)", name):
        return f"{name[:-1]},0)"
    return {"real": "float", "timestamp_ltz": "timestamp"}.get(name, name)


def _base(kind: str) -> str:
    return "decimal" if kind.startswith("decimal(") else kind


def _digits(kind: str) -> tuple[int, int]:
    precision, scale = re.findall(r"\d+", kind)
    return int(precision), int(scale)


def _is_natural(node: Node) -> bool:
    return type(node).__name__ == "Literal" and not node.args["is_string"] and str(node.this).isdigit()


def _extras(node: Node) -> list[str]:
    """What a table, a GROUP BY or an IN has beside its own name, columns or list."""
    return [name for name, value in node.args.items() if value and name not in ("this", "expressions", "alias")]


def _sql(node: Node) -> str:
    return node.sql(dialect="spark")
