"""How reasons are said, in the retention team's words. Which feature has which sentence is in `catalogue.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from churn_assets.churn.observed import FeatureRules


@dataclass(frozen=True)
class RatingScale:
    """The company's own scale of ratings, which reviews of 1 to 5 are said in. unit: what it counts."""

    unit: str = "stars"
    low: float = 1.0
    high: float = 5.0

    def rating(self, score: float) -> float:
        """A review score of 1 to 5 on this scale."""
        return self.low + self.difference(score - 1)

    def difference(self, of_scores: float) -> float:
        """Between two review scores, on this scale."""
        return of_scores * (self.high - self.low) / 4


@dataclass(frozen=True)
class Wording:
    """What a sentence needs beside a customer's own values. segments: name by number."""

    rules: FeatureRules
    segments: Mapping[int, str]
    scale: RatingScale = RatingScale()


@dataclass(frozen=True)
class Compared:
    """A customer's value of a feature, set against the reference: the mean of the week's scored customers.

    observed: of the customer's snapshot the columns that the feature tells. parts: of a composite each part by its
    name, the customer's own and its mean.
    """

    own: float
    reference: float
    observed: Mapping[str, float]
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)


# None: of this customer there is nothing to tell.
Sentence = Callable[[Compared, Wording], str | None]


def one_in(share: float) -> str:
    """A share as people say it: 1 in 10, 7 in 10, none."""
    if share < 0.005:
        return "none"
    return f"1 in {round(1 / share)}" if share < 0.4 else f"{round(10 * share)} in 10"


def counted(count: float, one: str, more: str) -> str:
    """A count with its noun: 1 order, 2 orders."""
    return f"{count:,.0f} {one if round(count) == 1 else more}"


# Parcels take days: of 4,321 minutes nobody knows how long that is.
DAY, HOUR = ("day", 1440), ("hour", 60)


def duration(minutes: float) -> str:
    """A whole span of time as people say it: "45 minutes", "36 hours", "1 day"."""
    for one, of_one in (DAY, HOUR):
        if minutes >= of_one and minutes % of_one == 0:
            return counted(minutes / of_one, one, f"{one}s")
    return f"{minutes:g} {'minute' if minutes == 1 else 'minutes'}"


def orders(value: Compared, said: Wording) -> str | None:
    return _fewer_orders(value, f"in {said.rules.observation_days} days")


def orders_in_all(value: Compared, said: Wording) -> str | None:
    return _fewer_orders(value, "in all")


def _fewer_orders(value: Compared, span: str) -> str | None:
    placed = counted(value.own, "order", "orders")
    return None if _is_usual(value) else f"{placed} {span}; usual is {value.reference:,.1f}"


def _is_usual(value: Compared) -> bool:
    """Of counts and times, whether nobody would call it another: 7 orders are not few beside 7.2."""
    return abs(value.own - value.reference) < 0.1 * abs(value.reference)


def rating(value: Compared, said: Wording) -> str | None:
    if not value.observed["reviews"]:
        # Their value is what others said.
        return None
    own, usual = (f"{said.scale.rating(score):.1f}" for score in (value.own, value.reference))
    # On a scale of few steps both may read the same.
    return None if own == usual else f"rated us {own} {said.scale.unit} on average; usual is {usual}"


def lateness(value: Compared, said: Wording) -> str | None:
    late, promised = value.observed["late_deliveries"], value.observed["promised_deliveries"]
    if not promised:
        return None
    if promised == 1:
        own = "the last delivery came late"
    else:
        own = f"{late:,.0f} of the last {promised:,.0f} deliveries came late"
    return f"{own}; usual is {one_in(value.reference)}"


def segment(value: Compared, said: Wording) -> str:
    name = said.segments.get(round(value.own))
    return f"belongs to the {name} segment" if name else "belongs to no known segment"


def crisis(value: Compared, said: Wording) -> str:
    late = duration(said.rules.crisis_delay_minutes)
    return f"waited more than {late} past the promise; {one_in(value.reference)} of all customers did"


def fall(value: Compared, said: Wording) -> str | None:
    own, usual = (f"{said.scale.difference(fell):.1f}" for fell in (-value.own, max(-value.reference, 0)))
    return None if own == usual else f"a review fell by {own} {said.scale.unit} from the one before; usual is {usual}"


def rank(value: Compared, said: Wording) -> str | None:
    worse = [
        f"{own:.0f} of 5 for {name} (usual is {usual:.1f})"
        for name, (own, usual) in value.parts.items()
        if own > round(usual, 1)
    ]
    return f"ranks {', '.join(worse)}; 1 is best" if worse else None


def silence(value: Compared, said: Wording) -> str | None:
    return _days_ago(value, "last ordered")


def tenure(value: Compared, said: Wording) -> str | None:
    return _days_ago(value, "first ordered")


def _days_ago(value: Compared, did: str) -> str | None:
    told = f"{did} {counted(value.own, 'day', 'days')} ago; usual is {value.reference:,.0f}"
    return None if _is_usual(value) else told


def gap(value: Compared, said: Wording) -> str | None:
    told = f"silent for {value.own:.1f} times their own usual gap between orders; usual is {value.reference:.1f} times"
    return None if _is_usual(value) else told


def missed(value: Compared, said: Wording) -> str | None:
    told = f"at their own pace would have ordered {value.own:.1f} times since the last order"
    return None if _is_usual(value) else f"{told}; usual is {value.reference:.1f}"


def delay(value: Compared, said: Wording) -> str:
    waited, usual = _waited(value)
    return f"{waited} in {said.rules.eligibility_days} days; usual is {usual}"


def delay_at_last_order(value: Compared, said: Wording) -> str:
    waited, usual = _waited(value)
    return f"{waited} in the {said.rules.eligibility_days} days to the last order; usual is {usual}"


def _waited(value: Compared) -> tuple[str, str]:
    """How long they waited past the promise, and what is usual, in one unit."""
    waited, usual = counted(value.own, "minute", "minutes"), f"{value.reference:,.0f}"
    for one, minutes in (DAY, HOUR):
        if value.own >= 5 * minutes:
            waited, usual = f"{value.own / minutes:.1f} {one}s", f"{value.reference / minutes:.1f}"
            break
    return f"waited {waited} past the promise", usual


@dataclass(frozen=True)
class Told:
    """The sentence of a feature of which only the meaning is known; None where the value reads as the usual one does.

    names: what values that are names stand for.
    """

    meaning: str
    kind: str
    names: Mapping[float, str]

    def __call__(self, value: Compared, said: Wording) -> str | None:
        if self.kind == "category":
            return f"{self.meaning}: {self.names.get(value.own, f'{value.own:g}')}"
        if self.kind == "binary":
            answer = "yes" if value.own else "no"
            return f"{self.meaning}: {answer}; yes for {one_in(value.reference)} of all customers"
        as_said = one_in if self.kind == "share" else shortened
        own, usual = as_said(value.own), as_said(value.reference)
        return None if own == usual else f"{self.meaning}: {own}; usual is {usual}"


def shortened(number: float) -> str:
    """A number as people say it: 1,250, 12, 3.4, 0.07."""
    if number == round(number) or abs(number) >= 10:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 1 else f"{number:.2g}"
