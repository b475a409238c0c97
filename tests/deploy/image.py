"""The image: built by buildah on a stand-in for its base, started on a read-only root."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.deploy.files import HOME
from tests.deploy.tools import VENV, run, tool

BASE: Final = "localhost/python:3.13-slim"
IMAGE: Final = "localhost/chatwoot-cache:under-test"

# What `docker run --read-only --user` gives, with the network of the host; and without a shell.
_START: Final = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -o remount,ro,bind "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
mount --bind "$VOLUME" "$ROOT/var/lib/chatwoot-cache"
mount --bind /dev/null "$ROOT/usr/bin/dash"
mount --bind /dev/null "$ROOT/usr/bin/bash"
exec chroot --userspec="$OWNER" --groups= "$ROOT" /usr/bin/env -i -C "$FOLDER" "$@"
"""


def build() -> None:
    """Build the image, on a base made of Debian's own Python once and kept in .venv."""
    _provide_base()
    wheels = _provide_wheels()
    run(
        *("buildah", "bud", "--isolation", "chroot", "--pull-never", "--format", "docker"),
        *("--layers", "--quiet", "--secret", f"id=pip,src={wheels / 'pip.conf'}"),
        *("--volume", f"{wheels}:/wheels:ro", "--build-arg", "REVISION=tested"),
        *("-t", IMAGE, "."),
        timeout_s=600,
    )


def _provide_base() -> None:
    if BASE in run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}"):
        return
    tree = VENV / "base"
    if not (tree / "usr" / "bin" / "python3").exists():
        wanted = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", wanted, "trixie", tree, timeout_s=600)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", container, tree, "/", timeout_s=300)
    run("buildah", "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
    run("buildah", "commit", "--quiet", container, BASE, timeout_s=300)
    run("buildah", "rm", container)


def _provide_wheels() -> Path:
    """Fetch the locked wheels, so that the build itself needs no network."""
    wheels = VENV / "wheels"
    locks = (HOME / "requirements.lock", HOME / "requirements-build.lock")
    named = [argument for lock in locks for argument in ("-r", str(lock))]
    run(
        *(sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"),
        *("--require-hashes", "--only-binary", ":all:", "--python-version", "3.13"),
        *("--dest", str(wheels), *named),
        timeout_s=600,
    )
    (wheels / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    return wheels


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the image: what the image says of itself, and where its root is."""

    root: Path
    volume: Path
    config: Mapping[str, Any]

    def start(
        self, command: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command as the image's user, on a root that is read-only; gives its process."""
        given = [*self.config["Env"], *(f"{name}={text}" for name, text in environ.items())]
        outside = {
            "PATH": os.environ["PATH"],
            "ROOT": str(self.root),
            "VOLUME": str(self.volume),
            "OWNER": self.config["User"],
            "FOLDER": self.config["WorkingDir"],
        }
        with log.open("ab") as output:
            return subprocess.Popen(
                [tool("unshare"), "--mount", "bash", "-c", _START, "start", *given, *command],
                env=outside,
                stdout=output,
                stderr=output,
            )


@contextmanager
def container(volume: Path) -> Iterator[Container]:
    """A container that has not been started, and a volume that belongs to its user."""
    name = run("buildah", "from", "--pull-never", IMAGE).strip()
    config = json.loads(run("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
    user, group = map(int, config["User"].split(":"))
    os.chown(volume, user, group)
    try:
        yield Container(Path(run("buildah", "mount", name).strip()), volume, config)
    finally:
        run("buildah", "umount", name)
        run("buildah", "rm", name)
