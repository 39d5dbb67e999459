"""What came of each check, for those who read it: a terminal, a pull request (Markdown), a CI system (JUnit XML)."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from textwrap import fill
from xml.etree import ElementTree

from churn_assets.pages.markdown import table

# XML 1.0 has no form for these, escaped or not.
NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Status(Enum):
    """What came of a check, the worst first; UNKNOWN: it could not be evaluated."""

    UNKNOWN = "not evaluated"
    FAILED = "failed"
    WARNING = "warning"
    PASSED = "passed"


@dataclass(frozen=True)
class Checked:
    """One check's result. observed: of a check that could not be evaluated, what it raised."""

    asset: str
    check: str
    status: Status
    observed: str
    allowed: str


def counted(checked: Sequence[Checked]) -> str:
    """The summary line: how many checks came out how."""
    counts = Counter(each.status for each in checked)
    parts = [f"{counts[status]} {status.value}" for status in Status if counts[status]]
    return f"{len(checked)} checks: {', '.join(parts) or 'none'}"


def as_table(checked: Sequence[Checked]) -> str:
    """For a terminal: each check on a line, then what it observed and allows."""
    lines = []
    for each in checked:
        lines.append(f"{each.status.value:<13} {each.asset}: {each.check}")
        for name, value in (("observed", each.observed), ("allowed", each.allowed)):
            if value:
                lines.append(fill(f"{name:<8} {value}", 110, initial_indent=" " * 14, subsequent_indent=" " * 23))
    return "\n".join([*lines, "", counted(checked)])


def as_markdown(checked: Sequence[Checked]) -> str:
    """For a pull request: the summary line and a table in the order given."""
    rows = [(each.status.value, each.asset, each.check, each.observed, each.allowed) for each in checked]
    return f"**{counted(checked)}**\n\n{table(['result', 'asset', 'check', 'observed', 'allowed'], rows)}\n"


def as_junit(checked: Sequence[Checked], seconds: float) -> str:
    """For a CI system: a test case for each check, its class the asset. Warnings pass and say so in system-out."""
    counts = Counter(each.status for each in checked)
    numbers = {
        "tests": str(len(checked)),
        "failures": str(counts[Status.FAILED]),
        "errors": str(counts[Status.UNKNOWN]),
        "time": f"{seconds:.3f}",
    }
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "churn_checks", "skipped": "0", **numbers})
    for each in checked:
        # Dots would make CI systems see packages; an asset's slashes do not.
        case = ElementTree.SubElement(suite, "testcase", {"classname": each.asset, "name": each.check, "time": "0"})
        text = NOT_IN_XML.sub("\ufffd", f"observed: {each.observed}\nallowed: {each.allowed}")
        kind = {Status.FAILED: "failure", Status.UNKNOWN: "error"}.get(each.status)
        if kind:
            message = NOT_IN_XML.sub("\ufffd", each.observed)
            ElementTree.SubElement(case, kind, {"message": message, "type": each.status.value}).text = text
        elif each.status is Status.WARNING:
            ElementTree.SubElement(case, "system-out").text = f"warning\n{text}"
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
