"""What a person states with `--bind INBOX=INSTANCE`, read against the inboxes there are."""

from collections.abc import Iterator, Mapping, Sequence

from worker.core.cache_keys import MAX_NAME_BYTES
from worker.core.inbox_matching import Inbox
from worker.errors import ConfigurationError


def parse_bind_options(stated: Sequence[str], inboxes: Sequence[Inbox]) -> Mapping[str, str]:
    """Return inbox key to instance; an inbox is `account/inbox`, its id, or its whole name.

    Raises `ConfigurationError` where nothing or more than one thing is meant.
    """
    return dict(_one(text, inboxes) for text in stated)


def _one(text: str, inboxes: Sequence[Inbox]) -> tuple[str, str]:
    meanings = list(dict.fromkeys(_meanings(text, inboxes)))
    if not meanings:
        raise ConfigurationError(
            f"--bind {text}: no inbox is called that; write it as INBOX=INSTANCE, "
            "with the inbox's account/id, its id, or its name"
        )
    if len(meanings) > 1:
        these = ", ".join(f"{key} as {instance!r}" for key, instance in meanings)
        raise ConfigurationError(f"--bind {text} may mean {these}: write the inbox as account/id")
    ((key, instance),) = meanings
    if not 1 <= len(instance.encode(errors="surrogateescape")) <= MAX_NAME_BYTES:
        raise ConfigurationError(
            f"--bind {text}: an instance's name is 1 to {MAX_NAME_BYTES} bytes"
        )
    return key, instance


def _meanings(text: str, inboxes: Sequence[Inbox]) -> Iterator[tuple[str, str]]:
    """Yield each reading; a name may hold `=` itself."""
    for at, character in enumerate(text):
        if character != "=":
            continue
        inbox, instance = text[:at], text[at + 1 :]
        for one in inboxes:
            if inbox in (one.key, str(one.id), one.name):
                yield one.key, instance
