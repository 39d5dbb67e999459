"""Which columns of the raw tables the flow needs, so that the others may be of any name, type and number."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class UsedColumns:
    """The names that are needed, in small letters; None: all of them, as of a `select` with a star."""

    names: frozenset[str] | None

    def has(self, name: str) -> bool:
        return self.names is None or name.lower() in self.names

    def of(self, names: Collection[str]) -> list[str]:
        """Those of `names` that are needed."""
        return [name for name in names if self.has(name)]


ALL_COLUMNS = UsedColumns(None)


def used_columns(canonical: Collection[str], select: str | None) -> UsedColumns:
    """The columns that `select` names, or, without one, the canonical ones.

    All of them where the text cannot be taken apart: the engine then says what is wrong with it.
    """
    if select is None:
        return UsedColumns(frozenset(map(str.lower, canonical)))
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        trees = [tree for tree in sqlglot.parse(select, dialect="spark") if tree is not None]
    except (SqlglotError, ValueError):
        return ALL_COLUMNS
    stars = [star for tree in trees for star in tree.find_all(exp.Star) if not isinstance(star.parent, exp.Count)]
    # What is no column but reads like one, such as an alias, is one too many, which does no harm.
    names = {each.name.lower() for tree in trees for each in tree.find_all(exp.Column) if each.name}
    return ALL_COLUMNS if stars else UsedColumns(frozenset(names))
