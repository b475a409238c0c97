"""Webhooks signed as Chatwoot does: HMAC-SHA256 over the time, a dot, and the raw body."""

import hashlib
import hmac
import time


def signed(body: bytes, secret: str) -> dict[str, str]:
    """The headers that Chatwoot adds now to a body, with an account's secret."""
    at = str(int(time.time()))
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Chatwoot-Timestamp": at, "X-Chatwoot-Signature": f"sha256={digest}"}
