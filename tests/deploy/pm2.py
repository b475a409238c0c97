"""A PM2 of the test's own: its daemon lives in a folder of its own, and ends with it."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.files import DEPLOY
from tests.deploy.tools import VENV, run, tool

ECOSYSTEM: Final = DEPLOY / "pm2" / "ecosystem.config.cjs"
_PROGRAM: Final = VENV / "pm2" / "node_modules" / "pm2" / "bin" / "pm2"


class PM2:
    """What an operator types, in a folder with a `.env` or an `env.yml`."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home

    def do(self, *command: str, **environ: str) -> str:
        """Run `pm2 …`; it must succeed."""
        given = {"PM2_HOME": str(self.home), "NO_COLOR": "1", **environ}
        return run("node", _PROGRAM, *command, cwd=self.folder, environ=given)

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Start `pm2 …` and do not wait for it."""
        environ = {**os.environ, "PM2_HOME": str(self.home)}
        return subprocess.Popen(
            [tool("node"), str(_PROGRAM), *command],
            cwd=self.folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self, *, extra: int = 0) -> None:
        """Start as the README says; returns when every process is ready."""
        self.do("start", str(ECOSYSTEM), EXTRA_WORKERS=str(extra))

    def processes(self) -> list[dict[str, Any]]:
        """What PM2 knows of each process."""
        lines = self.do("jlist").splitlines()
        found: list[dict[str, Any]] = json.loads(lines[-1])
        return found

    def states(self) -> list[str]:
        """The status of each process."""
        return [process["pm2_env"]["status"] for process in self.processes()]

    def log(self, name: str = "chatwoot-cache") -> list[str]:
        """The lines on standard error of all processes of a name."""
        file = self.home / "logs" / f"{name}-error.log"
        return file.read_text().splitlines() if file.exists() else []


@contextmanager
def running(folder: Path) -> Iterator[PM2]:
    """PM2 until the end of the block, when its daemon and all it started have gone."""
    if not _PROGRAM.exists():
        pytest.fail("PM2 is missing: install npm, then make test-deploy", pytrace=False)
    pm2 = PM2(folder, folder / ".pm2")
    try:
        yield pm2
    finally:
        pm2.do("kill")
