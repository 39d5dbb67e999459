"""A ready feature table as another team might keep it: visits to a streaming shop, with columns of its own.

No order lies behind it. Nothing here knows how the project lands or judges it.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import write_deltalake

# As docs/feature_tables.md writes them, without the comments: what the flow's tests run is what people read.
_PAGE = (Path(__file__).resolve().parents[1] / "docs" / "feature_tables.md").read_text(encoding="utf-8")
FEATURES, BASELINE = (
    re.sub(" +# .*", "", block) + "\n" for block in re.findall(r"```toml\n(.*?\n)```", _PAGE, flags=re.DOTALL)
)
COLUMNS = ("days_since_visit", "visits_60d", "share_cut_short", "is_on_trial", "plan", "fees_90d")


def visits(customers: int = 900, weeks: int = 20, labelled: int | None = None, *, seed: int = 7) -> pd.DataFrame:
    """The table, with a Monday a week up to this one; labels of the first `labelled` weeks, by default all known."""
    draw = np.random.default_rng(seed)
    today = datetime.now(UTC).date()
    last = today - timedelta(days=today.weekday())
    first = last - timedelta(weeks=weeks - 1)
    pace = draw.gamma(3.0, 4.0, customers) + 1.0
    taste = draw.beta(2, 6, customers)
    plan = draw.choice([0.0, 1.0, 2.0], customers, p=[0.5, 0.3, 0.2])
    frames = []
    for week in range(weeks):
        as_of = first + timedelta(weeks=week)
        silence = np.minimum(draw.exponential(30 / pace), 30.0)
        cut = np.clip(taste + draw.normal(0, 0.1, customers), 0, 1)
        on_trial = (draw.random(customers) < 0.2).astype(float)
        risk = 1 / (1 + np.exp(-(-2.2 + 0.16 * silence + 2.5 * cut + 0.8 * on_trial - 0.05 * pace)))
        frames.append(
            pd.DataFrame(
                {
                    "customer_id": [f"V{number:05}" for number in range(customers)],
                    "as_of": as_of,
                    "days_since_visit": silence,
                    "visits_60d": np.maximum(1, draw.poisson(pace)).astype(float),
                    "share_cut_short": cut,
                    "is_on_trial": on_trial,
                    "plan": plan,
                    "fees_90d": np.round(pace * 3.5, 2),
                    "left": (draw.random(customers) < risk).astype(float),
                }
            )
        )
    rows = pd.concat(frames, ignore_index=True)
    known = last - timedelta(days=30) if labelled is None else first + timedelta(weeks=labelled - 1)
    return rows.assign(label=rows.pop("left").where(rows["as_of"] <= known))


def write(rows: pd.DataFrame, folder: Path, name: str = "visits") -> None:
    """`rows` as a version of the Delta table `name`, as another tool writes it."""
    write_deltalake(
        str(folder / name), pa.Table.from_pandas(rows, preserve_index=False), mode="overwrite", schema_mode="overwrite"
    )
