"""Every error of ours, named by what to do about it.

    Error
    ├── ConfigurationError   stop, say which setting to change (exit code 2)
    ├── Refused         stop, say which right or password is missing (exit code 2)
    ├── RedisUnavailable     keep what is in hand, wait, try again (exit code 3 in a command)
    ├── Outdated        resolve the batch again by the bindings that stand now
    ├── GroupMissing    create the consumer group again, then go on
    ├── Declined        say what Evolution or Chatwoot answered and what to change (exit code 1)
    ├── SpoolError       the disk cannot keep a webhook either: answer 503
    └── UnusableEntry        bury the entry, with this reason
        ├── UnknownInbox    ... and say which inbox nobody bound
        └── Conflict    ... and say which two instances met

Adapters translate the errors of their libraries into these at the edge.
"""

from typing import Final, Literal, Self, get_args

Reason = Literal[
    "bad_entry",
    "bad_json",
    "bad_event",
    "no_instance",
    "instance_conflict",
    "too_large",
    "wrong_type",
    "max_attempts",
]
"""Why an entry is dead: the closed list."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


class WorkerError(Exception):
    """Any failure this project names; the message is one line for a person."""


class ConfigurationError(WorkerError):
    """A setting or an argument cannot be used; the message names it and what is allowed."""


class PermissionRefused(WorkerError):
    """Redis refuses us (NOPERM, WRONGPASS, NOAUTH); the message names what is missing."""


class RedisUnavailable(WorkerError):
    """Redis cannot serve us now, and may later.

    `kind` is one of `UNAVAILABLE_KINDS`: a metric label and a log field.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


UNAVAILABLE_KINDS: Final = (
    "connection",
    "timeout",
    "oom",
    "readonly",
    "loading",
    "masterdown",
    "clusterdown",
    "misconf",
    "noreplicas",
    "busy",
    "tryagain",
    "noscript",
    "max_clients",
)


class GroupMissing(WorkerError):
    """The consumer group, or its whole stream, is gone."""


UpstreamFailure = Literal[
    "unreachable",
    "slow",
    "unauthorized",
    "forbidden",
    "missing",
    "limited",
    "unprocessable",
    "failing",
    "redirected",
    "strange",
]
"""How Evolution or Chatwoot does not give what it was asked for."""


class UpstreamError(WorkerError):
    """Evolution or Chatwoot does not give what it was asked for; the message says what to change.

    It never holds a token, nor anything of the answer's body.
    """

    def __init__(self, kind: UpstreamFailure, message: str) -> None:
        super().__init__(message)
        self.kind: UpstreamFailure = kind


class BindingsChanged(WorkerError):
    """The bindings were changed since documents were resolved by them; nothing was written."""


class SpoolError(WorkerError):
    """The spool cannot take a webhook now; `reason` is a label of `webhook_requests_total`."""

    def __init__(self, reason: Literal["spool_full", "spool_failed"], message: str) -> None:
        super().__init__(message)
        self.reason: Literal["spool_full", "spool_failed"] = reason


class UnusableEntry(WorkerError):
    """An entry that can never be cached as it is; it goes to the dead letters.

    The message names fields, limits, inboxes and instances, never what people wrote:
    it is stored, logged and shown.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason

    def detached(self) -> Self:
        """Return this error without the frames it passed.

        They hold the whole entry, and a frame that keeps its own error is not freed before
        the cyclic garbage collector comes round: megabytes for each dead letter.
        """
        self.__context__ = None
        return self.with_traceback(None)


class UnknownInbox(UnusableEntry):
    """An event of which nothing says where it belongs (`no_instance`).

    `inbox` is where it came from, as far as that is known; `allow` is the instance that the
    inbox's name suggests.
    """

    def __init__(self, message: str, *, inbox: str, allow: str | None = None) -> None:
        super().__init__("no_instance", message)
        self.inbox = inbox
        self.allow = allow


class BindingConflict(UnusableEntry):
    """An event that a binding forbids to cache (`instance_conflict`).

    `inbox` is where the event came from, `instance` what it asked for, `bound` what stands: an
    instance, or the inbox that has the instance.
    `allow` is the instance to bind the inbox to, so that a replay lets the event in; `release`
    names the inboxes that would have to be unbound for that; neither where nothing would help.
    `fixed` says that the operator's settings are what stands.
    """

    def __init__(
        self,
        message: str,
        *,
        inbox: str,
        instance: str | None = None,
        bound: str | None = None,
        allow: str | None = None,
        release: tuple[str, ...] = (),
        fixed: bool = False,
    ) -> None:
        super().__init__("instance_conflict", message)
        self.inbox = inbox
        self.instance = instance
        self.bound = bound
        self.allow = allow
        self.release = release
        self.fixed = fixed
