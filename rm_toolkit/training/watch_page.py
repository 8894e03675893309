"""The live page of a run: one HTML file without a script, which the browser reloads from the disk while it trains."""

from __future__ import annotations

import datetime
import html
from collections.abc import Iterable

from ..output.line_chart import NUM_COLORS, figure, line_chart
from ..output.page.document import ASSETS
from .watching import RUNNING, STOPPED, WatchedRun


IN_WORDS = {STOPPED: "stopped before its end; --resume_from_checkpoint auto resumes from its last checkpoint"}
FIRST = ("loss", "rank_loss", "lm_loss", "accuracy", "margin", "learning_rate", "grad_norm")
LEADING = ("accuracy", "loss", "margin")  # the first metrics of test sets
# Beside the style that all pages share.
STYLE = """
:root { --line-0: #0072b2; --line-1: #d55e00; --line-2: #00875f; --line-3: #b4528f; --line-4: #a87400; --line-5: #3a8fc4; --line-6: #333; }
@media (prefers-color-scheme: dark) { :root { --line-0: #6cbcf0; --line-1: #f2965c; --line-2: #4cc79c; --line-3: #dd9ac4; --line-4: #e6b94f;
  --line-5: #a5d3f2; --line-6: #ddd; } }
main { max-width: 1240px; margin: 0 auto; padding: 1.2rem 1.5rem 3rem; display: grid; gap: 1.4rem; }
.second { color: var(--second); font-size: .88rem; }
.done { height: .5rem; border-radius: .25rem; background: var(--line); overflow: hidden; } .done i { display: block; height: 100%; background: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
main section { display: block; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; min-width: 0; }
section h2 { font-size: .95rem; }
svg { display: block; width: 100%; height: auto; margin-top: .4rem; } svg text { fill: var(--second); font-size: 12px; } .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
section ul { list-style: none; margin: .4rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .85rem; }
li { overflow-wrap: anywhere; min-width: 0; } li b { font-weight: 600; } li i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
.results { width: 100%; margin-top: .3rem; } .results tr + tr > *, .results tbody tr:first-child > * { border-top: 1px solid var(--soft); }
"""


def watch_page(run: WatchedRun, seconds: float) -> str:
    """
    Returns the page of a run.

    Args:
        run (`WatchedRun`): From [`~rm_toolkit.training.watching.read_run`].
        seconds (`float`): Reload interval while it is running.
    """
    name = html.escape(run.folder.resolve().name)
    refresh = f'<meta http-equiv="refresh" content="{seconds:g}">' if run.state == RUNNING else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    shared = (ASSETS / "page.css").read_text(encoding="utf-8")
    parts = [_head(run), _progress(run), _results(run), _charts(run)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{name}: {run.state}</title><style>{shared}{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _head(run: WatchedRun) -> str:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    said = [IN_WORDS.get(run.state, run.state), *([run.stage] if run.stage else [])]
    said += [f"since {run.since}"] if run.since else []
    said += [run.unseen] if run.unseen else []
    return (
        f"<header><h1>{html.escape(str(run.folder))}</h1>"
        f'<p class="second">{html.escape(", ".join(said))}; written {now}</p></header>'
    )


def _progress(run: WatchedRun) -> str:
    if not run.history:
        return "<p>Nothing was logged yet.</p>"
    if run.max_steps is None:
        return f"<p>step {run.step:,}</p>"
    share = min(1.0, run.step / run.max_steps)
    return (
        f'<div><p>step {run.step:,} of {run.max_steps:,} ({share:.0%})</p><div class="done"><i style="width:{share:.2%}"></i>'
        "</div></div>"
    )


def _results(run: WatchedRun) -> str:
    """The first and the last evaluation of each test set."""
    rows = []
    for name, first, last in run.results():
        cells = [f"{_value(first, key)} → {_value(last, key)}" for key in ("accuracy", "margin", "loss")]
        cells += [f"{int(last.get('num_pairs') or 0):,}", f"{int(last['step']):,}"]
        rows.append(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(f'<td class="number">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    if not rows:
        return ""
    names = ("accuracy", "margin", "loss", "pairs", "step")
    heads = "<th>test set</th>" + "".join(f'<th class="number">{name}</th>' for name in names)
    return (
        '<section><h2>Test sets, first → last evaluation</h2><div class="scroll"><table class="results"><thead><tr>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _value(values: dict[str, float], key: str) -> str:
    value = values.get(key)
    return "–" if value is None else f"{value:.4f}"


def _charts(run: WatchedRun) -> str:
    """One chart per metric of the test sets, with a line per set; and one for each other logged value."""
    series = run.series()
    sets = [name for name, _, _ in run.results()]
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in [*FIRST, *series]:
        if name in series and not name.startswith("eval_"):
            charts.setdefault(name, {name: series[name]})
    of_sets: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in series.items():
        if name.startswith("eval_"):
            own = next((s for s in sorted(sets, key=len, reverse=True) if name.startswith(f"eval_{s}_")), None)
            metric = name.removeprefix(f"eval_{own}_" if own else "eval_")
            of_sets.setdefault(metric, {})[name] = points
    ordered = [*(m for m in LEADING if m in of_sets), *(m for m in of_sets if m not in LEADING)]
    charts = {f"{metric} of the test sets": of_sets[metric] for metric in ordered[:1]} | charts | {
        f"{metric} of the test sets": of_sets[metric] for metric in ordered[1:]
    }  # fmt: skip
    if not charts:
        return ""
    return (
        '<div class="charts">' + "".join(_chart(title, lines, run.step) for title, lines in charts.items()) + "</div>"
    )


def _chart(title: str, lines: dict[str, list[tuple[float, float]]], last_step: int) -> str:
    return (
        f"<section><h2>{html.escape(title)}</h2>{line_chart(lines, title, last_step)}"
        f"<ul>{''.join(_legend(lines))}</ul></section>"
    )


def _legend(lines: dict[str, list[tuple[float, float]]]) -> Iterable[str]:
    for number, (name, points) in enumerate(lines.items()):
        color = f"background:var(--line-{number % NUM_COLORS})"
        yield f'<li><i style="{color}"></i>{html.escape(name)} <b>{figure(points[-1][1])}</b></li>'
