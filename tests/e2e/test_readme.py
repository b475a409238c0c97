"""The documents are right: commands, links, settings and modules exist, and the steps work."""

import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import anyio
import pytest

from tests.e2e.place import Place
from tests.e2e.process import command, running
from tests.events import sample
from tests.fakes.chatwoot import Chatwoot, encoded
from tests.fakes.evolution import Evolution
from tests.fakes.rows import ConversationRow
from tests.waiting import wait_until
from worker.__main__ import parser
from worker.settings import FIELDS, Settings

ROOT = Path(__file__).parents[2]
READMES = {
    "README.md": "## Install it in four steps",
    "README.pt-BR.md": "## Instalação em quatro passos",
}
FOR_DEVELOPERS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "bench/PERFORMANCE.md")
DOCUMENTS = (
    *READMES,
    *FOR_DEVELOPERS,
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
)
NOW_US = int(time.time()) * 1_000_000

EXAMPLES = {"worker/cli/ping.py", "tests/cli/test_ping.py"}
"""What CONTRIBUTING shows how to add."""

_HERE = "http://localhost:9850"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"`((?:CACHE|CHATWOOT_CACHE)_[A-Z_]+)`")
_SOURCE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+(?:/|\.py|\.lua))`")
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")


def blocks(text: str, language: str) -> list[str]:
    return [found[2] for found in _BLOCK.finditer(text) if found[1] == language]


def typed(text: str) -> Iterator[list[str]]:
    """Yield the words of every command that is shown."""
    for block in blocks(text, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:], comments=True)


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_that_is_shown_can_be_typed(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE)
    known = parser()
    for words in typed(read(name)):
        program, *arguments = words
        if program == "make":
            assert arguments[0] in targets
        elif Path(program).name == "chatwoot-cache":
            known.parse_args(arguments)


@pytest.mark.parametrize("name", [*DOCUMENTS, "deploy/README.md", "CHANGELOG.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    for target, anchor in _LINK.findall(read(name)):
        page = (ROOT / name).parent / target if target else ROOT / name
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", read("docs/settings.md"), re.MULTILINE)
    )
    stated = {name: default.strip() for name, default in rows.items()}
    actual = {name: Settings.model_fields[field].default for name, field in FIELDS.items()}
    del actual["NODE_APP_INSTANCE"]

    assert stated.keys() == actual.keys()
    for name, default in actual.items():
        if isinstance(default, bool | int | float | str):
            assert stated[name] == str(default).lower().removesuffix(".0"), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_that_is_named_exists(name: str) -> None:
    named = {found.removesuffix("_FILE") for found in _SETTING.findall(read(name))}

    assert named - {"CACHE_", "CHATWOOT_CACHE_", "CACHE_REDIS_", "CHATWOOT_CACHE_CONNECT"} <= set(
        FIELDS
    )


@pytest.mark.parametrize("name", [*FOR_DEVELOPERS, "docs/decisions.md"])
def test_every_module_that_is_named_exists(name: str) -> None:
    """By its path from the project's root or from `worker/`, or by its name alone."""
    for path in set(_SOURCE.findall(read(name))) - EXAMPLES:
        alone = "/" not in path.rstrip("/") and list((ROOT / "worker").rglob(path.rstrip("/")))
        assert (ROOT / path).exists() or (ROOT / "worker" / path).exists() or alone, path


@pytest.mark.parametrize("name", READMES)
async def test_the_four_steps(name: str, place: Place, tmp_path: Path) -> None:
    """Typed as they stand there, but for addresses: from nothing to an instance's last event."""
    text = read(name)
    steps = re.split(r"^##+ ", text[text.index(READMES[name]) + 3 :], flags=re.MULTILINE)[0]
    (env,) = blocks(steps, "sh")
    commands = [words for words in typed(steps) if words[0] == "chatwoot-cache"]
    assert [words[1] for words in commands] == ["connect", "run", "backfill", "status"]
    connect, run, backfill, status = (words[1:] for words in commands)
    (tmp_path / ".env").write_text(
        env.replace("redis://localhost:6379/6", place.uri).replace(
            "KEY=chatwoot-cache", f"KEY={place.name}"
        )
    )
    here = {
        f"CHATWOOT_CACHE_{name}": value
        for name, value in (("STREAM_KEY", place.stream), ("HTTP_PORT", "0"), ("OPS_PORT", "0"))
    }
    with Evolution() as evolution, Chatwoot() as chatwoot:
        row = installed(evolution, chatwoot)
        reached = [word.replace("http://localhost:8080", evolution.url) for word in connect]
        done = command(tmp_path, here, *reached, stdin=f"{evolution.apikey}\n".encode())
        assert done.returncode == 0, done
        async with running(tmp_path, here, *run[1:]) as worker:
            done = command(tmp_path, here, *backfill)
            assert done.returncode == 0, done
            await place.settled()
            row.add(2, NOW_US + 1, "new")
            body = encoded(row.webhook(row.messages[1], "message_created"))
            for url, headers in chatwoot.signed(3, body):
                assert url == "http://chatwoot-cache.internal:9850/chatwoot/webhook"
                assert worker.post(body, headers=headers).status_code == 200
                assert worker.post(body).status_code == 401
            await place.settled()
            await wait_until(lambda: place.document("loja-aurora", "message", 2), "it is cached")
            shown = command(tmp_path, here, *status).stdout.decode()
    line = next(line for line in shown.splitlines() if line.startswith("loja-aurora"))
    assert place.document("loja-aurora", "message", 1)["content"] == "old"
    assert line.split()[-1] in {"now", "ago"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("README.md", "reads-loja-aurora"),
        ("docs/recipes.md", "reads-loja-aurora"),
        ("README.pt-BR.md", "leitura-loja-aurora"),
        ("docs/recipes.pt-BR.md", "leitura-loja-aurora"),
    ],
)
async def test_the_recipes(name: str, key: str, place: Place, tmp_path: Path) -> None:
    """Each curl, the request that n8n makes, and the agent's code find the conversation."""
    text = read(name)
    keys = json.dumps({"loja-aurora": key})
    async with running(tmp_path, place.settings(HTTP_INSTANCE_KEYS=keys)) as worker:
        place.add(sample("01"))
        await place.settled()
        here = worker.logged("worker.started")[-1]["reads"].partition("/instances")[0]
        curls = [words for words in typed(text) if words[0] == "curl" and key in str(words)]
        for words in (*curls, *n8n(text, sample("01"))):
            answer = await run([word.replace(_HERE, here) for word in words])
            assert b"O pedido 55123" in answer, words
        for code in blocks(text, "python"):
            program = f"{code}\nprint(messages)".replace(_HERE, here)
            assert b"O pedido 55123" in await run([sys.executable, "-c", program])
    assert curls


async def run(words: list[str]) -> bytes:
    return (await anyio.run_process(words)).stdout


def n8n(text: str, event: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the requests of the n8n nodes that are shown, for a contact's message."""
    jid = event["sender"]["identifier"]
    for block in blocks(text, "json"):
        (node,) = json.loads(block)["nodes"]
        asked = node["parameters"]
        url = asked["url"].removeprefix("=").replace("http://chatwoot-cache.internal:9850", _HERE)
        url = url.replace("{{ encodeURIComponent($json.body.instance) }}", "loja-aurora")
        url = url.replace("{{ encodeURIComponent($json.body.data.key.remoteJid) }}", quote(jid))
        query = {pair["name"]: pair["value"] for pair in asked["queryParameters"]["parameters"]}
        (header,) = asked["headerParameters"]["parameters"]
        yield [
            "curl",
            "-s",
            "-H",
            f"{header['name']}: {header['value']}",
            f"{url}?{urlencode(query)}",
        ]


def installed(evolution: Evolution, chatwoot: Chatwoot) -> ConversationRow:
    """Evolution and Chatwoot, connected with each other, with one message."""
    evolution.add("loja-aurora", url=chatwoot.url)
    chatwoot.add_inbox(12, "loja-aurora", evolution.webhook_url("loja-aurora"))
    row = ConversationRow(1584, 3, 12, "loja-aurora", NOW_US, NOW_US, NOW_US)
    row.add(1, NOW_US, "old")
    return chatwoot.add_conversation(row)
