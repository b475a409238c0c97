"""Parses the option `--bind INBOX=INSTANCE`."""

from collections.abc import Mapping, Sequence

from worker.core.cache_keys import MAX_NAME_BYTES
from worker.core.inbox_matching import Inbox
from worker.errors import ConfigurationError


def parse_bind_options(options: Sequence[str], inboxes: Sequence[Inbox]) -> Mapping[str, str]:
    """Return inbox key to instance; INBOX is `account/id`, an id, or a whole name.

    Raises `ConfigurationError` where no inbox or more than one fits.
    """
    return dict(_parse(option, inboxes) for option in options)


def _parse(option: str, inboxes: Sequence[Inbox]) -> tuple[str, str]:
    parts = option.split("=")
    # A name may contain `=` itself, so each one is tried.
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(1, len(parts))]
    meanings = {
        (inbox.key, instance)
        for name, instance in splits
        for inbox in inboxes
        if name in (inbox.key, str(inbox.id), inbox.name)
    }
    if not meanings:
        raise ConfigurationError(
            f"--bind {option}: no inbox has that name; write it as INBOX=INSTANCE, "
            "with the inbox's account/id, its id, or its name"
        )
    if len(meanings) > 1:
        choices = ", ".join(f"{key} as {instance!r}" for key, instance in sorted(meanings))
        raise ConfigurationError(
            f"--bind {option} may mean {choices}: write the inbox as account/id"
        )
    ((key, instance),) = meanings
    if not 1 <= len(instance.encode(errors="surrogateescape")) <= MAX_NAME_BYTES:
        raise ConfigurationError(
            f"--bind {option}: an instance's name is 1 to {MAX_NAME_BYTES} bytes"
        )
    return key, instance
