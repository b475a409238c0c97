"""Looks where an address leads, as far as that can be seen from here."""

import httpx

from worker.chatwoot.http_client import certificates


async def redirect_of(url: str, *, timeout_s: float) -> str | None:
    """Return the scheme and host that an address redirects to; None where it does not, or hides."""
    async with httpx.AsyncClient(timeout=timeout_s, verify=certificates()) as client:
        try:
            response = await client.get(url)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
    target = response.next_request.url if response.next_request else None
    return f"{target.scheme}://{target.netloc.decode()}" if target else None
