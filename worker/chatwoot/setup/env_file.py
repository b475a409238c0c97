"""Writes what `connect` found to the files that the worker reads its settings from, mode 600."""

import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from dotenv.parser import parse_stream
from pydantic import SecretStr

from worker.settings import DEFAULT, LoadedSettings, name_of

_HEADER: Final = (
    "# Written by `chatwoot-cache connect`, read by the worker when it starts.\n"
    "# It holds secrets: nobody else should read it.\n"
)
_FROM_FILE: Final = "file "
_PLAIN: Final = re.compile(r"""[^\s'"#]\S*""")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Settings that `connect` found; tokens and secrets are by account."""

    chatwoot_url: str
    tokens: Mapping[int, str]
    secrets: Mapping[int, str]
    webhook_token: str | None


def save_settings(
    found: ConnectionSettings, loaded: LoadedSettings, path: Path, *, dry_run: bool
) -> tuple[list[str], list[str]]:
    """Write each setting that changed to `path`, or to the file that `<NAME>_FILE` names.

    Returns the files, and a line for each problem: a setting from another source, which has
    precedence over `path`; a value that could not be loaded again; a file that cannot be written.
    """
    changed: dict[str, str] = {}
    texts: dict[Path, str] = {}
    problems: list[str] = []
    for name, value in _changes(found, loaded):
        origin = loaded.origins[name]
        if not value.isprintable():
            problems.append(
                f"{name} was not written: it holds a character that is not printable, "
                "which the worker could not load; create it again in Chatwoot"
            )
        elif origin in (DEFAULT, path.name):
            changed[name] = value
        elif origin.startswith(_FROM_FILE):
            texts[Path(origin.removeprefix(_FROM_FILE))] = f"{value}\n"
        else:
            problems.append(
                f"{name} is set in {origin}, which has precedence over {path.name}: "
                "remove it there, and run this again"
            )
    if changed:
        texts[path] = _HEADER + format_env({**_read_env(path), **changed})
    if not dry_run:
        failed = {target: problem for target in texts if (problem := _write(target, texts[target]))}
        texts = {target: text for target, text in texts.items() if target not in failed}
        problems += failed.values()
    return list(map(str, texts)), problems


def _changes(found: ConnectionSettings, loaded: LoadedSettings) -> Iterator[tuple[str, str]]:
    """Yield name and text of each setting whose loaded value differs from the one found."""
    settings = loaded.settings
    if settings.chatwoot_url != found.chatwoot_url:
        yield name_of("chatwoot_url"), found.chatwoot_url
    tokens = {
        account: token
        for account, token in found.tokens.items()
        if not _is_same(settings.chatwoot_token, token)
    }
    if text := _merge(settings.chatwoot_tokens, tokens):
        yield name_of("chatwoot_tokens"), text
    if text := _merge(settings.webhook_secrets, found.secrets):
        yield name_of("webhook_secrets"), text
    if found.webhook_token and not _is_same(settings.webhook_token, found.webhook_token):
        yield name_of("webhook_token"), found.webhook_token


def _is_same(loaded: SecretStr | None, value: str) -> bool:
    return loaded is not None and loaded.get_secret_value() == value


def _merge(loaded: Mapping[int, tuple[SecretStr, ...]], found: Mapping[int, str]) -> str | None:
    """Return a map of secrets by account as JSON, None where nothing is new."""
    known = {
        account: [s.get_secret_value() for s in secrets] for account, secrets in loaded.items()
    }
    new = {account: one for account, one in found.items() if one not in known.get(account, [])}
    if not new:
        return None
    kept = {a: secrets if len(secrets) > 1 else secrets[0] for a, secrets in known.items()}
    return msgspec.json.encode({**kept, **new}).decode()


def format_env(values: Mapping[str, str]) -> str:
    """Return the lines of an env file, with quotes around values that need them."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    if not value or _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _read_env(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = parse_stream(io.StringIO(path.read_text(encoding="utf-8-sig")))
    return {line.key: line.value or "" for line in lines if line.key}


def _write(path: Path, text: str) -> str | None:
    """Replace a file atomically, readable for its owner only; returns the problem, if any."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        return (
            f"{path} cannot be written: {error.strerror}; put it into a directory of the worker's, "
            "by CHATWOOT_CACHE_CONNECT_FILE in the environment, or <NAME>_FILE"
        )
    return None
