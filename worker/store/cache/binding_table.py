"""The bindings in Redis: two hashes and their version, changed only by scripts."""

import re
import secrets
from collections.abc import Mapping, Sequence

from worker.core.binding_rules import BindingClaim, Bindings
from worker.core.cache_keys import CacheKeys
from worker.store.cache.document_writer import TOMBSTONE_EXTRA_S, CacheSettings
from worker.store.client import Client, load_script, translate_errors

_INBOX = re.compile(rb"[0-9]{1,16}/[0-9]{1,16}")


class BindingTable:
    """The bindings of one prefix; `load` renews their TTL.

    The version changes when a binding is changed or removed, or after all were lost. It does not
    change when one is added: a copy that lacks a binding claims it.
    """

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        keys = CacheKeys(settings.prefix)
        self._client = client
        self._version_key = keys.version
        self._keys = [keys.bindings, keys.accounts, keys.version]
        self._ttl_s = _ttl_s(settings.ttl_s)
        self._claim = load_script(client, __file__, "claim_bindings")
        self._bind = load_script(client, __file__, "bind_inboxes")

    async def version(self) -> bytes:
        """Return the current version."""
        async with translate_errors(self._client):
            return await self._client.get(self._version_key) or b""

    async def load(self) -> Bindings:
        """Read all bindings and renew their TTL."""
        bindings = await self._read(renew=True)
        if bindings.instances and not bindings.version:
            # Written by an earlier release, or the version was evicted.
            async with translate_errors(self._client):
                await self._client.set(self._version_key, _new_version(), nx=True, ex=self._ttl_s)
            return await self.load()
        return bindings

    async def peek(self) -> Bindings:
        """Read all bindings without renewing their TTL."""
        return await self._read(renew=False)

    async def _read(self, *, renew: bool) -> Bindings:
        instances_key, accounts_key, version_key = self._keys
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            # The version first: one that is older than the rest only causes another read.
            pipeline.get(version_key)
            pipeline.hgetall(instances_key)
            pipeline.hgetall(accounts_key)
            for key in self._keys if renew else ():
                pipeline.expire(key, self._ttl_s)
            version, instances, accounts, *_ = await pipeline.execute()
        return _parse(version, instances, accounts)

    async def put(self, bindings: Bindings) -> Mapping[str, str]:
        """Write the operator's bindings over existing ones.

        Returns, for each inbox that was bound to another instance, that instance.
        """
        return await self._change(bindings.instances)

    async def drop(self, inbox: str) -> Mapping[str, str]:
        """Unbind an inbox; an instance without inboxes loses its account. Returns as `put`."""
        return await self._change({inbox: ""})

    async def _change(self, instances: Mapping[str, str]) -> Mapping[str, str]:
        if not instances:
            return {}
        arguments: list[str | int] = [self._ttl_s, _new_version()]
        for inbox, instance in instances.items():
            arguments += (inbox, inbox.partition("/")[0], instance)
        async with translate_errors(self._client):
            previous = await self._bind(self._keys, arguments)
        pairs = zip(instances, previous, strict=True)
        return {inbox: instance.decode() for inbox, instance in pairs if instance}

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        """Claim bindings; returns the bindings of the claimed inboxes and instances.

        The result has a version only if these are the first bindings of the prefix.
        """
        arguments: list[str | int] = [self._ttl_s, _new_version()]
        for claim in claims:
            arguments += (claim.inbox, claim.account_id, claim.instance, int(claim.further))
        async with translate_errors(self._client):
            version, *replies = await self._claim(self._keys, arguments)
        pairs = list(zip(claims, replies, strict=True))
        return Bindings(
            {claim.inbox: bound.decode() for claim, (bound, _) in pairs if bound},
            {claim.instance: int(owner) for claim, (_, owner) in pairs if owner},
            version,
        )


def _parse(
    version: bytes | None, instances: Mapping[bytes, bytes], accounts: Mapping[bytes, bytes]
) -> Bindings:
    """Ignore foreign fields: one invalid field must not stop every worker."""
    return Bindings(
        {i.decode(): name.decode() for i, name in instances.items() if _INBOX.fullmatch(i)},
        {name.decode(): int(a) for name, a in accounts.items() if a.isdigit()},
        version or b"",
    )


def _new_version() -> str:
    return secrets.token_hex(8)


def _ttl_s(documents_ttl_s: int) -> int:
    """Return a TTL that is longer than that of any document, tombstones included."""
    return max(4 * documents_ttl_s, documents_ttl_s + 2 * TOMBSTONE_EXTRA_S)
