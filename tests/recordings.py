"""What the real Evolution API sent, and what Chatwoot made of it: see `recorded/*/README.md`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded" / "evolution-2.3.7"


def records(scenario: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a scenario, whose file name begins so."""
    (path,) = RECORDED.glob(f"{scenario}-*.jsonl")
    for line in path.read_text().splitlines():
        yield json.loads(line)


def webhooks(scenario: str) -> list[bytes]:
    """Return the bodies of a scenario's account webhooks, in order, as Rails writes them."""
    return [
        json.dumps(record["body"], ensure_ascii=False, separators=(",", ":")).encode()
        for record in records(scenario)
        if record["to"] == "account-webhook"
    ]
