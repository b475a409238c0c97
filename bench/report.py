"""What a benchmark leaves: a table on the screen, JSON and a chart in a folder."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.targets import Verdict

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Align columns under their heads: the first to the left, the others to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def verdicts(found: Iterable[Verdict]) -> str:
    """Lay out figures beside their targets."""
    rows = [
        (
            outcome.figure,
            "-" if outcome.measured is None else f"{outcome.measured:.2f}{outcome.unit}",
            f"{'≤' if outcome.at_most else '≥'} {outcome.target:g}{outcome.unit}",
            outcome.word,
            outcome.remark,
        )
        for outcome in found
    ]
    return table(("figure", "measured", "target", "", ""), rows)


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown, and files by their names."""

    text: str
    files: Mapping[str, str]

    def deliver(self, folder: Path) -> None:
        """Print, write the files into the folder, and say where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [self.text, ""]
        for name, content in self.files.items():
            path = folder / name
            path.write_text(content)
            lines.append(f"written: {os.path.relpath(path)}")
        sys.stdout.write("\n".join(lines) + "\n")


def as_json(found: Any) -> str:
    """Return figures as JSON that a person can read too."""
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
