"""Loads the settings: validates what the sources give, and reports problems without secrets."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import annotated_types
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from worker.errors import ConfigurationError
from worker.settings import evolution_storage, redis_uri, sources
from worker.settings.model import FIELDS, PREFIX, SECRETS, Settings, name_of
from worker.settings.redis_uri import MASK, RedisUri
from worker.settings.sources import SettingsLayer, SourcedValue

DEFAULT: Final = "default"

_NO_KEY: Final = (
    "CACHE_REDIS_ENABLED=false: documents in memory can be read over HTTP only,"
    " and no key is set: set CHATWOOT_CACHE_HTTP_API_KEY"
)
_SHOWN_CHARACTERS: Final = 60

# The other names under CACHE_LOCAL_ are Evolution's; ours stand beside them in a file.
_CHECKED_PREFIXES: Final = (PREFIX, "CACHE_LOCAL_")

# Names for which the most similar setting would be the wrong advice.
_SUGGESTIONS: Final = dict.fromkeys(
    ("CACHE_LOCAL_MAX_BYTES", "CACHE_LOCAL_MAX_ENTRIES", "LOCAL_MAX_ENTRIES"),
    f"{PREFIX}LOCAL_MAX_BYTES",
)


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, the origin of each by its name, and warnings of one line each."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]

    def masked(self) -> dict[str, object]:
        """Return every setting in effect by its name, without secrets, as JSON values."""
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
    """Read and validate the settings; `overrides` are those of the command line.

    `.env`, `env.yml` and relative paths are in `directory`, else in the working directory.
    Raises `ConfigurationError` with one line for each problem.
    """
    directory = directory or Path.cwd()
    overrides = overrides or {}
    _check_overrides(overrides)
    layers = sources.read_layers(overrides, environ, directory)
    found = sources.select(layers, (*FIELDS, *evolution_storage.NAMES), directory)
    settings = _validate({name: found[name] for name in FIELDS if name in found})
    origins = {name: found[name].origin if name in found else DEFAULT for name in FIELDS}
    warnings = [
        *_source_warnings(layers),
        *evolution_storage.check_evolution_storage(found, settings),
    ]
    if settings.local_only and not settings.reads_enabled:
        warnings.append(_NO_KEY)
    return LoadedSettings(settings, origins, tuple(warnings))


def _check_overrides(overrides: Mapping[str, str]) -> None:
    """Refuse unknown names and empty values, which are errors only on the command line."""
    problems = []
    for name, value in sorted(overrides.items()):
        if name not in sources.NAMES and name not in evolution_storage.NAMES:
            problems.append(_unknown_name(name, sources.COMMAND_LINE))
        elif not value:
            problems.append(f"{name} ({sources.COMMAND_LINE}): must not be empty")
    if problems:
        raise ConfigurationError("\n".join(problems))


def _validate(found: Mapping[str, SourcedValue]) -> Settings:
    try:
        return Settings.model_validate({FIELDS[name]: given.value for name, given in found.items()})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        # Each line once, and without the cause, which may hold secrets.
        lines = dict.fromkeys(_problem(found, detail) for detail in details)
        raise ConfigurationError("\n".join(lines)) from None


def _problem(found: Mapping[str, SourcedValue], detail: ErrorDetails) -> str:
    message = str(detail.get("ctx", {}).get("error", ""))
    if not detail["loc"]:
        return message
    field = str(detail["loc"][0])
    given = found[name_of(field)]
    rule = message or f"must be {_allowed(Settings.model_fields[field])}"
    return f"{name_of(field)}={_shown(field, given.value)} ({given.origin}): {rule}"


def _allowed(info: FieldInfo) -> str:
    kinds = {info.annotation, *get_args(info.annotation)}
    if bool in kinds:
        return "true or false"
    if kinds & {int, float}:
        kind = "a whole number" if int in kinds else "a number"
        least = next(rule.ge for rule in info.metadata if isinstance(rule, annotated_types.Ge))
        most = next(rule.le for rule in info.metadata if isinstance(rule, annotated_types.Le))
        return f"{kind} from {least} to {most}"
    choices = [choice for choice in get_args(info.annotation) if isinstance(choice, str)]
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


def _source_warnings(layers: Sequence[SettingsLayer]) -> Iterator[str]:
    for layer in layers:
        yield from layer.warnings
        for name in layer.values:
            if name.upper().startswith(_CHECKED_PREFIXES) and name not in sources.NAMES:
                yield _unknown_name(name, layer.origin)


def _unknown_name(name: str, origin: str) -> str:
    # Compared without the prefix, which would make all names similar.
    known = {candidate.removeprefix(PREFIX): candidate for candidate in sorted(sources.NAMES)}
    short = name.upper().removeprefix(PREFIX)
    similar = difflib.get_close_matches(short, known, n=1, cutoff=0.5)
    suggestion = _SUGGESTIONS.get(short) or (known[similar[0]] if similar else None)
    advice = f"; did you mean {suggestion}?" if suggestion else ""
    return f"{sources.one_line(name)} ({origin}) is not a setting{advice}"
