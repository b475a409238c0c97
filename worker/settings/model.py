"""Every setting, its default, its bounds and its description."""

import socket
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.core.cache_keys import is_nested_prefix
from worker.core.history.message_origin import OriginRules
from worker.errors import ConfigurationError
from worker.settings import map_values, redis_uri
from worker.settings.redis_uri import RedisUri

PREFIX: Final = "CHATWOOT_CACHE_"
"""Starts the name of every setting that is not Evolution's own."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
TEN_YEARS_S: Final = 3650 * DAY_S

_FORBIDDEN_IN_PREFIX: Final = "*?[]{}\\%"

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["auto", "json", "console"]


def name_of(field: str) -> str:
    """Return the name a user writes for an attribute of `Settings`."""
    own = not field.startswith(("cache_", "node_"))
    return (PREFIX if own else "") + field.upper()


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _check_name(value: str) -> str:
    if not map_values.is_valid_name(value) or _has_control_character(value):
        raise ValueError(
            f"must be 1 to {map_values.NAME_MAX_BYTES} bytes of UTF-8 without control characters"
        )
    return value


def _check_prefix(value: str) -> str:
    if any(character in _FORBIDDEN_IN_PREFIX for character in value):
        raise ValueError(f"must not contain any of {' '.join(_FORBIDDEN_IN_PREFIX)}")
    if is_nested_prefix(value):
        raise ValueError(
            "must not contain :chatwoot: or end in :chatwoot,"
            " which is where the keys of another prefix are"
        )
    return _check_name(value)


def check_address(value: str) -> str:
    """Return an HTTP address without a trailing slash, else raise `ValueError` without it."""
    try:
        address = urlsplit(value)
        is_valid = bool(address.scheme in ("http", "https") and address.hostname)
        is_valid = is_valid and address.username is None and address.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or _has_control_character(value):
        raise ValueError("must be an address such as https://chat.example.com, without a password")
    return value.rstrip("/")


def _check_directory(value: Path) -> Path:
    if _has_control_character(str(value)):
        raise ValueError("must not contain control characters")
    return value.absolute()


def _has_control_character(value: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in value)


Name = Annotated[str, AfterValidator(_check_name)]
KeyPrefix = Annotated[str, AfterValidator(_check_prefix)]
Directory = Annotated[Path, AfterValidator(_check_directory)]
Uri = Annotated[RedisUri, AfterValidator(redis_uri.check)]
Address = Annotated[str, AfterValidator(check_address)]
Level = Annotated[LogLevel, BeforeValidator(_lower)]
Token = Annotated[SecretStr, Field(min_length=1)]
ReadKey = Annotated[SecretStr, AfterValidator(map_values.check_key)]
Instances = Annotated[Mapping[str, str], PlainValidator(map_values.instances)]
AccountSecrets = Annotated[
    Mapping[int, tuple[SecretStr, ...]], PlainValidator(map_values.account_secrets)
]
AccountUsers = Annotated[Mapping[int, tuple[int, ...]], PlainValidator(map_values.account_users)]
InstanceKeys = Annotated[
    Mapping[str, tuple[SecretStr, ...]], PlainValidator(map_values.instance_keys)
]


class Settings(BaseSettings):
    """Every setting, validated; durations are seconds, sizes are bytes.

    `load` collects the values; strings are converted to the type of the setting.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    cache_redis_enabled: bool = True
    """Cache in Redis."""
    cache_redis_uri: Uri | None = None
    """Redis that holds the cache."""
    cache_redis_prefix_key: KeyPrefix = "chatwoot-cache"
    """First part of every key of the cache."""
    cache_redis_ttl: int = Field(default=7 * DAY_S, ge=1, le=TEN_YEARS_S)
    """Time to live of a document after its last write."""
    cache_local_enabled: bool = False
    """Cache in the memory of the worker, in front of Redis."""
    cache_local_ttl: float = Field(default=DAY_S, ge=1, le=TEN_YEARS_S)
    """Time to live of a document in memory."""
    local_max_bytes: int = Field(default=64 * MIB, ge=MIB, le=64 * 1024 * MIB)
    """Maximum memory for documents in this process."""
    conversation_messages: int = Field(default=200, ge=1, le=10_000)
    """Newest messages kept in the timeline of a conversation."""
    max_document_bytes: int = Field(default=MIB, ge=KIB, le=64 * MIB)
    """A larger document is a dead letter."""

    stream_redis_uri: Uri | None = None
    """Redis that holds the stream; that of the cache unless set."""
    stream_key: Name = "chatwoot:events"
    """Key of the stream."""
    stream_group: Name = "chatwoot-cache"
    """Name of the consumer group."""
    stream_consumer: Name | None = None
    """Name of this worker in the group; made of the host name unless set."""
    stream_batch_size: int = Field(default=200, ge=1, le=10_000)
    """Maximum number of entries in one read."""
    stream_block_s: float = Field(default=2.0, ge=0.001, le=30)
    """Longest wait of one read for new entries; Redis counts milliseconds, and 0 is no limit."""
    stream_reclaim_after_s: float = Field(default=60.0, ge=0.1, le=DAY_S)
    """Idle time after which the pending entry of another consumer is claimed."""
    stream_max_attempts: int = Field(default=5, ge=1, le=1000)
    """Number of attempts before an entry becomes a dead letter."""
    stream_retention_s: float = Field(default=DAY_S, ge=1, le=TEN_YEARS_S)
    """How long an entry stays in the stream after every group acknowledged it."""
    stream_max_entries: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Maximum length of the stream, even if unread entries are lost; no limit unless set."""
    dead_max_entries: int = Field(default=10_000, ge=1, le=10_000_000)
    """Maximum number of dead letters."""
    dead_retention_s: float = Field(default=30.0 * DAY_S, ge=1, le=TEN_YEARS_S)
    """How long a dead letter is kept."""

    instances: Instances = {}
    """Instance of each inbox."""
    instance_from_inbox_name: bool = True
    """Use the name of an API inbox as the name of its instance."""

    http_host: Name = "127.0.0.1"
    """Listen address of webhook and reads."""
    http_port: int = Field(default=9850, ge=0, le=65535)
    """Port of webhook and reads; 0 takes any free port."""
    http_api_key: ReadKey | None = None
    """Key that reads every instance, and private notes."""
    http_instance_keys: InstanceKeys = {}
    """Keys that read one instance each, by instance."""
    ops_host: Name = "127.0.0.1"
    """Listen address of probes and metrics."""
    ops_port: int = Field(default=9851, ge=0, le=65535)
    """Port of probes and metrics; 0 takes any free port."""

    webhook_enabled: bool = True
    """Accept webhooks of Chatwoot."""
    webhook_secrets: AccountSecrets = {}
    """Secrets of Chatwoot's webhooks, by account."""
    webhook_token: Token | None = None
    """Token in the URL of the webhook, for a Chatwoot that does not sign."""
    webhook_max_body_bytes: int = Field(default=4 * MIB, ge=KIB, le=64 * MIB)
    """A larger webhook is refused."""
    webhook_spool_dir: Directory | None = None
    """Directory that keeps webhooks while Redis is unavailable."""
    webhook_spool_max_bytes: int = Field(default=256 * MIB, ge=MIB, le=KIB * KIB * MIB)
    """Maximum size of the spool."""

    chatwoot_url: Address | None = None
    """Address of Chatwoot, for backfill and read-through."""
    chatwoot_token: Token | None = None
    """Access token of a Chatwoot user, for all accounts."""
    chatwoot_tokens: AccountSecrets = {}
    """Access tokens of Chatwoot users, by account."""
    chatwoot_requests_per_s: float = Field(default=20.0, ge=0.1, le=1000)
    """Maximum number of requests to Chatwoot in a second."""
    chatwoot_timeout_s: float = Field(default=10.0, ge=0.1, le=300)
    """Timeout of a request to Chatwoot."""
    read_through_timeout_s: float = Field(default=3.0, ge=0.05, le=60)
    """How long a read waits for Chatwoot."""
    evolution_url: Address | None = None
    """Address of Evolution, for `connect`."""
    evolution_apikey: Token | None = None
    """API key of Evolution, for `connect`."""
    evolution_users: AccountUsers = {}
    """Chatwoot users whose token Evolution has, by account."""
    source_ids_filled_later: bool = False
    """Evolution adds source ids to agents' messages, with its import database."""
    people_use_whatsapp_web: bool = False
    """Count what looks like WhatsApp Web as written by a person."""

    log_level: Level = "info"
    """Lowest level that is logged."""
    log_format: LogFormat = "auto"
    """Format of a log line; auto is JSON unless the output is a terminal."""
    shutdown_timeout_s: float = Field(default=10.0, ge=0.1, le=HOUR_S)
    """How long the worker may take to finish its work when it stops."""
    metrics_max_instances: int = Field(default=200, ge=1, le=100_000)
    """Maximum number of instances with a time series of their own."""
    node_app_instance: Name | None = None
    """Number of this process in PM2; part of the default consumer name."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (passed by name, as those below)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from `load` alone, which knows the origin of each."""
        return (init_settings,)

    @property
    def cache_uri(self) -> RedisUri:
        """Address of the cache; raises `ConfigurationError` when there is none in Redis."""
        if not self.cache_redis_enabled or self.cache_redis_uri is None:
            raise ConfigurationError(
                "CACHE_REDIS_ENABLED=false: there is no cache in Redis; documents in the memory"
                " of a worker can be read over HTTP only"
            )
        return self.cache_redis_uri

    @property
    def stream_uri(self) -> RedisUri:
        """Address of the stream: that of the cache unless set."""
        return self.stream_redis_uri or self.cache_uri

    @property
    def uris(self) -> tuple[RedisUri, ...]:
        """Addresses of every server that a worker uses."""
        return (self.stream_uri,) if self.local_only else (self.cache_uri, self.stream_uri)

    @property
    def local_only(self) -> bool:
        """Whether documents are kept only in the memory of this process."""
        return not self.cache_redis_enabled and self.cache_local_enabled

    @property
    def origin_rules(self) -> OriginRules:
        """What is known of the authors of messages."""
        return OriginRules(
            self.evolution_users, self.source_ids_filled_later, self.people_use_whatsapp_web
        )

    @property
    def reads_enabled(self) -> bool:
        """Whether any key for reads over HTTP is set."""
        return self.http_api_key is not None or bool(self.http_instance_keys)

    @property
    def consumer_name(self) -> str:
        """Name of this worker in the group: as set, else the host name and PM2's number."""
        if self.stream_consumer is not None:
            return self.stream_consumer
        host = socket.gethostname()
        return host if self.node_app_instance is None else f"{host}-{self.node_app_instance}"

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if problems := "\n".join(self._problems()):
            raise ValueError(problems)
        return self

    def _problems(self) -> Iterator[str]:
        if self.cache_redis_enabled and not self.cache_redis_uri:
            yield (
                "CACHE_REDIS_URI is not set: set CACHE_REDIS_URI=redis://host:6379/0,"
                " or CACHE_REDIS_URI=embedded://.data for a laptop"
            )
        if self.local_only and not self.stream_redis_uri:
            yield (
                "CACHE_REDIS_ENABLED=false with CACHE_LOCAL_ENABLED=true keeps documents in memory"
                " only: set CHATWOOT_CACHE_STREAM_REDIS_URI to the Redis that holds the stream"
            )
        if not self.cache_redis_enabled and not self.cache_local_enabled:
            yield (
                "CACHE_REDIS_ENABLED=false with CACHE_LOCAL_ENABLED=false:"
                " nothing would be cached; set CACHE_REDIS_ENABLED=true"
            )
        if self.http_port == self.ops_port != 0 and self.http_host == self.ops_host:
            yield (
                f"CHATWOOT_CACHE_OPS_PORT={self.ops_port} is CHATWOOT_CACHE_HTTP_PORT:"
                " two servers need two ports"
            )
        if self.stream_key.startswith(f"{self.cache_redis_prefix_key}:chatwoot:"):
            yield (
                f"CHATWOOT_CACHE_STREAM_KEY={self.stream_key} is among the keys of the cache:"
                f" it must not start with {self.cache_redis_prefix_key}:chatwoot:"
            )
        if self._has_shared_key():
            yield (
                "CHATWOOT_CACHE_HTTP_INSTANCE_KEYS: a key opens one instance only, so no two"
                " instances may share a key, and none may use CHATWOOT_CACHE_HTTP_API_KEY"
            )

    def _has_shared_key(self) -> bool:
        keys = [key for several in self.http_instance_keys.values() for key in set(several)]
        keys += [self.http_api_key] if self.http_api_key else []
        return len(set(keys)) < len(keys)


FIELDS: Final[Mapping[str, str]] = {name_of(field): field for field in Settings.model_fields}
"""Attribute of each setting, by the name the user writes."""

SECRETS: Final = frozenset(
    field for field, info in Settings.model_fields.items() if "SecretStr" in str(info.annotation)
)
"""Attributes that are never shown."""

FROM_FILE: Final = frozenset(
    map(name_of, (*SECRETS, "cache_redis_uri", "stream_redis_uri", "instances", "evolution_users"))
)
"""Settings that `<NAME>_FILE` can give: every secret, address and map."""
