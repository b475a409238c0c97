"""Error answers: what happened, and what to change."""

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
        """Return the JSON answer, which closes the connection: a body may still be arriving."""
        body = {"error": str(self), "reason": self.reason}
        return JSONResponse(body, self.code, {"connection": "close"})


UNROUTED: Final = {404: "not_found", 405: "bad_method"}
"""The reasons for unknown paths and methods, by status code."""


def unrouted(error: HTTPException, paths: str) -> JSONResponse:
    """Return the answer to an unknown path or method (404, 405); `paths` lists the valid ones."""
    reason = UNROUTED[error.status_code]
    body = {"error": f"{error.detail}; here is {paths}", "reason": reason}
    return JSONResponse(body, error.status_code, error.headers)
