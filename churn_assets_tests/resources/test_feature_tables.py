"""`[features]` in sources.toml: what may stand there, and what is refused at load with file and key."""

import tomllib
from pathlib import Path

import pytest

from churn_assets.churn.catalogue import CATALOGUE
from churn_assets.churn.errors import InvalidSourcesError
from churn_assets.churn.tables import SOURCE_TABLES
from churn_assets.resources.sources import Sources, load_sources
from churn_assets_tests.feature_tables import BASELINE, COLUMNS, FEATURES


def loaded(folder: Path, text: str) -> Sources:
    (folder / "sources.toml").write_text(text, encoding="utf-8")
    return load_sources(folder / "sources.toml")


def test_the_declared_columns_are_the_catalogue_and_the_table_has_to_have_them(tmp_path: Path) -> None:
    sources = loaded(tmp_path, FEATURES + BASELINE)
    assert tuple(sources.catalogue.of) == COLUMNS
    assert sources.catalogue.of["plan"].value_names == {0.0: "basic", 1.0: "family", 2.0: "student"}
    assert sources.catalogue.of["visits_60d"].range_text == "1 or more"
    assert not sources.catalogue.of["fees_90d"].sets
    features, rule = sources.panel_tables
    assert features.column_names == ["customer_id", "as_of", *COLUMNS, "label"]
    assert rule.column_names == ["customer_id", "as_of", "risk_score"]
    assert sources.catalogue.has_rule
    assert not loaded(tmp_path, FEATURES).catalogue.has_rule


def test_orders_have_the_catalogue_of_this_code(tmp_path: Path) -> None:
    sources = loaded(tmp_path, '[orders]\nformat = "csv"\npath = "orders.csv"\n')
    assert sources.catalogue is CATALOGUE
    assert sources.panel_tables == SOURCE_TABLES


@pytest.mark.parametrize(
    ("found", "instead", "problem"),
    [
        (
            'attested_reason = "every column is a view over events before as_of, tested there"\n',
            "",
            "has attested_by and",
        ),
        ('attested_by = "Ada Lovelace, data platform"\n', "", "has attested_reason and needs attested_by"),
        ("outcome_days = 30\n", "", "has label and needs outcome_days"),
        ("low = 1\n", 'low = "1"\n', "features.columns.visits_60d.low: found '1'"),
        ("low = 1\n", "low = 1\nunit = 3\n", "features.columns.visits_60d.unit: unknown key"),
        (
            'kind = "share"\nlow = 0\n',
            'kind = "share"\nlow = -1\n',
            "share_cut_short: a share feature has the range 0 to 1",
        ),
        ('kind = "share"\n', 'kind = "ratio"\n', "features.columns.share_cut_short.kind: found 'ratio'"),
        ('0 = "basic"', 'zero = "basic"', "names: 'zero' must be the number that the name is of"),
        ('value = "fees_90d"', 'value = "fees"', "value (fees) must be one of the columns"),
        ("[features.columns.plan]", "[features.columns.risk_score]", "'risk_score': cannot be the name"),
        ("[features]", '[orders]\nformat = "csv"\npath = "o"\n[features]', "has [features] and [orders]"),
        ("[features]", "[demo]\n[features]", "has [demo] and [features]"),
    ],
)
def test_what_cannot_be_declared_is_refused_with_its_key(
    tmp_path: Path, found: str, instead: str, problem: str
) -> None:
    assert FEATURES.count(found) >= 1
    with pytest.raises(InvalidSourcesError) as refused:
        loaded(tmp_path, FEATURES.replace(found, instead, 1))
    assert str(tmp_path / "sources.toml") in str(refused.value)
    assert problem in str(refused.value)


def test_a_rule_without_a_feature_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSourcesError, match=r"has \[baseline\] without \[features\]"):
        loaded(tmp_path, '[orders]\nformat = "csv"\npath = "o"\n' + BASELINE)


def test_the_declaration_is_toml_as_it_stands() -> None:
    assert tomllib.loads(FEATURES)["features"]["columns"]["plan"]["names"]["2"] == "student"
