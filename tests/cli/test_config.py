"""`chatwoot-cache config`: what a person and what a program reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.__main__ import parser
from worker.settings import FIELDS, LoadedSettings, load


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSettings:
    environ = {
        "CACHE_REDIS_URI": "redis://user:s3cret@evolution_redis:6379/6",
        "CHATWOOT_CACHE_ZZZ": "1",
        "CHATWOOT_CACHE_INSTANCES": "{7/1: loja, 8/2: 'filial [são paulo]'}",
        "CHATWOOT_CACHE_WEBHOOK_SECRETS": "{7: s3cret}",
        "CHATWOOT_CACHE_DEAD_RETENTION_S": "1234567.5",
    }
    return load({"CHATWOOT_CACHE_WEBHOOK_TOKEN": "s3cret"}, environ, tmp_path)


def run(loaded: LoadedSettings, *arguments: str) -> int:
    parsed = parser(["config"]).parse_args(["config", *arguments])
    status: int = parsed.func(parsed, loaded)
    return status


def test_the_table_fits_a_narrow_terminal(
    loaded: LoadedSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    status = run(loaded)

    shown = capsys.readouterr().out
    assert status == 0
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert all(f" {name} " in shown for name in FIELDS)
    assert "…" not in shown


def test_what_is_set_is_marked_and_says_where(
    loaded: LoadedSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    run(loaded)

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["*", "CHATWOOT_CACHE_WEBHOOK_TOKEN", "***", "command", "line"] in rows
    assert ["*", "CHATWOOT_CACHE_DEAD_RETENTION_S", "1234567.5", "environment"] in rows
    assert ["CHATWOOT_CACHE_STREAM_BLOCK_S", "2", "default"] in rows
    assert ["CHATWOOT_CACHE_WEBHOOK_ENABLED", "true", "default"] in rows
    assert ["NODE_APP_INSTANCE", "not", "set", "default"] in rows


def test_warnings_follow_the_table(
    loaded: LoadedSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    run(loaded)

    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Warning: {loaded.warnings[0]}"


def test_names_in_brackets_are_no_markup(
    loaded: LoadedSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    run(loaded)

    assert "filial [são paulo]" in capsys.readouterr().out


def test_json_is_for_programs(loaded: LoadedSettings, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(loaded, "--json")

    answer = json.loads(capsys.readouterr().out)
    assert status == 0
    assert list(answer["settings"]) == list(FIELDS)
    assert answer["settings"]["CACHE_REDIS_TTL"] == {"value": 604800, "from": "default"}
    assert answer["settings"]["CACHE_REDIS_URI"] == {
        "value": "redis://user:***@evolution_redis:6379/6",
        "from": "environment",
    }
    assert answer["settings"]["CHATWOOT_CACHE_INSTANCES"]["value"]["7/1"] == "loja"
    assert answer["warnings"] == list(loaded.warnings)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_secret_is_printed(
    loaded: LoadedSettings, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    run(loaded, *arguments)

    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err


def test_who_reads_may_stop(tmp_path: Path) -> None:
    """As `head` does: nothing to be told, and no trace of it."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "worker", "config", "--json"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CACHE_REDIS_URI": "redis://localhost"},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (141, b"")
