"""Many instances, workers that are killed, and the public commands at the end."""

from pathlib import Path

from tests.e2e.place import Place
from tests.mix import Plan, mix


async def test_killed_workers_leave_every_instance_with_exactly_its_own(
    place: Place, tmp_path: Path
) -> None:
    """A small `make mix`: unkind names, repeated events, SIGKILL in the middle of each wave."""
    plan = Plan(events=1200, instances=70, workers=2, kill_every=1, wave=600, seed=7)

    assert await mix(plan, place, tmp_path)
