"""systemd reads the unit without a word, and finds it well sealed."""

import re
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.deploy.tools import run
from worker.health import STALLED_AFTER_S
from worker.settings.knobs import Settings

pytestmark = pytest.mark.deploy

UNIT = DEPLOY / "systemd" / "chatwoot-cache.service"
GRACE_S = 5


def test_systemd_reads_the_unit_without_a_word(tmp_path: Path) -> None:
    # The program is not installed where an operator would have it.
    program = tmp_path / "chatwoot-cache"
    program.write_text("")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", UNIT.read_text()))

    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


def test_the_unit_is_sealed_as_its_note_says() -> None:
    said = re.search(r"gives it ([\d.]+)", UNIT.read_text())
    report = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    measured = re.search(r"exposure level for .*: ([\d.]+)", report)

    assert said
    assert measured
    assert said[1] == measured[1]
    assert float(measured[1]) < 2


def test_the_unit_waits_longer_than_the_worker_takes() -> None:
    unit = UNIT.read_text()

    assert _seconds("TimeoutStopSec", unit) > _default("shutdown_timeout_s") + GRACE_S
    # Half of it is how often the watchdog is fed, and only while the loop is not stalled.
    assert _seconds("WatchdogSec", unit) > STALLED_AFTER_S


def _default(field: str) -> float:
    return float(Settings.model_fields[field].default)


def _seconds(name: str, unit: str) -> float:
    found = re.search(rf"(?m)^{name}=(\d+)$", unit)
    assert found, name
    return float(found[1])
