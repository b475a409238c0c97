"""What can be set: every setting with its default, its bounds and a sentence about it."""

import socket
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker import errors
from worker.core.cache_keys import is_nested_prefix
from worker.settings import map_values, redis_uri
from worker.settings.redis_uri import RedisUri

PREFIX: Final = "CHATWOOT_CACHE_"
"""Before the name of every setting that is not Evolution's own."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
TEN_YEARS_S: Final = 3650 * DAY_S

NO_URI: Final = (
    "CACHE_REDIS_URI is not set: set CACHE_REDIS_URI=redis://host:6379/0,"
    " or CACHE_REDIS_URI=embedded://.data for a laptop"
)
NO_STREAM: Final = (
    "CACHE_REDIS_ENABLED=false with CACHE_LOCAL_ENABLED=true keeps documents in memory alone:"
    " set CHATWOOT_CACHE_STREAM_REDIS_URI, which says where the events are"
)
NO_CACHE: Final = (
    "CACHE_REDIS_ENABLED=false: there is no cache in Redis; what a worker has in its memory is"
    " read over HTTP"
)
NO_TIER: Final = (
    "CACHE_REDIS_ENABLED=false with CACHE_LOCAL_ENABLED=false:"
    " nothing would be cached; set CACHE_REDIS_ENABLED=true"
)

SHARED_KEY: Final = (
    "CHATWOOT_CACHE_HTTP_INSTANCE_KEYS: a key opens one instance only, so no other instance may"
    " have it, and it must not be CHATWOOT_CACHE_HTTP_API_KEY"
)

_FORBIDDEN_IN_PREFIX: Final = "*?[]{}\\%"

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["auto", "json", "console"]


def name_of(field: str) -> str:
    """Return the name a user writes for an attribute of `Settings`."""
    own = not field.startswith(("cache_", "node_"))
    return (PREFIX if own else "") + field.upper()


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _checked_name(value: str) -> str:
    if not map_values.is_valid_name(value) or _has_control(value):
        raise ValueError(
            f"must be 1 to {map_values.NAME_MAX_BYTES} bytes of UTF-8 without control characters"
        )
    return value


def _checked_prefix(value: str) -> str:
    if any(character in _FORBIDDEN_IN_PREFIX for character in value):
        raise ValueError(f"must not contain any of {' '.join(_FORBIDDEN_IN_PREFIX)}")
    if is_nested_prefix(value):
        raise ValueError(
            "must not hold :chatwoot: nor end in :chatwoot, where the keys of another prefix stand"
        )
    return _checked_name(value)


def check_address(value: str) -> str:
    """Return an HTTP address without a slash at its end.

    Raises `ValueError`, whose message says what is allowed and shows nothing of the address.
    """
    try:
        address = urlsplit(value)
        is_good = bool(address.scheme in ("http", "https") and address.hostname)
        is_good = is_good and address.username is None and address.port != 0
    except ValueError:
        is_good = False
    if not is_good or _has_control(value):
        raise ValueError("must be an address such as https://chat.example.com, without a password")
    return value.rstrip("/")


def _checked_directory(value: Path) -> Path:
    if _has_control(str(value)):
        raise ValueError("must not contain control characters")
    return value.absolute()


def _has_control(value: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in value)


def _nothing() -> MappingProxyType[Any, Any]:
    return MappingProxyType({})


Name = Annotated[str, AfterValidator(_checked_name)]
KeyPrefix = Annotated[str, AfterValidator(_checked_prefix)]
Directory = Annotated[Path, AfterValidator(_checked_directory)]
Uri = Annotated[RedisUri, AfterValidator(redis_uri.check)]
Address = Annotated[str, AfterValidator(check_address)]
Level = Annotated[LogLevel, BeforeValidator(_lower)]
Instances = Annotated[
    Mapping[str, str], PlainValidator(map_values.instances), PlainSerializer(dict)
]
Secrets = Annotated[
    Mapping[int, tuple[SecretStr, ...]], PlainValidator(map_values.secrets), PlainSerializer(dict)
]
InstanceKeys = Annotated[
    Mapping[str, tuple[SecretStr, ...]],
    PlainValidator(map_values.instance_keys),
    PlainSerializer(dict),
]
ReadKey = Annotated[SecretStr, AfterValidator(map_values.read_key)]


class Settings(BaseSettings):
    """Every setting, checked; durations are seconds, sizes are bytes.

    Reads nothing by itself: `load` gathers the values.
    Text is converted as from an environment variable.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    cache_redis_enabled: bool = Field(default=True, description="Cache in Redis.")
    cache_redis_uri: Uri | None = Field(default=None, description="Redis that holds the cache.")
    cache_redis_prefix_key: KeyPrefix = Field(
        default="chatwoot-cache", description="First part of every key of the cache."
    )
    cache_redis_ttl: int = Field(
        default=7 * DAY_S,
        ge=1,
        le=TEN_YEARS_S,
        description="Seconds a document lives after a write.",
    )
    cache_local_enabled: bool = Field(
        default=False, description="Cache in the worker's memory, in front of Redis."
    )
    cache_local_ttl: float = Field(
        default=DAY_S, ge=1, le=TEN_YEARS_S, description="Seconds a document stays in memory."
    )
    local_max_bytes: int = Field(
        default=64 * MIB,
        ge=MIB,
        le=64 * 1024 * MIB,
        description="Most memory that documents take in this process.",
    )
    conversation_messages: int = Field(
        default=200,
        ge=1,
        le=10_000,
        description="Newest messages kept in a conversation's timeline.",
    )
    max_document_bytes: int = Field(
        default=MIB, ge=KIB, le=64 * MIB, description="A larger document is a dead letter."
    )

    stream_redis_uri: Uri | None = Field(
        default=None, description="Redis that holds the stream; the cache's unless set."
    )
    stream_key: Name = Field(default="chatwoot:events", description="The stream.")
    stream_group: Name = Field(default="chatwoot-cache", description="The consumer group.")
    stream_consumer: Name | None = Field(
        default=None,
        description="This worker's name in the group; made of the host name unless set.",
    )
    stream_batch_size: int = Field(
        default=200, ge=1, le=10_000, description="Most entries taken in one read."
    )
    # Redis takes whole milliseconds and blocks for ever on 0.
    stream_block_s: float = Field(
        default=2.0, ge=0.001, le=30, description="Longest wait of one read for new entries."
    )
    stream_reclaim_after_s: float = Field(
        default=60.0,
        ge=0.1,
        le=DAY_S,
        description="Idle time after which another's entry is taken over.",
    )
    stream_max_attempts: int = Field(
        default=5, ge=1, le=1000, description="Attempts on one entry before it is a dead letter."
    )
    stream_retention_s: float = Field(
        default=DAY_S,
        ge=1,
        le=TEN_YEARS_S,
        description="How long an entry stays in the stream once every group acknowledged it.",
    )
    stream_max_entries: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Most entries kept in the stream, even if unread ones are lost; no limit"
        " unless set.",
    )
    dead_max_entries: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Most dead letters kept."
    )
    dead_retention_s: float = Field(
        default=30.0 * DAY_S, ge=1, le=TEN_YEARS_S, description="How long a dead letter is kept."
    )

    instances: Instances = Field(
        default_factory=_nothing, description="Which instance an inbox belongs to."
    )
    instance_from_inbox_name: bool = Field(
        default=True, description="Believe the name of an API inbox to be its instance's."
    )

    http_host: Name = Field(default="127.0.0.1", description="Address of webhook and reads.")
    http_port: int = Field(
        default=9850, ge=0, le=65535, description="Port of webhook and reads; 0 takes any free one."
    )
    http_api_key: ReadKey | None = Field(
        default=None, description="Key that reads every instance, and private notes."
    )
    http_instance_keys: InstanceKeys = Field(
        default_factory=_nothing, description="Keys that read one instance each, by instance."
    )
    ops_host: Name = Field(default="127.0.0.1", description="Address of probes and metrics.")
    ops_port: int = Field(
        default=9851,
        ge=0,
        le=65535,
        description="Port of probes and metrics; 0 takes any free one.",
    )

    webhook_enabled: bool = Field(default=True, description="Take Chatwoot's webhooks.")
    webhook_secrets: Secrets = Field(
        default_factory=_nothing, description="Secrets of Chatwoot's webhooks, by account."
    )
    webhook_token: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Token in the webhook's URL, for Chatwoot without signing.",
    )
    webhook_max_body_bytes: int = Field(
        default=4 * MIB, ge=KIB, le=64 * MIB, description="A larger webhook is refused."
    )
    webhook_spool_dir: Directory | None = Field(
        default=None, description="Directory that keeps webhooks while Redis is away."
    )
    webhook_spool_max_bytes: int = Field(
        default=256 * MIB, ge=MIB, le=KIB * KIB * MIB, description="Most the spool may take up."
    )

    chatwoot_url: Address | None = Field(
        default=None, description="Chatwoot's address, for backfill and read-through."
    )
    chatwoot_token: SecretStr | None = Field(
        default=None, min_length=1, description="Access token of a Chatwoot user, for all accounts."
    )
    chatwoot_tokens: Secrets = Field(
        default_factory=_nothing, description="Access tokens of Chatwoot users, by account."
    )
    chatwoot_requests_per_s: float = Field(
        default=20.0,
        ge=0.1,
        le=1000,
        description="Most requests that Chatwoot is sent in a second.",
    )
    chatwoot_timeout_s: float = Field(
        default=10.0, ge=0.1, le=300, description="How long an answer of Chatwoot's may take."
    )
    read_through_timeout_s: float = Field(
        default=3.0, ge=0.05, le=60, description="How long a read may wait for Chatwoot."
    )
    evolution_url: Address | None = Field(
        default=None, description="Evolution's address, for connect."
    )
    evolution_apikey: SecretStr | None = Field(
        default=None, min_length=1, description="Evolution's API key, for connect."
    )

    log_level: Level = Field(default="info", description="Least level that is logged.")
    log_format: LogFormat = Field(
        default="auto", description="How a log line looks; auto is JSON unless on a terminal."
    )
    shutdown_timeout_s: float = Field(
        default=10.0,
        ge=0.1,
        le=HOUR_S,
        description="Longest time to finish what is in hand at the end.",
    )
    metrics_max_instances: int = Field(
        default=200, ge=1, le=100_000, description="Most instances with a time series of their own."
    )
    node_app_instance: Name | None = Field(
        default=None, description="PM2's number of this process; part of the default consumer name."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings passes by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller only: sources of the library would merge maps."""
        return (init_settings,)

    @property
    def cache_uri(self) -> RedisUri:
        """Where the cache is."""
        if not self.cache_redis_enabled:
            raise errors.ConfigurationError(NO_CACHE)
        if self.cache_redis_uri is None:
            raise errors.ConfigurationError(NO_URI)
        return self.cache_redis_uri

    @property
    def stream_uri(self) -> RedisUri:
        """Where the stream is: the cache's server unless set otherwise."""
        return self.stream_redis_uri or self.cache_uri

    @property
    def uris(self) -> tuple[RedisUri, ...]:
        """Every server that a worker uses."""
        return (self.stream_uri,) if self.local_only else (self.cache_uri, self.stream_uri)

    @property
    def local_only(self) -> bool:
        """Whether documents are in this process's memory alone."""
        return not self.cache_redis_enabled and self.cache_local_enabled

    @property
    def reads_enabled(self) -> bool:
        """Whether anybody has a key to read over HTTP."""
        return self.http_api_key is not None or bool(self.http_instance_keys)

    @property
    def consumer_name(self) -> str:
        """Name of this worker in the group: as set, else the host name and PM2's number."""
        if self.stream_consumer is not None:
            return self.stream_consumer
        host = socket.gethostname()
        return host if self.node_app_instance is None else f"{host}-{self.node_app_instance}"

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        contradictions = [
            *self._tier_contradictions(),
            *self._place_contradictions(),
            *self._key_contradictions(),
        ]
        if contradictions:
            raise ValueError("\n".join(contradictions))
        return self

    def _tier_contradictions(self) -> list[str]:
        if self.cache_redis_enabled:
            return [] if self.cache_redis_uri else [NO_URI]
        if self.cache_local_enabled:
            return [] if self.stream_redis_uri else [NO_STREAM]
        return [NO_TIER]

    def _place_contradictions(self) -> list[str]:
        found = []
        if self.http_port == self.ops_port != 0 and self.http_host == self.ops_host:
            found.append(
                f"CHATWOOT_CACHE_OPS_PORT={self.ops_port} is CHATWOOT_CACHE_HTTP_PORT:"
                " two servers need two ports"
            )
        if self.stream_key.startswith(f"{self.cache_redis_prefix_key}:chatwoot:"):
            found.append(
                f"CHATWOOT_CACHE_STREAM_KEY={self.stream_key} stands among the cache's keys:"
                f" it must not start with {self.cache_redis_prefix_key}:chatwoot:"
            )
        return found

    def _key_contradictions(self) -> list[str]:
        given = [key for keys in self.http_instance_keys.values() for key in set(keys)]
        given += [self.http_api_key] if self.http_api_key else []
        if len(set(given)) == len(given):
            return []
        return [SHARED_KEY]


FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {name_of(field): field for field in Settings.model_fields}
)
"""Each setting's name as the user writes it, and its attribute."""

SECRETS: Final = (
    "webhook_secrets",
    "webhook_token",
    "http_api_key",
    "http_instance_keys",
    "chatwoot_token",
    "chatwoot_tokens",
    "evolution_apikey",
)
"""Attributes that are never shown."""

FROM_FILE: Final = tuple(
    name_of(field) for field in ("cache_redis_uri", "stream_redis_uri", "instances", *SECRETS)
)
"""Settings that `<NAME>_FILE` can give: every secret, address and map."""
