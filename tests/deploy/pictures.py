"""Each panel of the dashboard as a small chart, in one SVG file for a person to look at."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

Series = Sequence[tuple[float, float]]

_WIDTH: Final = 400
_HEIGHT: Final = 150
_COLUMNS: Final = 3
_LINES: Final = ("#3274d9", "#e0752d", "#56a64b", "#b877d9", "#e02f44", "#8f8f8f", "#f2cc0c")


def points(found: Mapping[str, Any]) -> Series:
    """The points of one series as Prometheus gives it; those that are no number are left out."""
    pairs = [(float(at), float(text)) for at, text in found["values"]]
    return [(at, value) for at, value in pairs if value == value]  # noqa: PLR0124 - NaN


def svg(panels: Mapping[str, Sequence[Series]]) -> str:
    """One chart for each panel, three in a row."""
    rows = -(-len(panels) // _COLUMNS)
    charts = "".join(
        f'<g transform="translate({number % _COLUMNS * _WIDTH},{number // _COLUMNS * _HEIGHT})">'
        f"{''.join(_chart(title, lines))}</g>"
        for number, (title, lines) in enumerate(panels.items())
    )
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    back = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{back}{charts}</svg>\n'


def _chart(title: str, lines: Sequence[Series]) -> Iterator[str]:
    every = [point for line in lines for point in line]
    yield f'<text x="8" y="14" font-weight="bold">{escape(title)}</text>'
    if not every:
        yield '<text x="8" y="80" fill="#e02f44">nothing</text>'
        return
    start, end = min(at for at, _ in every), max(at for at, _ in every)
    top = max(value for _, value in every)
    yield f'<text x="8" y="28" fill="#888">up to {top:.4g}, {len(lines)} series</text>'
    for number, line in enumerate(lines):
        drawn = " ".join(
            f"{8 + (at - start) / (end - start or 1) * (_WIDTH - 24):.1f},"
            f"{_HEIGHT - 10 - value / (top or 1) * (_HEIGHT - 50):.1f}"
            for at, value in line
        )
        colour = _LINES[number % len(_LINES)]
        yield f'<polyline fill="none" stroke="{colour}" points="{drawn}"/>'
