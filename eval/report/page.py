"""A report as one page of HTML: no file beside it, no script, light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from . import diagnoses, streams, tables
from .group import words
from .measure import Curve, curve, tag_of
from .picture import Line, chart
from .tables import Table, View

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--paper:#fff;--shade:#f4f6f8;--rule:#d5dbe1;
--c0:#0b62a8;--c1:#c4500c;--c2:#0a7f5b;--c3:#a3357c;--c4:#8a6d00;--c5:#4a4fc4;--c6:#b3232f;--c7:#58606b}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4af;--paper:#14171b;--shade:#1d2127;--rule:#363d46;
--c0:#6cb6ff;--c1:#ff9e57;--c2:#4fd1a1;--c3:#f08bc8;--c4:#e3c341;--c5:#a5a8ff;--c6:#ff7b83;--c7:#b4bcc6}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:76rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.25rem;margin:2.5rem 0 .25rem;padding-top:1rem;
border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.5rem 0 .4rem}a{color:var(--c0)}p{margin:.4rem 0}.soft{color:var(--soft);font-size:.87rem}
nav ul{margin:.3rem 0;padding-left:1.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .7rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem 1.5rem}
figure{margin:.8rem 0}figcaption{font-weight:600;font-size:.95rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;color:var(--soft);font-size:.82rem}
.swatch{width:24px;height:8px;margin-right:.35rem;vertical-align:middle}
figure>svg{width:100%;max-width:44rem;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--rule);stroke-width:1}.line{fill:none;stroke-width:2;stroke-linejoin:round}.band{opacity:.17}
.near{fill:transparent}pre{background:var(--shade);padding:.7rem;white-space:pre-wrap;font-size:.83rem}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--soft)}
""".strip()


def page(title: str, heading: str, views: Sequence[View], notes: Sequence[str]) -> str:
    """Return the page.

    Args:
        title: of the page.
        heading: a line below it: when, and by which version.
        views: the tasks.
        notes: lines on runs that were left out, or are not what they seem.
    """
    anchors = [f"task-{number}" for number in range(1, len(views) + 1)]
    entries = ["; ".join(entry.name for entry in view.task.entries) for view in views]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(view.task.title)}</a>: {escape(names)}</li>'
        for anchor, view, names in zip(anchors, views, entries, strict=True)
    )
    told = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(heading)}</p><nav aria-label="contents"><ul>{contents}</ul></nav>'
        + (f"<h3>Notes</h3><ul>{told}</ul>" if told else "")
        + (_table(joined) if (joined := tables.across(views)) else "")
        + "".join(_task(anchor, view) for anchor, view in zip(anchors, views, strict=True))
        + "</body></html>\n"
    )


def _task(anchor: str, view: View) -> str:
    env = view.task.env
    options = ", ".join(words(name, env) for name in env if name != "name" and env[name] is not None)
    shown: list[str] = [f'<h2 id="{anchor}">{escape(view.task.title)}</h2><p class="soft">{escape(options)}</p>']
    shown += [_table(tables.results(view)), _table(tables.cost(view))]
    shown.append(_curves(view))
    shown.append(_trials(view))
    shown += [_table(found) for found in (tables.pairs(view), tables.other_tasks(view)) if found]
    for kind in streams.kinds(view.task.entries):
        shown += [_table(streams.table(kind)), f'<div class="charts">{"".join(streams.charts(kind))}</div>']
        shown.append(_folded(streams.by_time(kind)))
    for look in diagnoses.looks(view.task.entries):
        shown += [_table(found) for found in diagnoses.tables_of(look)]
        shown.append(f'<div class="charts">{"".join(diagnoses.charts(look))}</div>')
    shown.append(_commands(view))
    shown += [_folded(found) for found in (tables.settings(view), tables.runs(view)) if found]
    return "".join(shown)


def _curves(view: View) -> str:
    """Return charts of the figure that the task is judged by, and of the usual others, with their numbers."""
    main = view.scores.figure
    charts, numbers = [], []
    for figure in dict.fromkeys((main, "success", "return", "gain")):
        for against in ("steps", "seconds") if figure == main else ("steps",):
            tag = tag_of(view.task, figure)
            found = {entry.name: curve(entry, tag, against) for entry in view.task.entries}
            lines = [
                Line(name, place, each.x.tolist(), each.y) for place, (name, each) in enumerate(found.items()) if each
            ]
            if not lines:
                continue
            lines += _levels(view, figure, lines)
            how = "evaluations, greedy" if tag.startswith("eval/") else "episodes of training, drawn actions"
            title = f"{figure} against {against}: {how}"
            charts.append(chart(title, against, figure, lines))
            numbers.append(_numbers(title, against, {name: each for name, each in found.items() if each}))
    if not charts:
        return ""
    note = (
        "Lines are interquartile means over seeds, bands their bootstrap 95 % intervals (none for one seed). "
        "A solved run keeps its last figure; where another run ends, the curve of its entry ends."
    )
    return (
        f'<h3>Curves</h3><div class="charts">{"".join(charts)}</div><p class="soft">{note}</p>'
        f"<details><summary>the curves in numbers</summary>{''.join(numbers)}</details>"
    )


def _levels(view: View, figure: str, lines: Sequence[Line]) -> list[Line]:
    """Return what references reach, level from the first place of some lines to the last."""
    ends = [min(line.x[0] for line in lines), max(line.x[-1] for line in lines)]
    found = {name: each.figures[figure] for name, each in view.references.items() if figure in each.figures}
    return [Line(name, len(view.task.entries) + place, ends, [y, y]) for place, (name, y) in enumerate(found.items())]


def _numbers(title: str, against: str, curves: dict[str, Curve]) -> str:
    """Return a table of curves at some places."""
    lines = []
    for name, found in curves.items():
        shown = tables.thinned(len(found.x), 10)
        lines += [[name, f"{found.x[place]:,.0f}", tables.interval(found.y[place])] for place in shown]
    return _table(Table(title, ["entry", against, "figure"], lines))


def _trials(view: View) -> str:
    shown = []
    for figure, columns in tables.trials(view).items():
        lines = [
            Line(name, place, list(range(1, len(column) + 1)), column)
            for place, (name, column) in enumerate(columns.items())
        ]
        made = tables.trial(figure, columns)
        long = max(map(len, columns.values())) > tables.MOST_PLACES
        shown += [chart(made.title, "episode", figure, lines, log_x=long), _table(made, titled=False)]
    return "".join(shown)


def _commands(view: View) -> str:
    shown = []
    for entry in view.task.entries:
        found = tables.commands(entry)
        said = "\n".join(found) if found else f"(not recorded; {entry.runs[0].path}/config.json has every option)"
        shown.append(f"<p><b>{escape(entry.name)}</b></p><pre>{escape(said)}</pre>")
    return f"<h3>Commands</h3>{''.join(shown)}"


def _folded(found: Table) -> str:
    return f"<details><summary>{escape(found.title)}</summary>{_table(found, titled=False)}</details>"


def _table(found: Table, *, titled: bool = True) -> str:
    found = found.filled()
    head = "".join(f"<th>{escape(cell)}</th>" for cell in found.header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in found.lines)
    note = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(found.note))
    return (
        (f"<h3>{escape(found.title)}</h3>" if titled else "")
        + f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + (f'<p class="soft">{note}</p>' if note else "")
    )
