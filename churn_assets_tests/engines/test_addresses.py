"""What is shown of an address, and how the whole one is found again."""

import pytest

from churn_assets.engines.addresses import MissingSecretError, public, shown, whole
from churn_assets.engines.choice import Engine

STORES = (
    ("postgresql://churn:s3cret@db:5432/mlflow", "postgresql://…@db:5432/mlflow"),
    ("postgresql+psycopg2://churn:s3c/ret@db/mlflow", "postgresql+psycopg2://…@db/mlflow"),
    ("postgresql://churn:s3c@ret@db/mlflow", "postgresql://…@db/mlflow"),
    ("postgresql://churn:s3c?ret@db/mlflow", "postgresql://…@db/mlflow"),
    ("postgresql://churn:s3c%40ret@db/mlflow?sslmode=require", "postgresql://…@db/mlflow?sslmode=…"),
    ("postgresql:///mlflow?user=churn&password=s3cret", "postgresql:///mlflow?user=…&password=…"),
    ("mssql+pyodbc://s3cret@db/mlflow", "mssql+pyodbc://…@db/mlflow"),
    ("https://churn:s3cret@mlflow.example/", "https://…@mlflow.example/"),
    ("sc://host:15002/;token=s3cret;use_ssl=true", "sc://host:15002/;token=…;use_ssl=…"),
)


@pytest.mark.parametrize(("address", "expected"), STORES)
def test_nothing_secret_is_shown_and_the_environment_gives_the_whole(address: str, expected: str) -> None:
    assert shown(address) == expected
    assert "s3c" not in shown(address)
    assert shown(expected) == expected
    assert whole(expected, "STORE", {"STORE": address}) == address


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////data/of@me;x=1/mlflow.db",
        "http://mlflow:5000",
        "databricks",
        "databricks://profile",
        "/data/mlruns?x=1",
        "sc://host:15002",
    ],
)
def test_an_address_without_a_secret_is_shown_and_kept_whole(address: str) -> None:
    assert shown(address) == address
    assert whole(address, "STORE", {}) == address


@pytest.mark.parametrize("environ", [{}, {"STORE": "postgresql://churn:s3cret@elsewhere/mlflow"}])
def test_a_secret_that_is_not_there_or_anothers_is_an_error_that_names_the_variable(environ: dict[str, str]) -> None:
    with pytest.raises(MissingSecretError, match="STORE is ") as missing:
        whole("postgresql://…@db/mlflow", "STORE", environ)
    assert "s3cret" not in str(missing.value)


def test_a_link_for_people_has_no_user() -> None:
    assert public("https://churn:s3cret@mlflow.example/?o=1") == "https://mlflow.example/?o=1"


def test_an_engine_is_named_without_its_token() -> None:
    engine = Engine("connect", "sc://host:15002/;token=s3cret")
    assert str(engine) == "Spark Connect at sc://host:15002/;token=…"
    assert "s3cret" not in repr(engine)
