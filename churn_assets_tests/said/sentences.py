"""How a sentence is checked: its words by a rule, its figures by their names; and how figures are said."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from statistics import NormalDist

import numpy as np

ABSENT = "–"


@dataclass(frozen=True)
class Rule:
    """A sentence with its {figures}, each of which is what `figures` of the page says it is; is_so: when it is true."""

    text: str
    is_so: bool = True

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        parts, known, pattern = re.split(r"\{(\w+)\}", self.text), set[str](), ""
        for place, part in enumerate(parts):
            if place % 2 == 0:
                pattern += re.escape(part)
            else:
                pattern += f"(?P={part})" if part in known else f"(?P<{part}>.+?)"
                known.add(part)
        return re.compile(pattern)


def unsaid(sentences: Iterable[str], rules: Sequence[Rule], figures: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the sentences: nobody checks one, one is not so, or a figure is another."""
    for sentence in sentences:
        matches = [(rule, match) for rule in rules if (match := rule.pattern.fullmatch(sentence))]
        if not matches:
            yield f"no rule checks: {sentence}"
            continue
        wrongs = [list(_wrong(rule, match.groupdict(), figures)) for rule, match in matches]
        if all(wrongs):
            yield f"{'; '.join(wrongs[0])}: {sentence}"


def _wrong(rule: Rule, said: Mapping[str, str], figures: Mapping[str, str]) -> Iterator[str]:
    if not rule.is_so:
        yield "that is not so"
    for name, text in said.items():
        if text != figures.get(name):
            yield f"{name} is {figures.get(name)!r} and not {text!r}"


def sentences_of(text: str) -> list[str]:
    """A paragraph's sentences; a full stop within a figure ends none."""
    return [each for each in re.split(r"(?<=\.) (?=[A-Z\d(])", " ".join(text.split())) if each]


def percent(share: float) -> str:
    return f"{share:.1%}"


def count(number: float) -> str:
    return f"{number:,.0f}"


def day(when: date) -> str:
    return f"{when.day} {when:%B %Y}"


def wilson(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """Wilson (1927), as the roots of (p - hits / trials)^2 = z^2 p (1 - p) / trials."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    roots = np.roots([1 + z * z / trials, -2 * hits / trials - z * z / trials, (hits / trials) ** 2])
    return float(min(roots.real)), float(max(roots.real))


def one_in(share: float) -> str:
    if share < 0.005:
        return "none"
    return f"1 in {round(1 / share)}" if share < 0.4 else f"{round(share * 10)} in 10"


def span(minutes: float) -> str:
    """Minutes as a page says them: the largest unit of which they are a whole number."""
    for unit, of in (("day", 1440), ("hour", 60)):
        if minutes >= of and not minutes % of:
            return f"{minutes / of:,.0f} {unit}{'' if minutes == of else 's'}"
    return f"{minutes:g} minutes"


def counted(number: float, noun: str) -> str:
    return f"{number:,.0f} {noun}{'' if round(number) == 1 else 's'}"
