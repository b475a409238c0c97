"""Finds out whether a URL redirects."""

import httpx

from worker.chatwoot.http_client import redirect_target, ssl_context


async def redirect_of(url: str, *, timeout_s: float) -> str | None:
    """Return the scheme and host that a URL redirects to, None without a redirect or a reply."""
    async with httpx.AsyncClient(timeout=timeout_s, verify=ssl_context()) as client:
        try:
            async with client.stream("GET", url) as response:
                return redirect_target(response)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
