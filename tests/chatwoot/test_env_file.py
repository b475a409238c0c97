"""What `connect` writes to connect.env is what the settings loader reads back."""

import io
from pathlib import Path
from typing import Any

import pytest
from dotenv.parser import parse_stream
from hypothesis import given, strategies as st

from worker.chatwoot.setup.env_file import ConnectionSettings, format_env, save_settings
from worker.settings import load

BASE = {"CACHE_REDIS_URI": "redis://localhost"}
URL = "https://chat.exemplo.test"
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


def connect_env(directory: Path, **found: Any) -> list[str]:
    """Save settings as `connect` does; returns the problems."""
    settings = ConnectionSettings(
        URL, **{"tokens": {}, "secrets": {}, "webhook_token": None, **found}
    )
    path = directory / "connect.env"
    return save_settings(settings, load(BASE, {}, directory), path, dry_run=False)[1]


@pytest.mark.parametrize(
    "secret",
    ["plain", "a b", "a #b", "#a", "'a'", '"a"', "a\\", "\\'a \\", "$HOME ${HOME}", "é 🛒", "="],
)
def test_what_is_saved_is_loaded_back(tmp_path: Path, secret: str) -> None:
    assert (
        connect_env(tmp_path, tokens={3: secret}, secrets={3: secret}, webhook_token=secret) == []
    )

    loaded = load(BASE, {}, tmp_path)
    settings = loaded.settings
    assert loaded.warnings == ()
    assert settings.chatwoot_url == URL
    assert settings.chatwoot_tokens[3][0].get_secret_value() == secret
    assert settings.webhook_secrets[3][0].get_secret_value() == secret
    assert settings.webhook_token
    assert settings.webhook_token.get_secret_value() == secret


@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_any_printable_values_are_loaded_back_beside_each_other(values: list[str]) -> None:
    named = {f"NAME_{number}": value for number, value in enumerate(values) if value.isprintable()}
    lines = parse_stream(io.StringIO(format_env(named)))

    assert {line.key: line.value for line in lines} == named


@pytest.mark.parametrize("secret", ["a\nb", "a\r", "\x00", "\udcff", "\ufeffa"])
def test_what_could_not_be_loaded_back_is_refused_by_name(tmp_path: Path, secret: str) -> None:
    (problem,) = connect_env(tmp_path, webhook_token=secret)

    assert problem.startswith("CHATWOOT_CACHE_WEBHOOK_TOKEN was not written")
    assert secret not in problem
    assert "WEBHOOK_TOKEN" not in (tmp_path / "connect.env").read_text()


def test_values_written_by_hand_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "connect.env"
    path.write_text("CACHE_REDIS_PREFIX_KEY='a # b'\nOTHER=\"line\\nbreak\"\nCACHE_REDIS_TTL=\n")

    assert connect_env(tmp_path, webhook_token="t") == []
    assert load(BASE, {}, tmp_path).settings.cache_redis_prefix_key == "a # b"
    assert "OTHER='line\nbreak'\nCACHE_REDIS_TTL=\n" in path.read_text()
