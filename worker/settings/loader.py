"""From the sources to settings: the one place that decides, masks and complains."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, get_args

import annotated_types
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from worker import errors
from worker.settings import evolution_names, redis_uri, sources
from worker.settings.model import FIELDS, PREFIX, SECRETS, Settings, name_of
from worker.settings.redis_uri import MASK, RedisUri
from worker.settings.sources import SettingsLayer, SourcedValue

DEFAULT: Final = "default"

UNREAD: Final = (
    "CACHE_REDIS_ENABLED=false: what this process keeps in its memory can be read over HTTP only,"
    " and nobody has a key: set CHATWOOT_CACHE_HTTP_API_KEY"
)
_SHOWN_CHARACTERS: Final = 60

_BYTES: Final = f"{PREFIX}LOCAL_MAX_BYTES"
_MEANT: Final = {
    "CACHE_LOCAL_MAX_BYTES": _BYTES,
    "CACHE_LOCAL_MAX_ENTRIES": _BYTES,
    "LOCAL_MAX_ENTRIES": _BYTES,
}
"""Names whose nearest ones mislead, without our prefix: memory is bounded by bytes."""


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, with the origin of each by its name, and one line for each thing to mend."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]

    def masked(self) -> dict[str, object]:
        """Return every setting in effect by its name, fit to be shown and to become JSON."""
        settings = self.settings
        in_effect = {
            "stream_redis_uri": settings.stream_uri,
            "stream_consumer": settings.consumer_name,
        }
        return {
            name: _masked(in_effect.get(field, getattr(settings, field)))
            for name, field in FIELDS.items()
        }


def load(
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
) -> LoadedSettings:
    """Gather, check and explain the settings; `overrides` are those of the command line.

    `directory` (else the working directory) is where `.env`, `env.yml` and relative paths are.
    Raises `errors.ConfigurationError`, with one line for each thing that is wrong.
    """
    directory = directory or Path.cwd()
    given = sources.layers(_known(overrides or {}), environ, directory)
    found = sources.gather(given, (*FIELDS, *evolution_names.NAMES), directory)
    settings = _checked({name: found[name] for name in FIELDS if name in found})
    origins = {name: found[name].origin if name in found else DEFAULT for name in FIELDS}
    warnings = (*_remarks(given), *evolution_names.check(found, settings), *_unread(settings))
    return LoadedSettings(settings, MappingProxyType(origins), warnings)


def _known(overrides: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse what no one but the command line can have meant: a wrong name, an empty value."""
    allowed = {*sources.NAMES, *evolution_names.NAMES}
    problems = [_unknown_line(name, sources.COMMAND_LINE) for name in {*overrides} - allowed]
    problems += [
        f"{name} ({sources.COMMAND_LINE}): must not be empty"
        for name, value in overrides.items()
        if name in allowed and not value
    ]
    if problems:
        raise errors.ConfigurationError("\n".join(sorted(problems)))
    return overrides


def _checked(found: Mapping[str, SourcedValue]) -> Settings:
    try:
        return Settings.model_validate({FIELDS[name]: given.value for name, given in found.items()})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        # One line for each name, in order; without the cause, which may hold secrets.
        lines = dict.fromkeys(_problem_line(found, detail) for detail in details)
        raise errors.ConfigurationError("\n".join(lines)) from None


def _problem_line(found: Mapping[str, SourcedValue], detail: ErrorDetails) -> str:
    stated = str(detail.get("ctx", {}).get("error", ""))
    if not detail["loc"]:
        return stated
    field = str(detail["loc"][0])
    given = found[name_of(field)]
    rule = stated or f"must be {_allowed(Settings.model_fields[field])}"
    return f"{name_of(field)}={_shown(field, given.value)} ({given.origin}): {rule}"


def _allowed(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true or false"
    if field.annotation in (int, float):
        kind = "a whole number" if field.annotation is int else "a number"
        least = next(rule.ge for rule in field.metadata if isinstance(rule, annotated_types.Ge))
        most = next(rule.le for rule in field.metadata if isinstance(rule, annotated_types.Le))
        return f"{kind} from {least} to {most}"
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    return f"one of {', '.join(choices)}" if choices else "text"


def _shown(field: str, value: object) -> str:
    if field in SECRETS:
        return MASK
    text = redis_uri.mask(str(value)) if field.endswith(("_uri", "_url")) else str(value)
    text = sources.one_line(text)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _masked(value: object) -> object:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, RedisUri | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _masked(child) for key, child in value.items()}
    if isinstance(value, tuple):
        return [_masked(child) for child in value]
    return value


def _remarks(given: Sequence[SettingsLayer]) -> Iterator[str]:
    for layer in given:
        yield from layer.warnings
        yield from (_unknown_line(name, layer.origin) for name in sources.unknown(layer))


def _unknown_line(name: str, origin: str) -> str:
    # Compared without our prefix, which would make every two names alike.
    known = {candidate.removeprefix(PREFIX): candidate for candidate in sorted(sources.NAMES)}
    short = name.upper().removeprefix(PREFIX)
    near = difflib.get_close_matches(short, known, n=1, cutoff=0.5)
    meant = _MEANT.get(short) or (known[near[0]] if near else None)
    advice = f"; did you mean {meant}?" if meant else ""
    return f"{sources.one_line(name)} ({origin}) is not a setting{advice}"


def _unread(settings: Settings) -> tuple[str, ...]:
    if not settings.local_only or settings.reads_enabled:
        return ()
    return (UNREAD,)
