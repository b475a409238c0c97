"""Client of Evolution's API, as far as `connect` needs it: instances and their Chatwoot settings.

Written against Evolution API 2.3: `GET /instance/fetchInstances` with the global key in `apikey`.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from worker.chatwoot.http_client import JsonClient, RequestPolicy
from worker.core.inbox_matching import ChatwootConfig, EvolutionInstance
from worker.errors import UpstreamFailure

_ADVICE: Final[Mapping[UpstreamFailure, str]] = {
    "unauthorized": "the key is not its AUTHENTICATION_API_KEY",
    "forbidden": "the key may not list instances; use its AUTHENTICATION_API_KEY",
    "missing": "is that Evolution's own address, without a path such as /manager?",
    "limited": "Evolution or a proxy before it limits requests; try again in a minute",
    "failing": "see Evolution's own log, and try again",
    "slow": "try again",
    "unreachable": "give an address that is reachable from here: --evolution URL",
    "redirected": "give that address instead: --evolution URL",
    "strange": "is that Evolution API 2, by its own address, without a path such as /manager?",
}
_NAME_SEPARATOR: Final = "-cwId-"


class _ChatwootSettings(Struct, rename="camel"):
    enabled: bool | None = None
    account_id: str | int | None = None
    token: str | None = None
    url: str | None = None
    name_inbox: str | None = None


class _Instance(Struct):
    name: str
    chatwoot: _ChatwootSettings | None = msgspec.field(default=None, name="Chatwoot")


class EvolutionClient:
    """Client of one Evolution installation, with its global API key."""

    def __init__(self, url: str, apikey: str, *, timeout_s: float) -> None:
        policy = RequestPolicy(timeout_s)
        self._http = JsonClient("Evolution", url, {"apikey": apikey}, _ADVICE, policy)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def instances(self) -> list[EvolutionInstance]:
        """Return all instances."""
        found = await self._http.request("GET", "/instance/fetchInstances", list[_Instance])
        return [EvolutionInstance(one.name, _chatwoot_config(one)) for one in found]


def _chatwoot_config(instance: _Instance) -> ChatwootConfig | None:
    """Return an instance's Chatwoot settings, None where they are off or incomplete."""
    stated = instance.chatwoot
    if not (stated and stated.enabled and stated.url and stated.token):
        return None
    account = str(stated.account_id or "")
    if not (account.isascii() and account.isdigit()):
        return None
    # Evolution's default name of the inbox.
    inbox_name = stated.name_inbox or instance.name.partition(_NAME_SEPARATOR)[0]
    return ChatwootConfig(stated.url.rstrip("/"), int(account), stated.token, inbox_name)
