"""Where values come from, highest first: command line, environment, .env, connect.env, env.yml.

Each source becomes one flat layer of names as the user writes them; layers are never merged
into each other's values, so a map from a higher one replaces a lower one's whole.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv import parser as dotenv_parser

from worker import errors
from worker.settings import map_values
from worker.settings.model import FIELDS, FROM_FILE, PREFIX

COMMAND_LINE: Final = "command line"
ENVIRONMENT: Final = "environment"

CONNECT_FILE: Final = f"{PREFIX}CONNECT_FILE"
"""In the environment: where the file is that `connect` writes."""

_CONNECT_FILE: Final = "connect.env"
# Evolution's part for the memory has two names only, and ours stand beside them in a file.
_LIKE_OURS: Final = (PREFIX, "CACHE_LOCAL_")

# Kubernetes and Docker's links describe a service called `chatwoot-cache` to every container
# in the environment, under names that begin like ours.
_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://.*")


@dataclass(frozen=True, slots=True)
class SettingsLayer:
    """What one source gives: text by name, or what YAML made of it; nothing that is empty."""

    origin: str
    values: Mapping[str, object]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourcedValue:
    """A value that was given, and where it came from."""

    value: object
    origin: str


def layers(
    overrides: Mapping[str, str], environ: Mapping[str, str], directory: Path
) -> tuple[SettingsLayer, ...]:
    """Read every source. Raises `errors.ConfigurationError` for a file that cannot be read."""
    return (
        SettingsLayer(COMMAND_LINE, dict(overrides)),
        _environment(environ),
        _dotenv(directory / ".env"),
        _dotenv(connect_file(environ, directory)),
        _yaml(directory / "env.yml"),
    )


def connect_file(environ: Mapping[str, str], directory: Path) -> Path:
    """Return the path of the file that `connect` writes, whether it is there or not."""
    return directory / (environ.get(CONNECT_FILE) or _CONNECT_FILE)


def gather(
    given: Sequence[SettingsLayer], names: Iterable[str], directory: Path
) -> dict[str, SourcedValue]:
    """Take each name from the highest layer that has it, or has its `<NAME>_FILE`.

    Raises `errors.ConfigurationError` with a line for each file that cannot be used.
    """
    found: dict[str, SourcedValue] = {}
    problems: list[str] = []
    for name in names:
        try:
            found.update(_first(name, given, directory))
        except errors.ConfigurationError as problem:
            problems.append(str(problem))
    if problems:
        raise errors.ConfigurationError("\n".join(problems))
    return found


def _first(name: str, given: Sequence[SettingsLayer], directory: Path) -> dict[str, SourcedValue]:
    for layer in given:
        if name in layer.values:
            return {name: SourcedValue(layer.values[name], layer.origin)}
        path = layer.values.get(f"{name}_FILE") if name in FROM_FILE else None
        if path is not None:
            return {name: _from_file(name, str(path), layer.origin, directory)}
    return {}


def _from_file(name: str, path: str, origin: str, directory: Path) -> SourcedValue:
    try:
        text = (directory / path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(
            f"{name}_FILE={one_line(path)} ({origin}): cannot be read: {_why(error)}"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise errors.ConfigurationError(f"{name}_FILE={path} ({origin}): the file is empty")
    return SourcedValue(text, f"file {one_line(path)}")


def one_line(text: str) -> str:
    """Return text as it can stand within one line, escaped where it must be."""
    return text if text.isprintable() else ascii(text)


def unknown(layer: SettingsLayer) -> Iterator[str]:
    """Give each name of a layer that looks like ours, in any case, and is none of ours."""
    for name in layer.values:
        if name.upper().startswith(_LIKE_OURS) and name not in NAMES:
            yield name


def _environment(environ: Mapping[str, str]) -> SettingsLayer:
    return SettingsLayer(
        ENVIRONMENT,
        {
            name: value
            for name, value in environ.items()
            if value and not _is_service_link(name, value)
        },
    )


def _is_service_link(name: str, value: str) -> bool:
    if name.startswith(PREFIX) and name.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value):
        return True
    return name not in NAMES and _SERVICE_LINK.fullmatch(name) is not None


def _dotenv(path: Path) -> SettingsLayer:
    # Not through `dotenv_values`, which would look up ${…} in the environment and log what it
    # cannot read.
    bindings = list(dotenv_parser.parse_stream(io.StringIO(_text(path))))
    return SettingsLayer(
        path.name,
        {bound.key: bound.value for bound in bindings if bound.key and bound.value},
        tuple(
            f"{path.name}, line {bound.original.line}: not understood, left out"
            for bound in bindings
            if bound.error
        ),
    )


def _yaml(path: Path) -> SettingsLayer:
    try:
        content = map_values.parse(_text(path))
    except ValueError as error:
        raise errors.ConfigurationError(f"{path.name}: {error}") from None
    return SettingsLayer(path.name, dict(_flat("", content)))


def _flat(name: str, node: object) -> Iterator[tuple[str, object]]:
    """Join nested keys with `_`, down to a setting; what is null or empty is not set."""
    if isinstance(node, Mapping) and name not in NAMES:
        for key, child in node.items():
            yield from _flat(f"{name}_{key}".lstrip("_").upper(), child)
    elif name and node not in ("", "~", "null", {}, []):
        yield name, node


def _text(path: Path) -> str:
    if not path.is_file():  # absent; or a directory, as a virtual environment may be called .env
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(f"{path.name}: cannot be read: {_why(error)}") from None


def _why(error: OSError | ValueError) -> str:
    """Say why without quoting content: a decoding error would."""
    return (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"


NAMES: Final = frozenset(
    (
        *FIELDS,
        *(f"{name}_FILE" for name in FROM_FILE),
        CONNECT_FILE,
    )
)
"""Every name under which something of ours can be given."""
