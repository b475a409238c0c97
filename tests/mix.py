"""A million mixed events over a thousand instances by three workers at once: `make mix`.

Workers are killed with SIGKILL while they work, and started again. At the end `audit` must find
nothing, and every instance must hold exactly what was sent to it. Exit code 1 when not.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio

from tests.core.names import ADVERSARIAL
from tests.e2e.place import Place
from tests.e2e.process import PROGRAM, Worker, environment
from tests.events import encode, message, sample
from tests.servers import Server, default_binary, write

_CONVERSATIONS: Final = 5
_UPDATED: Final = 2
_ID, _SECOND, _CONVERSATION = 9_000_000_001, 1_790_000_001, 9_000_000_002


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, by how many; a wave is what the stream holds at once."""

    events: int
    instances: int
    workers: int
    kill_every: int
    wave: int
    seed: int


class Instance:
    """One inbox with its name, and what was sent to it."""

    def __init__(self, number: int, name: str) -> None:
        self.name = name
        self.messages: set[int] = set()
        self.conversations: set[int] = set()
        self._first = number * _CONVERSATIONS
        where = {
            "account_id": number % 50 + 1,
            "inbox_id": number + 1,
            "inbox_name": name,
            "conversation_id": _CONVERSATION,
        }
        created = message(_ID, at=_SECOND, **where)  # type: ignore[arg-type]
        updated = message(_ID, at=_SECOND, event="message_updated", status="read", **where)  # type: ignore[arg-type]
        resolved = sample("11")
        resolved["id"] = _CONVERSATION
        resolved["inbox_id"] = where["inbox_id"]
        resolved["account"] = {"id": where["account_id"], "name": "Conta"}
        resolved["messages"] = []
        resolved["updated_at"] = _SECOND
        self._templates = [encode(body) for body in (created, created, updated, resolved)]

    def event(self, number: int, chance: random.Random) -> bytes:
        """Return the event of that number, about a new message or one that was sent before."""
        kind = chance.randrange(4)
        is_old = kind == _UPDATED and bool(self.messages)
        message_id = next(iter(self.messages)) if is_old else number + 1
        conversation = self._first + message_id % _CONVERSATIONS + 1
        if kind <= _UPDATED:
            self.messages.add(message_id)
        self.conversations.add(conversation)
        return (
            self._templates[kind]
            .replace(b"%d" % _ID, b"%d" % message_id)
            .replace(b"%d" % _CONVERSATION, b"%d" % conversation)
            .replace(b"%d" % _SECOND, b"%d" % (_SECOND + number // 1000))
        )


def instances(count: int) -> list[Instance]:
    """As many instances as asked for, unkind names first."""
    unkind = [name for name in ADVERSARIAL if 1 <= len(name.encode()) <= 255]
    names = itertools.chain(unkind, (f"loja-{number}" for number in itertools.count()))
    return [Instance(number, name) for number, name in zip(range(count), names, strict=False)]


def waves(plan: Plan, every: list[Instance]) -> Iterator[list[bytes]]:
    """Yield all events, in waves that the stream can hold; one in fifty is sent twice."""
    chance = random.Random(plan.seed)
    for start in range(0, plan.events, plan.wave):
        numbers = range(start, min(start + plan.wave, plan.events))
        wave = [every[chance.randrange(len(every))].event(number, chance) for number in numbers]
        yield wave + chance.sample(wave, len(wave) // 50)


async def mix(plan: Plan, place: Place, directory: Path) -> bool:
    """Send everything through the workers, then compare."""
    every = instances(plan.instances)
    started, killed, sent = time.monotonic(), 0, 0
    with ExitStack() as stack:
        workers = [await _worker(stack, place, directory, n) for n in range(plan.workers)]
        for number, wave in enumerate(waves(plan, every)):
            place.add(*wave)
            sent += len(wave)
            if number % plan.kill_every == plan.kill_every - 1:
                workers[killed % len(workers)].process.kill()
                await workers[killed % len(workers)].ended()
                workers[killed % len(workers)] = await _worker(
                    stack, place, directory, killed % len(workers)
                )
                killed += 1
            await place.settled(timeout_s=300)
            place.redis.xtrim(place.stream, maxlen=0)
            write(f"\r{sent} events, {sent / (time.monotonic() - started):.0f} a second")
        write(f", {killed} workers killed\n")
        # Conversation events name no instance: those that came before their inbox was known wait.
        write(_run(place, directory, "dead", "replay", "--reason", "no_instance").stdout.decode())
        await place.settled(timeout_s=300)
    return _compare(every, place, directory)


async def _worker(stack: ExitStack, place: Place, directory: Path, number: int) -> Worker:
    name = f"worker-{number}"
    folder = directory / name
    folder.mkdir(exist_ok=True)
    settings = place.settings(STREAM_CONSUMER=name, STREAM_RECLAIM_AFTER_S="1", LOG_LEVEL="info")
    worker = stack.enter_context(Worker(folder, settings))
    await worker.started()
    return worker


def _compare(every: list[Instance], place: Place, directory: Path) -> bool:
    report = _audit(place, directory)
    expected = {i.name: len(i.messages) + len(i.conversations) for i in every if i.conversations}
    wrong = {
        name: (expected.get(name), report["documents"].get(name))
        for name in {*expected, *report["documents"]}
        if expected.get(name) != report["documents"].get(name)
    }
    letters = len(place.letters())
    counts = sorted(expected.values())
    write(
        f"audit: {report['keys']} keys, {len(report['findings'])} findings {report['problems']}\n"
        f"documents: {sum(counts)} sent to {len(expected)} instances, "
        f"{counts[0]} to {counts[-1]} each; {len(wrong)} instances differ; {letters} dead letters\n"
    )
    for name, (wanted, found) in list(wrong.items())[:20]:
        write(f"  {name!r}: {wanted} sent, {found} found\n")
    return not (wrong or letters or report["problems"])


def _audit(place: Place, directory: Path) -> Any:
    started = time.monotonic()
    done = _run(place, directory, "audit", "--json")
    write(f"audit took {time.monotonic() - started:.1f} s, exit code {done.returncode}\n")
    return json.loads(done.stdout)


def _run(place: Place, directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(place.settings()),
        capture_output=True,
        check=False,
    )


def main() -> int:
    """Say whether everything is where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kill-every", type=int, default=10, help="waves between two kills")
    parser.add_argument("--wave", type=int, default=10_000, help="events on the stream at once")
    parser.add_argument("--seed", type=int, default=1)
    plan = Plan(**vars(parser.parse_args()))
    with Server(default_binary()) as server, tempfile.TemporaryDirectory() as directory:
        place = Place(server.uri, "mix")
        with place.redis:
            good = anyio.run(mix, plan, place, Path(directory))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
