"""How a report looks: as a page of its own, as a part of another, and as text."""

from typing import Any

import jinja2

from ..gallery import STYLE

BODY = """
<div class="report">
<p>{{ votes }} votes of {{ raters }} rater{{ "" if raters == 1 else "s" }} on {{ prompts }}
prompt{{ "" if prompts == 1 else "s" }}.
{% if excluded_raters %}Left out: {{ excluded_votes }} votes of {{ excluded_raters | join(", ") }}, who failed attention
checks.{% endif %}
{% if left.rate is not none %}The left picture won {{ left.rate | percent }} of the decided votes
(p = {{ left.p | p }}).{% endif %}</p>
{% for question, found in questions.items() %}
<h3>{{ question }}</h3>
<div class="wide"><table>
<tr><th>method</th><th>against</th><th>votes</th><th>wins, ties, losses</th><th>win rate</th><th>p</th>
<th>with ties as halves</th></tr>
{% for pair in found.pairs %}
{% for name, row in [("", pair)] + pair.categories | dictsort %}
<tr{% if name %} class="part"{% endif %}><td>{{ name or pair.a }}</td><td>{{ "" if name else pair.b }}</td>
<td>{{ row.votes }}</td><td>{{ row.a_wins }}, {{ row.ties }}, {{ row.b_wins }}</td>
<td>{% if row.decided.rate is not none %}{{ row.decided.rate | percent }}
<small>{{ row.decided.low | percent }} – {{ row.decided.high | percent }}</small>{% else %}–{% endif %}</td>
<td>{{ row.decided.p | p }}</td>
<td>{{ row.with_ties.rate | percent }}{% if row.with_ties.interval %}
<small>{{ row.with_ties.interval[0] | percent }} – {{ row.with_ties.interval[1] | percent }}</small>{% endif %}</td>
</tr>
{% endfor %}
{% endfor %}
</table></div>
<p>Krippendorff's alpha: {% if found.alpha is none %}not known, as it takes pairs that two raters saw and more than one
answer{% else %}{{ "%.2f" | format(found.alpha) }}{% endif %}.</p>
{% if found.strengths | length > 2 %}
<div class="wide"><table>
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
<p>Win rate: among votes that were no tie, with the 95 % Wilson interval and the two-sided exact test of one half, which
take votes to be independent. With ties as halves: the 95 % interval of a bootstrap over prompts, which does not.</p>
{% endif %}
{% if per_rater %}
<h3>Raters</h3>
<div class="wide"><table>
<tr><th>rater</th><th>votes</th><th>ties</th><th>left, of decided</th><th>checks passed</th><th>seconds a vote</th></tr>
{% for row in per_rater %}
<tr><td>{{ row.rater }}{% if row.rater in excluded_raters %} <small>left out</small>{% endif %}</td>
<td>{{ row.votes }}</td>
<td>{{ "–" if row.ties is none else row.ties | percent }}</td>
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
<title>Report</title><style>{{ style | safe }}</style><h1>Report</h1>{{ body | safe }}</html>
"""


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


_environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
_environment.filters["p"] = _p
_environment.filters["points"] = lambda value: f"{round(value):+d}"


def fragment(summary: dict[str, Any]) -> str:
    """The report as a part of a page. Everything in it is escaped."""
    return _environment.from_string(BODY).render(summary)


def page(summary: dict[str, Any]) -> str:
    """The report as a page of its own."""
    return _environment.from_string(WHOLE).render(style=STYLE, body=fragment(summary))


def text(summary: dict[str, Any]) -> str:
    """A line for each pair of methods, after one for who votes and one for who does not count."""
    lines = [f"{summary['votes']} votes of {summary['raters']} raters on {summary['prompts']} prompts"]
    if summary["excluded_raters"]:
        names = ", ".join(summary["excluded_raters"])
        lines.append(f"left out: {summary['excluded_votes']} votes of {names}, who failed attention checks")
    for question, found in summary["questions"].items():
        for pair in found["pairs"]:
            names = f"{pair['a']} against {pair['b']}"
            line = f"{question}: {names}: {pair['a_wins']} wins, {pair['ties']} ties, {pair['b_wins']} losses"
            if pair["decided"]["rate"] is not None:
                rate, low, high = (100 * pair["decided"][key] for key in ("rate", "low", "high"))
                line += f", {rate:.1f} % ({low:.1f} – {high:.1f}), p = {_p(pair['decided']['p'])}"
            lines.append(line)
    return "\n".join(lines)
