"""The errors of the worker, and what each caller does about them.

    WorkerError
    ├── ConfigurationError   exit with code 2 and the setting to change
    ├── PermissionDenied     exit with code 2 and the missing permission or password
    ├── RedisUnavailable     keep the work, wait and retry (exit code 3 in a command)
    ├── BindingsChanged      resolve the batch again with the current bindings
    ├── GroupMissing         create the consumer group again and continue
    ├── UpstreamError        report the answer of Evolution or Chatwoot (exit code 1)
    ├── SpoolError           answer 503: the spool cannot store the webhook
    └── UnusableEntry        move the entry to the dead letters with the reason
        ├── UnknownInbox     the inbox is not bound to an instance
        └── BindingConflict  the inbox or the instance is bound otherwise

Adapters translate the errors of their libraries into these.
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
"""Why an entry is a dead letter."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


class WorkerError(Exception):
    """Base class; the message is one line for the user."""


class ConfigurationError(WorkerError):
    """A setting or an argument cannot be used; the message names it and what is allowed."""


class PermissionDenied(WorkerError):
    """Redis refused a command (NOPERM, WRONGPASS, NOAUTH); the message names what is missing."""


class RedisUnavailable(WorkerError):
    """Redis cannot serve a command now; a retry may succeed.

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
    """The consumer group or its stream does not exist."""


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
"""Why a request to Evolution or Chatwoot failed."""


class UpstreamError(WorkerError):
    """A request to Evolution or Chatwoot failed; the message says what to change.

    The message never contains a token or a part of the response body.
    """

    def __init__(self, kind: UpstreamFailure, message: str) -> None:
        super().__init__(message)
        self.kind: UpstreamFailure = kind


class BindingsChanged(WorkerError):
    """The bindings changed after the documents were resolved; nothing was written."""


class SpoolError(WorkerError):
    """The spool cannot store a webhook; `reason` is a label of `webhook_requests_total`."""

    def __init__(self, reason: Literal["spool_full", "spool_failed"], message: str) -> None:
        super().__init__(message)
        self.reason: Literal["spool_full", "spool_failed"] = reason


class UnusableEntry(WorkerError):
    """An entry that cannot be cached, whatever the number of attempts.

    The message is stored, logged and shown: it names fields, limits, inboxes and instances, never
    the content of a message.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason

    def detached(self) -> Self:
        """Return this error without its traceback and context.

        Their frames hold the whole entry and form reference cycles: megabytes for each dead letter
        would stay in memory until the cyclic garbage collector runs.
        """
        self.__context__ = None
        return self.with_traceback(None)


class UnknownInbox(UnusableEntry):
    """An event without an instance (reason `no_instance`).

    `inbox` is the inbox of the event as far as it is known; `allow` is the instance that the name
    of the inbox suggests.
    """

    def __init__(self, message: str, *, inbox: str, allow: str | None = None) -> None:
        super().__init__("no_instance", message)
        self.inbox = inbox
        self.allow = allow


class BindingConflict(UnusableEntry):
    """An event that contradicts a binding (reason `instance_conflict`).

    `inbox` is the inbox of the event, `instance` the one it names, `bound` the instance or inbox
    of the existing binding. `allow` is the instance to bind the inbox to so that a replay succeeds,
    `release` the inboxes to unbind first; both are empty where a binding would not help.
    `fixed` is true when the existing binding comes from the settings.
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
