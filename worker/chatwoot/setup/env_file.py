"""What the worker has to know from now on, put where it reads it: a file that only we can read."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from dotenv import dotenv_values
from pydantic import SecretStr

from worker.settings import DEFAULT, LoadedSettings, name_of

_HEAD: Final = (
    "# Written by `chatwoot-cache connect`, read by the worker when it starts.\n"
    "# It holds secrets: nobody else should read it.\n"
)
_FROM_FILE: Final = "file "


@dataclass(frozen=True, slots=True)
class SavedSettings:
    """Files that were written, or would be, and what a person has to see to."""

    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What was found out; maps are by account."""

    chatwoot_url: str
    tokens: Mapping[int, str]
    secrets: Mapping[int, str]
    webhook_token: str | None


def save_settings(
    knowledge: ConnectionSettings, loaded: LoadedSettings, path: Path, *, dry_run: bool
) -> SavedSettings:
    """Write each setting that is not as found where it comes from, if that is a file of ours.

    That is `path`, or the file that `<NAME>_FILE` names. A setting that stands elsewhere outranks
    `path`, and is only spoken of, as is a file that cannot be written.
    """
    texts: dict[Path, str] = {}
    problems: list[str] = []
    lines: dict[str, str] = {}
    for field, value in _changes(knowledge, loaded).items():
        name = name_of(field)
        origin = loaded.origins[name]
        if origin in (DEFAULT, path.name):
            lines[name] = value
        elif origin.startswith(_FROM_FILE):
            target = Path(origin.removeprefix(_FROM_FILE))
            texts[target] = f"{value}\n"
        else:
            problems.append(
                f"{name} is set in {origin}, which outranks {path.name}: "
                f"take it out there, and run this again"
            )
    if lines:
        texts[path] = _merged(path, lines)
    files: list[str] = []
    for target, text in texts.items():
        outage = None if dry_run else _write(target, text)
        if outage is None:
            files.append(str(target))
        else:
            problems.append(outage)
    return SavedSettings(tuple(files), tuple(problems))


def _changes(knowledge: ConnectionSettings, loaded: LoadedSettings) -> dict[str, str]:
    """Return the settings that are not as found, as they are written."""
    settings = loaded.settings
    changes: dict[str, str] = {}
    if settings.chatwoot_url != knowledge.chatwoot_url:
        changes["chatwoot_url"] = knowledge.chatwoot_url
    single = settings.chatwoot_token
    tokens = {
        account: token
        for account, token in knowledge.tokens.items()
        if single is None or single.get_secret_value() != token
    }
    _add_map(changes, "chatwoot_tokens", settings.chatwoot_tokens, tokens)
    _add_map(changes, "webhook_secrets", settings.webhook_secrets, knowledge.secrets)
    if knowledge.webhook_token and not (
        settings.webhook_token
        and settings.webhook_token.get_secret_value() == knowledge.webhook_token
    ):
        changes["webhook_token"] = knowledge.webhook_token
    return changes


def _add_map(
    changes: dict[str, str],
    field: str,
    held: Mapping[int, tuple[SecretStr, ...]],
    found: Mapping[int, str],
) -> None:
    known = {account: [s.get_secret_value() for s in several] for account, several in held.items()}
    new = {
        account: value for account, value in found.items() if value not in known.get(account, [])
    }
    if new:
        kept = {a: several if len(several) > 1 else several[0] for a, several in known.items()}
        changes[field] = msgspec.json.encode({**kept, **new}).decode()


def _merged(path: Path, lines: Mapping[str, str]) -> str:
    held = dotenv_values(path, interpolate=False) if path.is_file() else {}
    merged = {**{name: value or "" for name, value in held.items()}, **lines}
    return _HEAD + "".join(f"{name}={value}\n" for name, value in merged.items())


def _write(path: Path, text: str) -> str | None:
    """Put a file in its place in one step, for the owner's eyes only from its first byte on.

    Returns a line about what is in the way.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        return (
            f"{path} cannot be written: {error.strerror}; have it lie in a folder of the worker's, "
            "by CHATWOOT_CACHE_CONNECT_FILE in the environment, or <NAME>_FILE"
        )
    return None
