"""An operator's tools: found and run, or missed by name with the package that has them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.files import HOME

VENV: Final = Path(sys.prefix)
JUDGES: Final = str(VENV / "deploy" / "bin" / "python")
"""A Python that has the schemas of compose and Kubernetes."""

PACKAGES: Final = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "docker": "docker-cli",
    "docker-compose": "docker-compose",
    "kubectl": "kubernetes-client",
    "node": "nodejs",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
}
"""What to install of Debian, by tool."""


def tool(name: str) -> str:
    """Where a tool is; fails the test, with what to install, where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install {PACKAGES[name]}", pytrace=False)
    return found


def run(
    *command: str | Path,
    cwd: Path = HOME,
    stdin: str | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> str:
    """Run a command to its end and give its output; anything but success fails the test."""
    program, *arguments = map(str, command)
    ended = subprocess.run(
        [tool(program) if program in PACKAGES else program, *arguments],
        cwd=cwd,
        input=stdin,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout
