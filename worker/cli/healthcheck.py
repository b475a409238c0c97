"""Ask the running worker whether it is alive.

Sends GET /livez to the worker's ops port, for HEALTHCHECK and PM2. Exit code 0: it is alive.
Exit code 1: it is not, or does not answer; the reason is printed.
"""

import http.client
import json
import sys
from argparse import ArgumentParser, Namespace
from typing import Final

from worker.settings import LoadedSettings

TIMEOUT_S: Final = 3.0
_MAX_BYTES: Final = 65_536
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  (not bound here)


def add_arguments(_parser: ArgumentParser) -> None:
    """Add no arguments."""


def run(_arguments: Namespace, loaded: LoadedSettings) -> int:
    """Print the worker's answer; 0 when it is alive, else 1."""
    code, line = check_liveness(loaded.settings.ops_host, loaded.settings.ops_port)
    sys.stdout.write(f"{line}\n")
    return code


def local_address(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return _WILDCARDS.get(host, host)


def check_liveness(host: str, port: int, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Return the exit code and a line for a person; never raises."""
    host = local_address(host)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        return _parse(response.status, response.read(_MAX_BYTES))
    except (OSError, http.client.HTTPException) as error:
        return 1, f"no answer from {host} port {port}: {str(error) or type(error).__name__}"
    finally:
        connection.close()


def _parse(status: int, body: bytes) -> tuple[int, str]:
    try:
        health = json.loads(body)
        is_alive = status == http.HTTPStatus.OK and health["status"] == "ok"
        line = ": ".join(str(health[key]) for key in ("status", "reason") if key in health)
    except (ValueError, TypeError, KeyError):
        return 1, f"status code {status} from something that is not this worker"
    return (0 if is_alive else 1), line
