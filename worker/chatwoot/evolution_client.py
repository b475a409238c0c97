"""Evolution's API, as far as `connect` needs it: its instances, and where their Chatwoot is.

Read from Evolution API 2.3: `GET /instance/fetchInstances` with the global key in `apikey`.
"""

from collections.abc import Mapping
from typing import Final, Self

import msgspec
from msgspec import Struct

from worker.chatwoot.http_client import JsonClient, RemoteService
from worker.core.inbox_matching import ChatwootConfig, EvolutionInstance
from worker.errors import UpstreamFailure

_ADVICE: Final[Mapping[UpstreamFailure, str]] = {
    "unauthorized": "the key is not its AUTHENTICATION_API_KEY",
    "forbidden": "the key may not list instances; use its AUTHENTICATION_API_KEY",
    "missing": "is that Evolution's own address, without a path such as /manager?",
    "limited": "it, or what stands before it, limits requests; try again in a minute",
    "failing": "see Evolution's own log, and try again",
    "slow": "try again",
    "unreachable": "give the address that leads there from here: --evolution URL",
    "redirected": "give that address instead: --evolution URL",
    "strange": "is that Evolution API 2, by its own address, without a path such as /manager?",
}
_NAME_CUT: Final = "-cwId-"


class _Chatwoot(Struct, rename="camel"):
    enabled: bool | None = None
    account_id: str | int | None = None
    token: str | None = None
    url: str | None = None
    name_inbox: str | None = None


class _Instance(Struct):
    name: str
    chatwoot: _Chatwoot | None = msgspec.field(default=None, name="Chatwoot")


class EvolutionClient:
    """One Evolution, by its global API key."""

    def __init__(self, url: str, apikey: str, *, timeout_s: float) -> None:
        self._peer = RemoteService("Evolution", url, {"apikey": apikey}, _ADVICE)
        self._api = JsonClient(self._peer, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        """Return the installation itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the connections back."""
        await self._api.close()

    async def instances(self) -> list[EvolutionInstance]:
        """Return all instances; one whose Chatwoot is off, or set in part, has no link."""
        answer = await self._api.get("/instance/fetchInstances")
        try:
            found = msgspec.json.decode(answer, type=list[_Instance])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Without the cause, which may quote a token.
            what = "answers in a shape that is not Evolution 2's"
            raise self._peer.declined("strange", what) from None
        return [EvolutionInstance(one.name, _link(one)) for one in found]


def _link(instance: _Instance) -> ChatwootConfig | None:
    of = instance.chatwoot
    account = str(of.account_id or "") if of else ""
    if not (of and of.enabled and of.url and of.token and account.isascii() and account.isdigit()):
        return None
    # So does Evolution name the inbox when nobody says otherwise.
    inbox_name = of.name_inbox or instance.name.partition(_NAME_CUT)[0]
    return ChatwootConfig(of.url.rstrip("/"), int(account), of.token, inbox_name)
