"""What the audit of a version found is kept in its commit, so that a check need not find it again."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from churn_assets.churn import contract, reasons, retention, scoring
from churn_assets.churn.outcomes import Outcome, require
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.running_code import code_digest

# The modules whose functions audit: a rule from any other would be believed whatever became of its code.
RULE_MODULES = (contract, reasons, retention, scoring)


def audited(outcomes: Sequence[Outcome], table: str, policy: ChurnPolicy) -> dict[str, Any]:
    """The audit's outcomes as the commit is to keep them. Raises BrokenContractError, which stops the commit."""
    require(outcomes, table)
    return {"rules": rules_digest(policy), "outcomes": [outcome.record() for outcome in outcomes]}


def remembered_outcomes(
    lakehouse: LakehouseResource, versions: Mapping[str, int], policy: ChurnPolicy
) -> list[Outcome]:
    """What one audit of all these versions found; empty if there was none, or none by the rules and policy of today.

    A version never changes, so its outcomes do not either: only what is judged by may. Needs no JVM.
    """
    audit = lakehouse.audit(versions)
    if audit is None or audit["rules"] != rules_digest(policy):
        return []
    return [Outcome.of(record) for record in audit["outcomes"]]


def unjudged(lakehouse: LakehouseResource, table: str, meanings: Mapping[str, str], unmade: str) -> list[Outcome]:
    """The outcomes of rules where there are no scores to judge a table by, or no table; empty where there are.

    meanings: of each rule. unmade: that there is no table yet, which breaks none.
    """
    is_made = lakehouse.has(table)
    if is_made and lakehouse.inputs(table):
        return []
    observed = "not evaluable: the scores behind this version are unknown" if is_made else unmade
    return [Outcome(rule, not is_made, observed, meaning) for rule, meaning in meanings.items()]


def rules_digest(policy: ChurnPolicy) -> str:
    """A hash of all that decides an outcome beside the rows: the code of the rules, Spark's version, the policy, and of
    features that others compute what is declared."""
    declared = f"{policy.model_dump_json()} {policy.catalogue.declaration()}"
    return hashlib.sha256(f"{_code_digest()} {declared}".encode()).hexdigest()[:16]


@cache
def _code_digest() -> str:
    return f"{version('pyspark')} {code_digest(module.__name__ for module in RULE_MODULES)}"
