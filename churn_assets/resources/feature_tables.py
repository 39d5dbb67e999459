"""How `[features]` of sources.toml declares a ready feature table: its columns, and who vouches for it."""

from collections.abc import Mapping
from math import inf
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from churn_assets.churn.catalogue import Catalogue, Kind, as_delivered, delivered_catalogue
from churn_assets.churn.delivered import Delivered, Step
from churn_assets.churn.errors import InvalidCatalogueError
from churn_assets.churn.tables import SourceColumn, SourceTable

Text = Annotated[str, Field(pattern=r"\S")]


class DeclaredColumn(BaseModel):
    """One column of numbers. meaning: in a customer's words. low, high: its range; high left out: without an end.

    kind: number, share (0 to 1), binary (0 or 1), category (a number that is a name). names: of a category's numbers.
    is_used: false for a column that no model shall see, such as the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    meaning: Text
    low: float
    high: float = inf
    kind: Kind = "number"
    names: Mapping[str, Text] = {}
    is_used: bool = True

    @model_validator(mode="after")
    def names_are_of_numbers(self) -> Self:
        if self.names and self.kind != "category":
            raise ValueError(f"names are of a category's numbers, and this is a {self.kind}")
        wrong = [number for number in self.names if not _is_number(number)]
        if wrong:
            raise ValueError(f"names: {wrong[0]!r} must be the number that the name is of")
        return self


class FeatureDeclaration(BaseModel):
    """What `[features]` says beside where the table lies; what each key means is in `Delivered`."""

    columns: Annotated[Mapping[str, DeclaredColumn], Field(min_length=1)]
    label: Text | None = None
    outcome_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    every: Step = "week"
    value: str | None = None
    attested_by: Text | None = None
    attested_reason: Text | None = None

    @model_validator(mode="after")
    def is_whole(self) -> Self:
        for one, other in (("label", "outcome_days"), ("attested_by", "attested_reason")):
            given, absent = (one, other) if getattr(self, other) is None else (other, one)
            if getattr(self, absent) is None and getattr(self, given) is not None:
                raise ValueError(f"has {given} and needs {absent} with it (docs/feature_tables.md)")
        try:
            self.catalogue(has_rule=False)
        except InvalidCatalogueError as unsound:
            raise ValueError("; ".join(unsound.problems)) from unsound
        return self

    def catalogue(self, *, has_rule: bool) -> Catalogue:
        """The declared columns as the catalogue that everything derives from. has_rule: whether there is [baseline]."""
        features = [
            as_delivered(
                name,
                low=column.low,
                high=column.high,
                kind=column.kind,
                meaning=column.meaning,
                is_used=column.is_used,
                names={float(number): text for number, text in column.names.items()},
            )
            for name, column in self.columns.items()
        ]
        delivered = Delivered(
            label=self.label,
            outcome_days=self.outcome_days,
            every=self.every,
            value=self.value,
            has_rule=has_rule,
            attested_by=self.attested_by,
            attested_reason=self.attested_reason,
        )
        return delivered_catalogue(features, delivered)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def feature_table(catalogue: Catalogue) -> SourceTable:
    """The columns that a ready feature table has to have; others that it has are left out."""
    assert catalogue.delivered is not None, "a catalogue of features that others compute"
    label = catalogue.delivered.label
    return SourceTable(
        "features",
        "One row per customer and as-of date, as others computed it.",
        (
            *_KEYS,
            *[SourceColumn(feature.name, "double", feature.meaning) for feature in catalogue.features],
            *([] if label is None else [SourceColumn("label", "double", f"1: {label}; 0: not; null: not yet known")]),
        ),
    )


_KEYS = (
    SourceColumn("customer_id", "string", "identifies the customer", is_key=True),
    SourceColumn("as_of", "date", "the date of the snapshot, 00:00 UTC; what is known is from before it"),
)
BASELINE_TABLE = SourceTable(
    "baseline",
    "One row per customer and as-of date: the rule that a model has to beat.",
    (*_KEYS, SourceColumn("risk_score", "double", "the rule as a number; the higher, the riskier")),
)
