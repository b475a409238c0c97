"""Setting sources, highest precedence first: --set, environment, .env, connect.env, env.yml.

Each source is one flat layer of names. Layers are not merged: a map in a higher layer replaces
the whole map of a lower one.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv import parser as dotenv_parser

from worker.errors import ConfigurationError
from worker.settings import map_values
from worker.settings.model import FIELDS, FROM_FILE, PREFIX

COMMAND_LINE: Final = "command line"

CONNECT_FILE: Final = f"{PREFIX}CONNECT_FILE"
"""Environment variable with the path of the file that `connect` writes."""

NAMES: Final = frozenset((*FIELDS, *(f"{name}_FILE" for name in FROM_FILE), CONNECT_FILE))
"""Every name that a source may set."""

# Kubernetes and Docker links describe a service named `chatwoot-cache` to every container, in
# variables whose names start like ours.
_SERVICE_LINK: Final = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT|PORT_\d+_\w+).*")
_SERVICE_ADDRESS: Final = re.compile(rf"{PREFIX}(\w+_)?PORT=(tcp|udp|sctp)://.*")


@dataclass(frozen=True, slots=True)
class SettingsLayer:
    """The values of one source: text, or what YAML made of it; empty values are left out."""

    origin: str
    values: Mapping[str, object]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourcedValue:
    """A value and its origin."""

    value: object
    origin: str


def read_layers(
    overrides: Mapping[str, str], environ: Mapping[str, str], directory: Path
) -> tuple[SettingsLayer, ...]:
    """Read every source; raises `ConfigurationError` for a file that cannot be read."""
    variables = {
        name: text
        for name, text in environ.items()
        if text
        and not _SERVICE_LINK.fullmatch(name)
        and not _SERVICE_ADDRESS.fullmatch(f"{name}={text}")
    }
    return (
        SettingsLayer(COMMAND_LINE, overrides),
        SettingsLayer("environment", variables),
        _dotenv(directory / ".env"),
        _dotenv(connect_file(environ, directory)),
        _yaml(directory / "env.yml"),
    )


def connect_file(environ: Mapping[str, str], directory: Path) -> Path:
    """Return the path of the file that `connect` writes; the file may not exist."""
    return directory / (environ.get(CONNECT_FILE) or "connect.env")


def select(
    layers: Sequence[SettingsLayer], names: Iterable[str], directory: Path
) -> dict[str, SourcedValue]:
    """Take each name from the highest layer that has it, or has its `<NAME>_FILE`.

    Raises `ConfigurationError` with a line for each file that cannot be used.
    """
    found: dict[str, SourcedValue] = {}
    problems: list[str] = []
    for name in names:
        try:
            found.update(_first(name, layers, directory))
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return found


def one_line(text: str) -> str:
    """Return text that fits into one line: escaped if it has unprintable characters."""
    return text if text.isprintable() else ascii(text)


def _first(name: str, layers: Sequence[SettingsLayer], directory: Path) -> dict[str, SourcedValue]:
    for layer in layers:
        if name in layer.values:
            return {name: SourcedValue(layer.values[name], layer.origin)}
        if name in FROM_FILE and f"{name}_FILE" in layer.values:
            path = str(layer.values[f"{name}_FILE"])
            label = f"{name}_FILE={one_line(path)} ({layer.origin})"
            text = _read(directory / path, label).removesuffix("\n").removesuffix("\r")
            if not text:
                raise ConfigurationError(f"{label}: the file is empty")
            return {name: SourcedValue(text, f"file {one_line(path)}")}
    return {}


def _read(path: Path, label: str, *, optional: bool = False) -> str:
    try:
        # A virtual environment may be a directory named .env.
        if optional and not path.is_file():
            return ""
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        # A decoding error would quote the content.
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
        raise ConfigurationError(f"{label}: cannot be read: {reason}") from None


def _dotenv(path: Path) -> SettingsLayer:
    # Not `dotenv_values`: it expands ${…} from the environment and logs what it cannot parse.
    bindings = list(dotenv_parser.parse_stream(io.StringIO(_read(path, path.name, optional=True))))
    values = {bound.key: bound.value for bound in bindings if bound.key and bound.value}
    errors = [bound.original.line for bound in bindings if bound.error]
    warnings = (f"{path.name}, line {line}: cannot be parsed, ignored" for line in errors)
    return SettingsLayer(path.name, values, tuple(warnings))


def _yaml(path: Path) -> SettingsLayer:
    try:
        content = map_values.parse(_read(path, path.name, optional=True))
    except ValueError as error:
        raise ConfigurationError(f"{path.name}: {error}") from None
    return SettingsLayer(path.name, dict(_flatten("", content)))


def _flatten(name: str, node: object) -> Iterator[tuple[str, object]]:
    """Join nested keys with `_`, down to a setting; null and empty values are not set."""
    if isinstance(node, Mapping) and name not in NAMES:
        for key, child in node.items():
            yield from _flatten(f"{name}_{key}".lstrip("_").upper(), child)
    elif name and node not in ("", "~", "null", {}, []):
        yield name, node
