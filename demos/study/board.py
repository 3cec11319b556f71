"""The live board of a study, for its owner: who votes, how fast, how far they agree. Not what they prefer: whoever
looks at that again and again finds what is not there, and the report has it."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ..gallery import STYLE
from ..manifest import open_database
from . import report
from .settings import VOTES

EVERY = 15  # seconds
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Board</title><style>{{ style | safe }} th, td {white-space: nowrap;}</style>
<main><h1>{{ votes }} votes</h1>
<p>{{ raters }} rater{{ "" if raters == 1 else "s" }}, {{ lately }} in the last quarter of an hour; {{ agreed }} agreed
to take part. {{ checks_passed }} of {{ checks }} attention checks passed{% if excluded %}; not counted:
{{ excluded | join(", ") }}{% endif %}.</p>
<div class="wide" tabindex="0"><table><tr><th>question</th><th>votes</th><th>ties</th><th>both bad</th>
<th>Krippendorff's alpha</th></tr>
{% for row in questions %}<tr><td>{{ row.question }}</td><td>{{ row.votes }}</td><td>{{ row.ties | percent }}</td>
<td>{{ row.bad | percent }}</td><td>{{ "–" if row.alpha is none else "%.2f" | format(row.alpha) }}</td></tr>
{% endfor %}</table></div>
<h2>Pairs of methods</h2>
<div class="wide" tabindex="0"><table><tr><th>methods</th><th>votes</th><th>pairs of pictures with a vote</th></tr>
{% for row in methods %}<tr><td>{{ row.a }}, {{ row.b }}</td><td>{{ row.votes }}</td><td>{{ row.pictures }}</td></tr>
{% endfor %}</table></div>
<h2>Raters</h2>
<div class="wide" tabindex="0"><table><tr><th>rater</th><th>votes</th><th>seconds a vote</th><th>left, of decided</th>
<th>checks passed</th><th>last vote</th></tr>
{% for row in per_rater %}<tr><td>{{ row.rater }}</td><td>{{ row.votes }}</td>
<td>{{ "–" if row.seconds is none else "%.1f" | format(row.seconds) }}</td>
<td>{{ "–" if row.left is none else row.left | percent }}</td>
<td>{{ "–" if not row.checks else "%d of %d" | format(row.checks_passed, row.checks) }}</td>
<td>{{ row.ago | ago }}</td></tr>
{% endfor %}</table></div>
<p>{% if seconds is not none %}A vote takes {{ "%.1f" | format(seconds) }} s, the median of all. {% endif %}Looked at
{{ now }}; looks again every {{ every }} s. What is preferred is in the report alone.</p></main>
<script>
setInterval(async () => {
  const answer = await fetch(location.href), page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  if (answer.ok) document.querySelector('main').replaceChildren(...page.querySelector('main').children);
}, 1000 * {{ every }});
</script></html>
"""


def since(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


_environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters |= {"percent": lambda value: f"{100 * value:.0f} %", "ago": since}


def summarize(folder: Path) -> dict[str, Any]:
    """What the board says, as plain numbers.

    Raises:
        ValueError: as `report.read_votes`.
    """
    votes, now = report.read_votes(folder), time.time()
    with closing(open_database(folder / VOTES, None)) as connection:
        agreed = connection.execute("SELECT count(*) FROM consents").fetchone()[0]
    pairs, checks = votes[~votes["is_check"]], votes[votes["is_check"]]
    unit = ["prompt", "seed", "method_a", "method_b"]
    questions = [
        {
            "question": question,
            "votes": len(asked),
            "ties": float((asked["preferred"] == "tie").mean()),
            "bad": float((asked["preferred"] == "bad").mean()),
            "alpha": report.alpha(asked),
        }
        for question, asked in pairs.groupby("question", sort=False)
    ]
    methods = [
        {"a": a, "b": b, "votes": len(group), "pictures": len(group[unit].drop_duplicates())}
        for (a, b), group in pairs.groupby(["method_a", "method_b"])
    ]
    ago = {name: now - at.timestamp() for name, at in votes.groupby("rater")["voted_at"].max().items()}
    per_rater = [report.of_rater(name, group) | {"ago": ago[name]} for name, group in votes.groupby("rater")]
    gaps = votes.sort_values("voted_at").groupby("rater")["voted_at"].diff().dt.total_seconds().dropna()
    return {
        "votes": len(pairs),
        "raters": int(votes["rater"].nunique()),
        "lately": sum(seconds < 900 for seconds in ago.values()),
        "agreed": agreed,
        "checks": len(checks),
        "checks_passed": int((checks["preferred"] == "a").sum()),
        "excluded": report.careless(votes),
        "questions": questions,
        "methods": methods,
        "per_rater": sorted(per_rater, key=lambda row: row["ago"]),
        "seconds": float(np.median(gaps)) if len(gaps) else None,
    }


def page(folder: Path) -> str:
    """The board as a page that loads itself again."""
    return _environment.from_string(PAGE).render(
        summarize(folder), style=STYLE, every=EVERY, now=time.strftime("%H:%M:%S", time.localtime())
    )
