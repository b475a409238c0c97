"""A run of our worker as shipped, on a small stream."""

from pathlib import Path

from bench import measured_run
from bench.environment import raised
from bench.events import bodies
from bench.target import WORKER
from bench.workload import Workload

ENTRIES = 400


def test_measures_every_entry_and_leaves_only_the_stream(server_binary: Path) -> None:
    with raised(server_binary) as stage:
        course = Workload(stage.client)
        course.fill(bodies(ENTRIES), lambda _: None)
        ran = measured_run.run(stage, course, WORKER)
        again = measured_run.run(stage, course, WORKER)
        left = {key for key in stage.client.scan_iter() if not key.startswith(b"bench:")}
    assert ran.entries == again.entries == ENTRIES
    assert ran.keys == again.keys > ENTRIES
    assert ran.seconds > 0
    assert ran.ceiling_per_s > 0
    assert ran.peak_rss_bytes > 10_000_000
    assert not left


def test_deletes_no_key_of_another_prefix(server_binary: Path) -> None:
    with raised(server_binary) as stage:
        stage.client.mset({"bench-1:a": "", "bench-1:b": "", "bench-10:a": ""})
        assert stage.drop("bench-1") == 2
        assert stage.client.keys() == [b"bench-10:a"]
