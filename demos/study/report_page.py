"""How a report looks: as a page of its own, as a part of another, and as text."""

import math
from typing import Any

import jinja2

from ..gallery import STYLE
from . import judges

LEVEL = 0.05
LOOKS = (
    "Read p and its interval once, after a number of votes that was fixed beforehand: who looks again and again and "
    "stops when p is small finds, far more often than one time in twenty, a preference that is not there. The interval "
    "at any time, which is wider, holds however often you look."
)
# Of the report's own parts, on its page and on that of the study.
PARTS = """
.report .wide {overflow-x: auto;}
.report .wide :is(th, td) {white-space: nowrap;}
.forest {max-width: 40rem; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums;}
.forest .line {display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 1rem; align-items: center;}
.forest .line > :first-child {overflow-wrap: anywhere;}
.forest .part {font-size: .85em; opacity: .75;}
.forest .part > :first-child {padding-left: 1rem;}
.forest .axis {position: relative; min-height: 1.5rem; align-self: stretch;}
.forest .axis > * {position: absolute;}
.forest .half {top: 0; bottom: 0; border-left: 1px dashed currentColor; opacity: .5;}
.forest .range {top: calc(50% - 1px); border-top: 2px solid currentColor;}
.forest .point {top: calc(50% - .3rem); width: .6rem; height: .6rem; margin-left: -.3rem; border-radius: 50%;
  background: currentColor;}
.forest .ends {font-size: .85em; opacity: .75;}
.forest .ends > * {transform: translateX(-50%); white-space: nowrap;}
.forest .ends > :first-child {transform: none;}
.forest .ends > :last-child {transform: translateX(-100%);}
"""
BODY = """
<div class="report">
<p>{{ votes }} votes of {{ raters }} rater{{ "" if raters == 1 else "s" }} on {{ prompts }}
prompt{{ "" if prompts == 1 else "s" }}.
{% if excluded_raters %}Left out: {{ excluded_votes }} votes of {{ excluded_raters | join(", ") }}, who failed attention
checks.{% endif %}
{% if left.rate is not none %}The left picture won {{ left.rate | percent }} of the decided votes
(p = {{ left.p | p }}).{% endif %}</p>
{% for question, found in questions.items() %}
<h2>{{ question }}</h2>
<ul>
{% for pair in found.pairs %}<li>{{ pair | sentence }}.</li>
{% endfor %}
</ul>
{% set plot = found.pairs | forest %}
{% if plot %}
<div class="forest" role="img" aria-label="Win rates with their 95 % intervals; the table below has the numbers">
{% for row in plot.rows %}
<div class="line{% if row.part %} part{% endif %}"><span>{{ row.name }}</span><div class="axis">
<i class="half" style="left: {{ plot.half }}%"></i>
<i class="range" style="left: {{ row.low }}%; width: {{ row.width }}%"></i>
<i class="point" style="left: {{ row.rate }}%"></i></div></div>
{% endfor %}
<div class="line"><span></span><div class="axis ends"><span style="left: 0">{{ plot.first }} %</span>
<span style="left: {{ plot.half }}%">{{ "50 %" if 15 < plot.half < 85 }}</span>
<span style="left: 100%">{{ plot.last }} %</span></div></div>
</div>
{% endif %}
<div class="wide" tabindex="0"><table>
<tr><th>method</th><th>against</th><th>votes</th><th>wins, ties, losses</th><th>both bad</th><th>win rate</th>
<th>at any time</th><th>p</th><th>p, Holm</th>
<th>with ties as halves</th></tr>
{% for pair in found.pairs %}
{% for name, row in [("", pair)] + pair.categories | dictsort %}
<tr{% if name %} class="part"{% endif %}><td>{{ name or pair.a }}</td><td>{{ "" if name else pair.b }}</td>
<td>{{ row.votes }}</td><td>{{ row.a_wins }}, {{ row.ties }}, {{ row.b_wins }}</td><td>{{ row.bad }}</td>
<td>{% if row.decided.rate is not none %}{{ row.decided.rate | percent }}
<small>{{ row.decided.low | percent }} – {{ row.decided.high | percent }}</small>{% else %}–{% endif %}</td>
<td>{% if row.anytime.low is not none %}{{ row.anytime.low | percent }} – {{ row.anytime.high | percent }}{% else %}–
{% endif %}</td>
<td>{{ row.decided.p | p }}</td><td>{{ row.decided.p_holm | p }}</td>
<td>{{ "–" if row.with_ties.rate is none else row.with_ties.rate | percent }}{% if row.with_ties.interval %}
<small>{{ row.with_ties.interval[0] | percent }} – {{ row.with_ties.interval[1] | percent }}</small>{% endif %}</td>
</tr>
{% endfor %}
{% endfor %}
</table></div>
<p>Krippendorff's alpha: {% if found.alpha is none %}not known, as it takes pairs that two raters saw and more than one
answer{% else %}{{ "%.2f" | format(found.alpha) }}{% endif %}.</p>
{% if found.strengths | length > 2 %}
<div class="wide" tabindex="0"><table>
<tr><th>method</th><th>Bradley–Terry strength, Elo points</th></tr>
{% for row in found.strengths %}
<tr><td>{{ row.method }}</td><td>{{ row.strength | points }}{% if row.low is not none %}
<small>{{ row.low | points }} to {{ row.high | points }}</small>{% endif %}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% else %}
<p>No vote that counts yet.</p>
{% endfor %}
{% if questions %}
<p>Win rate: among votes for one of the two, with the 95 % Wilson interval and the two-sided exact test of one half,
which take votes to be independent. At any time: the 95 % interval of that rate for whoever looks after every vote.
Holm: p for as many comparisons as there are, of all pairs and questions, and apart from these of all categories; what
is preferred in a sentence is so by it. With ties as halves: the 95 % interval of a bootstrap over prompts, which does
not take votes to be independent. That both are bad counts in none of these.</p>
<p>{{ looks }}</p>
{% endif %}
{% if judges %}
<h2>Judges</h2>
<div class="wide" tabindex="0"><table>
<tr><th>judge</th><th>question</th><th>agrees with people</th><th>decided votes</th><th>two raters agree</th></tr>
{% for row in judges %}{% for question, found in row.agreement.items() %}
<tr><td>{{ row.judge }}</td><td>{{ question }}</td><td>{{ found.rate | percent }}{% if found.interval %}
<small>{{ found.interval[0] | percent }} – {{ found.interval[1] | percent }}</small>{% endif %}</td>
<td>{{ found.votes }}</td>
<td>{{ "–" if people[question] is none else people[question] | percent }}</td></tr>
{% endfor %}{% endfor %}
</table></div>
<div class="wide" tabindex="0"><table>
<tr><th>judge</th><th>method</th><th>against</th><th>higher score</th><th>pairs of pictures</th><th>ties</th></tr>
{% for row in judges %}{% for pair in row.pairs %}
<tr><td>{{ row.judge }}</td><td>{{ pair.a }}</td><td>{{ pair.b }}</td>
<td>{{ pair.rate | percent }}{% if pair.interval %}
<small>{{ pair.interval[0] | percent }} – {{ pair.interval[1] | percent }}</small>{% endif %}</td>
<td>{{ pair.pictures }}</td><td>{{ pair.ties }}</td></tr>
{% endfor %}{% endfor %}
</table></div>
<p>The 95 % intervals are of a bootstrap over prompts. A judge agrees where it gives the picture that a rater chose the
higher score; its ties count as half in both tables.</p>
{% endif %}
{% if per_rater %}
<h2>Raters</h2>
<div class="wide" tabindex="0"><table>
<tr><th>rater</th><th>votes</th><th>ties</th><th>both bad</th>
<th>left, of decided</th><th>checks passed</th><th>seconds a vote</th></tr>
{% for row in per_rater %}
<tr><td>{{ row.rater }}{% if row.rater in excluded_raters %} <small>left out</small>{% endif %}</td>
<td>{{ row.votes }}</td>
<td>{{ "–" if row.ties is none else row.ties | percent }}</td>
<td>{{ "–" if row.bad is none else row.bad | percent }}</td>
<td>{{ "–" if row.left is none else row.left | percent }}</td>
<td>{{ "–" if not row.checks else "%d of %d" | format(row.checks_passed, row.checks) }}</td>
<td>{{ "–" if row.seconds is none else "%.1f" | format(row.seconds) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
</div>
"""
WHOLE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Report</title><style>{{ style | safe }}{{ parts | safe }}</style><h1>Report</h1>{{ body | safe }}</html>
"""


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def sentence(pair: dict[str, Any]) -> str:
    """What the votes on two methods say, the one that won more of them first."""
    counts = f"{pair['ties']} ties" if pair["ties"] != 1 else "1 tie"
    if pair["bad"]:
        counts += f", {pair['bad']} for both bad"
    votes = f"{pair['votes']} vote{'s' * (pair['votes'] != 1)}, {counts},"
    votes += f" by {pair['raters']} rater{'s' * (pair['raters'] != 1)}"
    first, second, decided = pair["a"], pair["b"], pair["decided"]
    if decided["rate"] is None:
        return f"{first} and {second} were never told apart: {votes}"
    rate, low, high = (100 * decided[key] for key in ("rate", "low", "high"))
    if rate < 50:
        first, second, rate, low, high = second, first, 100 - rate, 100 - high, 100 - low
    is_preferred = "is" if decided["p_holm"] < LEVEL else "is not shown to be"
    p = f"p {_relation(decided['p'])}"
    if decided["p_holm"] != decided["p"]:
        p += f" (by Holm {_p(decided['p_holm'])})"
    return f"{first} {is_preferred} preferred to {second}: {rate:.1f} %, 95 % {low:.1f}–{high:.1f}, {p}, {votes}"


def _relation(p: float) -> str:
    return f"{'' if p < 1e-4 else '= '}{_p(p)}"


def forest(pairs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Where points and intervals of pairs and their categories lie, in percent of a line's width; `None` where no vote
    was decided."""
    rows = []
    for pair in pairs:
        named = [(f"{pair['a']} against {pair['b']}", pair), *sorted(pair["categories"].items())]
        rows += [(name, row is not pair, row["decided"]) for name, row in named if row["decided"]["rate"] is not None]
    if not rows:
        return None
    first = 10 * math.floor(min(0.5, *(found["low"] for *_, found in rows)) * 10 - 1e-9)
    last = 10 * math.ceil(max(0.5, *(found["high"] for *_, found in rows)) * 10 + 1e-9)
    first, last = max(0, first), min(100, last)

    def at(value: float) -> float:
        return round(100 * (100 * value - first) / (last - first), 2)

    lines = [
        {
            "name": name,
            "part": part,
            "rate": at(found["rate"]),
            "low": at(found["low"]),
            "width": round(at(found["high"]) - at(found["low"]), 2),
        }
        for name, part, found in rows
    ]
    return {"rows": lines, "half": at(0.5), "first": first, "last": last}


_environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
_environment.filters["p"] = _p
_environment.filters |= {"sentence": sentence, "forest": forest}
_environment.globals["looks"] = LOOKS
_environment.filters["points"] = lambda value: f"{round(value):+d}"


def fragment(summary: dict[str, Any]) -> str:
    """The report as a part of a page. Everything in it is escaped."""
    return _environment.from_string(BODY).render(summary)


def page(summary: dict[str, Any]) -> str:
    """The report as a page of its own."""
    return _environment.from_string(WHOLE).render(style=STYLE, parts=PARTS, body=fragment(summary))


def text(summary: dict[str, Any]) -> str:
    """A line for each pair of methods, after one for who votes and one for who does not count."""
    lines = [f"{summary['votes']} votes of {summary['raters']} raters on {summary['prompts']} prompts"]
    if summary["excluded_raters"]:
        names = ", ".join(summary["excluded_raters"])
        lines.append(f"left out: {summary['excluded_votes']} votes of {names}, who failed attention checks")
    for question, found in summary["questions"].items():
        for pair in found["pairs"]:
            lines.append(f"{question}: {sentence(pair)}")
            if (low := pair["anytime"]["low"]) is not None:
                high = pair["anytime"]["high"]
                if pair["decided"]["rate"] < 0.5:
                    low, high = 1 - high, 1 - low
                lines[-1] += f"; at any time {100 * low:.1f}–{100 * high:.1f} %"
    if "judges" in summary:
        lines += judges.text(summary)
    if summary["questions"]:
        lines.append(LOOKS)
    return "\n".join(lines)
