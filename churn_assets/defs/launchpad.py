"""The run config of jobs that people launch: what Dagster's Launchpad opens with, and what it refuses there."""

from typing import Any

import dagster as dg

from churn_assets.churn.errors import ChurnError


class UnfilledFieldError(ChurnError):
    """A person launched a job without saying what only a person can say."""


def asked_of(op: str, **fields: dg.Field) -> dg.ConfigMapping:
    """The run config of a job of one op that a person launches: just these fields, of which none may be blank.

    A text is blank without a letter, a list without an entry that is none. Dagster's Launchpad opens with the fields,
    and refuses the launch where one is blank; the op's own config would be looked at within the run alone.
    """

    def filled(config: dict[str, Any]) -> dict[str, Any]:
        given = config["ops"][op]["config"]
        blank = [name for name, value in given.items() if _is_blank(value)]
        if blank:
            raise UnfilledFieldError(
                f"Nothing is launched: {' and '.join(blank)} must be filled in.",
                next_step="write them in the Launchpad, or into the file of run config",
            )
        return config

    schema = {"ops": {op: dg.Field({"config": dg.Field(fields)})}}
    return dg.ConfigMapping(config_fn=filled, config_schema=schema)


def _is_blank(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_blank(each) for each in value)
    return isinstance(value, str) and not value.strip()
