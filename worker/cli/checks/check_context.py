"""What the checks look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.settings import LoadedSettings, Settings
from worker.store.admin.server_probe import ServerProbe
from worker.store.admin.stream_info import StreamInspector
from worker.store.client import Client

_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
_VARIABLES: Final = ("container", "KUBERNETES_SERVICE_HOST")


@dataclass(frozen=True, slots=True)
class CheckContext:
    """An installation, and one server of it at hand.

    `client` and `survey` lead to that server, `blocking` waits as long as the worker does.
    """

    loaded: LoadedSettings
    environ: Mapping[str, str]
    client: Client
    blocking: Client

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return self.loaded.settings

    @property
    def survey(self) -> ServerProbe:
        """Questions to the server."""
        return ServerProbe(self.client)

    @property
    def census(self) -> StreamInspector:
        """The stream on the server."""
        return StreamInspector(self.client, self.settings.stream_key, self.settings.stream_group)


def in_container(environ: Mapping[str, str]) -> bool:
    """Whether this runs in a container, as far as Docker, Podman and Kubernetes say so."""
    return any(name in environ for name in _VARIABLES) or any(mark.exists() for mark in _MARKS)
