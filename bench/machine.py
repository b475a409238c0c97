"""What the figures were measured on: without it they say nothing."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench.environment import Environment


def described(stage: Environment) -> dict[str, object]:
    """Return machine, versions, cores and load, fit to become JSON; no name of the machine."""
    info = stage.server.info()
    valkey = info.get("valkey_version")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": {
            "server": stage.cores.server,
            "clients": list(stage.cores.clients),
            "measuring": stage.cores.measuring,
        },
        "load_at_start": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "server": f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}",
        "python": platform.python_version(),
        "redis-py": metadata.version("redis"),
        "node": _node(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _node() -> str | None:
    node = shutil.which("node")
    if node is None:
        return None
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()
