"""A bar chart as SVG, readable on light and on dark pages: a bar for each median, a whisker from least to most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from attrs import frozen

WIDTH, LABELS, NUMBERS = 760, 190, 110
"""Pixels: all of it, the names on the left, the numbers on the right."""

BAR, GAP, GROUP, TOP = 20, 6, 34, 40
"""Pixels: the height of a bar, between bars, the line of a group's name, the line of the title."""

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 15px; }
.quiet { fill: #59636e; }
.bar { fill: #9aa4af; }
.ours { fill: #1f6feb; }
.whisker { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .quiet { fill: #9198a1; }
  .bar { fill: #59636e; }
  .ours { fill: #4493f8; }
  .whisker { stroke: #e6edf3; }
}"""


@frozen
class Bar:
    """name: whose. values: of all rounds, not empty. text: of a value, as it is written. ours: it stands out."""

    name: str
    values: tuple[float, ...]
    text: str
    ours: bool = False


@frozen
class Group:
    """Bars with one scale. label: over them."""

    label: str
    bars: tuple[Bar, ...]


def _bar(bar: Bar, y: float, scale: float) -> list[str]:
    """One bar, its name, its whisker and its number."""
    middle = y + BAR / 2
    width = max(statistics.median(bar.values), 0.0) * scale
    least, most = (LABELS + max(value, 0.0) * scale for value in (min(bar.values), max(bar.values)))
    lines = [
        f'<text x="{LABELS - 10}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(bar.name)}</text>',
        f'<rect class="{"bar ours" if bar.ours else "bar"}" x="{LABELS}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{BAR}" rx="2"/>',
    ]
    if len(bar.values) > 1:
        lines.append(f'<path class="whisker" d="M{least:.1f} {middle:.1f}H{most:.1f}"/>')
        lines += [f'<path class="whisker" d="M{x:.1f} {middle - 4:.1f}v8"/>' for x in (least, most)]
    right = max(LABELS + width, most) + 8
    lines.append(f'<text x="{right:.1f}" y="{middle + 4.5:.1f}">{escape(bar.text)}</text>')
    return lines


def draw(title: str, groups: Sequence[Group]) -> str:
    """The picture. Raises ValueError when there is nothing to draw."""
    if not any(group.bars for group in groups):
        raise ValueError(f"nothing to draw for {title}")
    body: list[str] = []
    y = float(TOP)
    for group in groups:
        if group.label:
            body.append(f'<text class="quiet" x="10" y="{y + 16:.1f}">{escape(group.label)}</text>')
            y += GROUP - GAP
        most = max((max(bar.values) for bar in group.bars), default=0.0)
        scale = (WIDTH - LABELS - NUMBERS) / most if most > 0 else 0.0
        for bar in group.bars:
            body += _bar(bar, y, scale)
            y += BAR + GAP
        y += GAP
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}" '
        'role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE}\n</style>",
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
    ]
    return "\n".join([*head, *body, "</svg>", ""])
