"""`healthcheck`: asks a running worker whether it is alive, for HEALTHCHECK and PM2."""

import argparse
import http.client
import json
import sys
from typing import Final

from worker.settings import LoadedSettings

TIMEOUT_S: Final = 3.0
_ANSWER_BYTES: Final = 65536
_ANY: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  (asked, not bound)


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the command line."""
    parser = subparsers.add_parser(
        "healthcheck",
        help="ask the running worker whether it is alive",
        description="Ask the running worker (GET /livez on its ops port) whether it is alive. "
        "Exit code 0: it is. Exit code 1: it is not, or does not answer; the reason is printed.",
    )
    parser.set_defaults(func=run)


def run(_args: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Print what the worker says of itself; 0 when it is alive, else 1."""
    code, said = ask(loaded.settings.ops_host, loaded.settings.ops_port)
    sys.stdout.write(f"{said}\n")
    return code


def reachable(host: str) -> str:
    """Return an address by which a server that listens on `host` is asked from this machine."""
    return _ANY.get(host, host)


def ask(host: str, port: int, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Give the exit code and one line for a person; never raises."""
    host = reachable(host)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        return _judge(response.status, response.read(_ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        return 1, f"no answer from {host} port {port}: {why}"
    finally:
        connection.close()


def _judge(status: int, body: bytes) -> tuple[int, str]:
    try:
        said = json.loads(body)
        alive = status == http.HTTPStatus.OK and said["status"] == "ok"
        line = ": ".join(str(said[key]) for key in ("status", "reason") if key in said)
    except (ValueError, TypeError, KeyError):
        return 1, f"status code {status} from something that is not this worker"
    return (0 if alive else 1), line
