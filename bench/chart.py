"""Charts as SVG by hand, on paper of their own, which is dark where the reader's is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 760
LABELS: Final = 280
FIGURES: Final = 70
ROW: Final = 34
HEAD: Final = 64
FOOT: Final = 14

PANEL_WIDTH: Final = 250
PANEL_HEIGHT: Final = 190
PANEL_COLUMNS: Final = 3
PLOT: Final = (44, 34, 190, 100)
"""Left, top, width and height of what is plotted inside a panel."""

_NAMESPACE: Final = "http://www.w3.org/2000/svg"
_STYLE: Final = """<style>
text { font: 13px system-ui, "Segoe UI", sans-serif; fill: #1f2328 }
.paper { fill: #ffffff }
.title { font-size: 16px; font-weight: 600 }
.quiet { font-size: 12px; fill: #59636e }
.axis { stroke: #818b98; stroke-width: 1 }
.ours { fill: #1a7f64 } .theirs { fill: #8c9aa9 }
.range, .line { stroke: #1f2328; stroke-width: 1.5; fill: none }
.line { stroke: #1a7f64; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 }
  .ours { fill: #3fb68f } .theirs { fill: #5d6b7a }
  .range { stroke: #e6edf3 } .line { stroke: #3fb68f }
}
</style>"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure with its range."""

    label: str
    value: float
    least: float
    most: float
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """How a figure grows: one value for each named step."""

    title: str
    steps: Sequence[str]
    values: Sequence[float]


def bars(title: str, subtitle: str, rows: Sequence[Bar]) -> str:
    """Draw horizontal bars, the range of each as a thin line over its end."""
    scale = (WIDTH - LABELS - FIGURES) / max(row.most for row in rows)
    drawn = [_bar(row, HEAD + number * ROW, scale) for number, row in enumerate(rows)]
    height = HEAD + len(rows) * ROW + FOOT
    return _svg(WIDTH, height, title, subtitle, drawn)


def _bar(row: Bar, top: float, scale: float) -> str:
    middle = top + ROW / 2 - 3
    kind = "ours" if row.is_ours else "theirs"
    end = LABELS + row.most * scale
    return "\n".join(
        (
            _text(LABELS - 10, middle + 4, row.label, anchor="end"),
            _rect(kind, LABELS, top, row.value * scale),
            f'<path class="range" d="M{LABELS + row.least * scale:.1f} {middle:.1f}H{end:.1f}"/>',
            _text(end + 8, middle + 4, f"{row.value:,.0f}"),
        )
    )


def _rect(kind: str, x: float, y: float, width: float) -> str:
    height = ROW - 10
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="{height}" rx="2"/>'


def panels(title: str, subtitle: str, found: Sequence[Panel]) -> str:
    """Draw small charts side by side, each from zero, so that a slope is what it seems."""
    drawn = [
        f'<g transform="translate({number % PANEL_COLUMNS * PANEL_WIDTH}'
        f' {HEAD + number // PANEL_COLUMNS * PANEL_HEIGHT})">{_panel(panel)}</g>'
        for number, panel in enumerate(found)
    ]
    lines = -(-len(found) // PANEL_COLUMNS)
    return _svg(WIDTH, HEAD + lines * PANEL_HEIGHT, title, subtitle, drawn)


def _panel(panel: Panel) -> str:
    left, top, width, height = PLOT
    gap = width / max(1, len(panel.values) - 1)
    most = max(panel.values)
    points = [
        (left + number * gap, top + height * (1 - value / most))
        for number, value in enumerate(panel.values)
    ]
    bottom = top + height
    return "\n".join(
        (
            _text(left, top - 16, panel.title),
            f'<path class="axis" d="M{left} {bottom}H{left + width}"/>',
            _text(left - 6, top + 4, _short(most), kind="quiet", anchor="end"),
            _text(left - 6, bottom + 4, "0", kind="quiet", anchor="end"),
            f'<path class="line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>',
            *(f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points),
            *(
                _text(x, bottom + 18, step, kind="quiet", anchor="middle")
                for (x, _), step in zip(points, panel.steps, strict=True)
            ),
        )
    )


def _short(value: float) -> str:
    return f"{value / 1000:,.0f}k" if value >= 1000 else f"{value:,.0f}"  # noqa: PLR2004


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    styled = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{styled} text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: float, title: str, subtitle: str, drawn: Sequence[str]) -> str:
    size = f'width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    return "\n".join(
        (
            f'<svg xmlns="{_NAMESPACE}" {size} role="img" aria-label="{escape(title)}">',
            _STYLE,
            '<rect class="paper" width="100%" height="100%" rx="6"/>',
            _text(12, 24, title, kind="title"),
            _text(12, 44, subtitle, kind="quiet"),
            *drawn,
            "</svg>\n",
        )
    )
