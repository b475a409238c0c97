"""What `doctor` tries is what `acl` grants."""

from worker.core.cache_keys import CacheKeys
from worker.core.tooling.acl_rules import rules
from worker.store.admin import permission_probe

COMMANDS = (
    *permission_probe.of_stream("events", "group"),
    *permission_probe.of_cache(CacheKeys("p")),
    *permission_probe.of_memory(),
)


def test_each_command_that_a_worker_is_granted_is_tried_or_excused() -> None:
    granted = {rule[1:] for rule in rules("worker", prefix="p", stream="events") if rule[0] == "+"}
    tried = {permission_probe.name(command) for command in COMMANDS}

    assert tried | permission_probe.UNTRIED.keys() == granted
    assert not tried & permission_probe.UNTRIED.keys()
