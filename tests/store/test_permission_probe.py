"""What `doctor` tries is what `acl` grants."""

from worker.core.cache_keys import CacheKeys
from worker.core.operations.acl_rules import rules
from worker.store.admin import permission_probe

COMMANDS = (
    *permission_probe.of_stream("events", "group"),
    *permission_probe.of_cache(CacheKeys("p")),
    *permission_probe.of_memory(),
)

_PURGE = "without it pairing codes of an earlier release are not deleted; the worker warns"

UNTRIED = {
    "ping": "without it the server counts as unavailable",
    "select": "sent while connecting",
    "client|setname": "sent while connecting, if the URI has a name",
    "client|unblock": "without it a worker stops a little later",
    "info": "without it a worker does not log which server it uses",
    "xdel": _PURGE,
    "xrevrange": _PURGE,
    "scan": _PURGE,
    "unlink": _PURGE,
    "zrem": _PURGE,
}


def test_each_command_that_a_worker_is_granted_is_tried_or_excused() -> None:
    granted = {rule[1:] for rule in rules("worker", prefix="p", stream="events") if rule[0] == "+"}
    tried = {permission_probe.name(command) for command in COMMANDS}

    assert tried | UNTRIED.keys() == granted
    assert not tried & UNTRIED.keys()
