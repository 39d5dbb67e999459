"""Whatever text data hold, whoever shows it as Markdown shows that text and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.evaluation import Evaluation
from churn_assets.churn.feasibility import Feasibility
from churn_assets.churn.ledger import Action, Decision, Subject
from churn_assets.churn.outcomes import Figure
from churn_assets.commands.check_reports import Checked, Status, as_markdown
from churn_assets.defs import results
from churn_assets.pages.markdown import Markdown, bullets, table
from churn_assets.pages.model_card import model_card
from churn_assets.pages.tables import criteria_table, decisions_list, feasibility_table, features_table, figures_table
from churn_assets_tests.pages.test_model_card import facts, judged

HARMLESS = "harmless"
HOSTILE = [
    "a|b || c |",
    "`code` and ``more``",
    "two\nlines\r\n\n| x | y |",
    "<script>alert(1)</script> <!-- hidden",
    "_one_ __two__ ___three___ in_a_word a__b _",
    "*one* **two** ~~gone~~",
    "[here](javascript:alert) ![seen](https://other.example/pixel.png) [z]",
    "a \\ b \\\\| c \\",
    "&lt; &amp; $x$",
    *[
        "# head",
        "###",
        "- point",
        "+ point",
        "1. first",
        "23) more",
        "---",
        "- - -",
        "--",
        "=== #",
        "    far",
        "> said",
    ],
]
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@cache
def evaluation() -> Evaluation:
    return judged()


def parts_named(name: str) -> Evaluation:
    return replace(evaluation(), slices=tuple(replace(part, slice=name, part=name) for part in evaluation().slices))


def candidate(text: str, *, is_chosen: bool) -> Feasibility:
    return Feasibility(text, text, is_chosen, None, 10, 1, 0.1, 1.0, 1.0, 1.0, False, (text, text))


def decision(text: str, statement: str | None) -> Decision:
    decided_at = datetime(2025, 1, 6, tzinfo=UTC)
    return Decision("d", decided_at, Action.REFUSED, Subject(text), text, (text, text), text, "run", statement)


def card(text: str) -> str:
    criterion = Figure("key", text, text, text, True, interval=text)
    told = facts(replace(parts_named(text), criteria=(criterion,), warnings=(text,)), name=text, run_id=text)
    evidence = replace(told.evidence, policy_digest=text, data_versions={text: 1}, champion=text)
    return model_card(replace(told, code_commit=text, evidence=evidence))


# Each shows a text of data in every place where it shows one.
USERS: dict[str, Callable[[str], str]] = {
    "figures": lambda text: figures_table(parts_named(text)),
    "candidates": lambda text: feasibility_table([candidate(text, is_chosen=chosen) for chosen in (True, False)]),
    "features": lambda text: features_table([replace(FEATURES[0], name=text, meaning=text, formula=text)]),
    "decisions": lambda text: decisions_list([decision(text, text), decision(text, None)]),
    "checks": lambda text: as_markdown([Checked(text, text, Status.FAILED, text, text)]),
    "points": lambda text: str(results.bullets([text, text]).value),
    "card": card,
    "criteria": lambda text: criteria_table([Figure("key", text, text, text, False, interval=text)]),
    "reasons": lambda text: model_card(facts(replace(evaluation(), criteria=(), reasons=(text,)))),
}


def parsed(source: str) -> list[tuple[str, str]]:
    """Every piece of markup and every text between two of them, in order."""
    pieces: list[tuple[str, str]] = []
    for token in PARSER.parse(source):
        if token.type != "inline":
            pieces.append((token.type, token.content))
            continue
        for child in token.children or []:
            if child.type == "text" and pieces[-1][0] == "text":
                child.content = pieces.pop()[1] + child.content
            pieces.append((child.type, child.content))
    return pieces


def shown(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("user", USERS)
def test_hostile_text_is_shown_as_it_is_wherever_text_is_shown(user: str, text: str) -> None:
    harmless, hostile = (parsed(USERS[user](each)) for each in (HARMLESS, text))
    assert any(HARMLESS in content for _, content in harmless)
    assert hostile == [(kind, content.replace(HARMLESS, shown(text))) for kind, content in harmless]


@given(st.text(st.sampled_from("\\`*_[]<>|&~$#+-=.)(!:; \n\t1ab"), min_size=1).filter(str.strip))
def test_any_text_of_marks_is_inert_in_a_cell_and_in_a_point(text: str) -> None:
    for source in (table([text, "b"], [["c", text]]), bullets([text])):
        assert "".join(content for kind, content in parsed(source) if kind != "text") == ""
        assert shown(text) in [content for kind, content in parsed(source)]


def test_a_table_has_a_line_for_each_row_and_what_is_markdown_on_purpose_stays() -> None:
    found = table(["", "b_c"], [[Markdown("**1**"), "two words"], ("", "-0.5")])
    assert found.splitlines() == ["| | b_c |", "|-|-|", "| **1** | two words |", "| | -0.5 |"]
    assert bullets(["one", Markdown("`two`")]).splitlines() == ["- one", "- `two`"]
    assert table(["alone"], []) == "| alone |\n|-|"
