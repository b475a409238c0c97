"""An answer other than 200: what happened, and what to change."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse


class HttpError(Exception):
    """Ends a request; `code` and `reason` are metric labels, the message is for a person.

    The message names fields, headers and settings, never their values.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def answer(self) -> JSONResponse:
        """Say it as JSON, and close the connection: its body may still be on the way."""
        body = {"error": str(self), "reason": self.reason}
        return JSONResponse(body, self.code, {"connection": "close"})


UNROUTED: Final = {404: "not_found", 405: "bad_method"}
"""Reasons of what no route takes."""


def unrouted(error: HTTPException, paths: str) -> JSONResponse:
    """Answer what no route takes (404, 405); `paths` says what there is."""
    reason = UNROUTED[error.status_code]
    body = {"error": f"{error.detail}; here is {paths}", "reason": reason}
    return JSONResponse(body, error.status_code, error.headers)
