"""What `doctor` tries is what `acl` grants."""

from worker.core.access import rules
from worker.core.keys import Keys
from worker.store import rights

COMMANDS = (
    *rights.of_stream("events", "group"),
    *rights.of_cache(Keys("p")),
    *rights.of_memory(),
)


def test_each_command_that_a_worker_is_granted_is_tried_or_excused() -> None:
    granted = {rule[1:] for rule in rules("worker", prefix="p", stream="events") if rule[0] == "+"}
    tried = {rights.name(command) for command in COMMANDS}

    assert tried | rights.UNTRIED.keys() == granted
    assert not tried & rights.UNTRIED.keys()
