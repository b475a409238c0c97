"""The application on the public port: the webhook and the reads."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from worker.reads import openapi, read_request
from worker.web.http_error import HttpError
from worker.web.response import error_answer, send_answer

_READS_OFF: Final = error_answer(
    HttpError(
        404,
        "reads_off",
        "reads are off: set CHATWOOT_CACHE_HTTP_API_KEY or CHATWOOT_CACHE_HTTP_INSTANCE_KEYS",
    ),
    "rejected",
)
_NOT_FOUND: Final = error_answer(HttpError(404, "not_found", "there is no such path"), "rejected")


def public_app(webhook: ASGIApp | None, reads: ASGIApp | None) -> ASGIApp:
    """Build the application; None for a part that is off."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        is_read = raw_path.startswith(read_request.ROOT) or raw_path == openapi.PATH
        part = reads if is_read else webhook
        if part is None:
            await send_answer(send, _READS_OFF if is_read else _NOT_FOUND)
        else:
            await part(scope, receive, send)

    return app
