"""Settings: sources, precedence, validation, messages."""

import ast
import inspect
import socket
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from worker.core.history.message_origin import OriginRules
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, RedisUri, Settings, load, mask, name_of, redis_uri

URI = "redis://localhost:6379/6"

Load = Callable[..., LoadedSettings]

# What Evolution 2's own .env holds beside the cache: names like ours with other meanings.
EVOLUTION_ENV = """\
# Determine the logs to be displayed
LOG_LEVEL=ERROR,WARN,DEBUG,INFO,LOG,VERBOSE,DARK,WEBHOOKS
LOG_COLOR=true
DATABASE_CONNECTION_URI='postgresql://user:pass@localhost:5432/evolution?schema=public'
WEBHOOK_GLOBAL_ENABLED=false
WEBHOOK_GLOBAL_URL=''
WEBHOOK_EVENTS_MESSAGES_UPSERT=true
WEBHOOK_EVENTS_ERRORS_WEBHOOK=
METRICS_AUTH_REQUIRED=true
CHATWOOT_ENABLED=false
CHATWOOT_MESSAGE_READ=true
QRCODE_COLOR='#175197'
CACHE_REDIS_ENABLED=true
CACHE_REDIS_URI=redis://localhost:6379/6
CACHE_REDIS_PREFIX_KEY=evolution
CACHE_REDIS_SAVE_INSTANCES=false
CACHE_LOCAL_ENABLED=false
AUTHENTICATION_API_KEY=429683C4C977415CAAFCCE10F7D57E11
"""


@pytest.fixture
def load_here(tmp_path: Path) -> Load:
    """Load with an address of the cache and nothing else; keywords are environment variables."""

    def load_with(overrides: Mapping[str, str] | None = None, **environ: str) -> LoadedSettings:
        return load(overrides, {"CACHE_REDIS_URI": URI, **environ}, tmp_path)

    return load_with


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        act()
    return str(caught.value)


class TestDefaults:
    def test_only_the_address_is_needed(self, load_here: Load) -> None:
        loaded = load_here()

        assert loaded.warnings == ()
        assert loaded.settings.cache_redis_prefix_key == "chatwoot-cache"
        assert loaded.settings.cache_redis_ttl == 604800
        assert loaded.settings.stream_block_s == 2.0

    def test_the_stream_is_on_the_cache_server_unless_set(self, load_here: Load) -> None:
        elsewhere = load_here(CHATWOOT_CACHE_STREAM_REDIS_URI="unix:///run/redis.sock").settings

        assert load_here().settings.stream_uri.get_secret_value() == URI
        assert elsewhere.stream_uri.get_secret_value() == "unix:///run/redis.sock"

    @pytest.mark.parametrize(
        ("environ", "name"),
        [
            ({}, socket.gethostname()),
            ({"NODE_APP_INSTANCE": "2"}, f"{socket.gethostname()}-2"),
            ({"NODE_APP_INSTANCE": "2", "CHATWOOT_CACHE_STREAM_CONSUMER": "a"}, "a"),
        ],
    )
    def test_the_consumer_is_named_after_host_and_pm2(
        self, load_here: Load, environ: dict[str, str], name: str
    ) -> None:
        assert load_here(**environ).settings.consumer_name == name

    def test_settings_cannot_change(self, load_here: Load) -> None:
        with pytest.raises(ValidationError):
            load_here().settings.stream_batch_size = 3

    def test_the_model_does_not_read_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREAM_BATCH_SIZE", "7")
        monkeypatch.setenv("CHATWOOT_CACHE_STREAM_BATCH_SIZE", "7")

        assert Settings(cache_redis_uri=RedisUri(URI)).stream_batch_size == 200

    def test_load_reads_this_process_and_directory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CACHE_REDIS_URI", URI)
        (tmp_path / ".env").write_text("CHATWOOT_CACHE_STREAM_BATCH_SIZE=7\n")

        assert load().settings.stream_batch_size == 7


class TestSources:
    def test_the_higher_source_wins(self, tmp_path: Path) -> None:
        """Each source sets what the sources above it set too; the origin names the one that won."""
        names = [f"CHATWOOT_CACHE_{name}" for name in ("STREAM_KEY", "STREAM_GROUP", "HTTP_HOST")]
        key, group, _host = names
        (tmp_path / "token").write_text("from a file\n")
        (tmp_path / "env.yml").write_text(
            "CHATWOOT_CACHE: {STREAM: {KEY: yml, GROUP: yml}, HTTP_HOST: yml, OPS_HOST: yml,"
            " WEBHOOK_TOKEN: yml}"
        )
        (tmp_path / ".env").write_text("".join(f"{name}=dotenv\n" for name in names))
        environ = {
            "CACHE_REDIS_URI": URI,
            key: "env",
            group: "env",
            "CHATWOOT_CACHE_WEBHOOK_TOKEN_FILE": "token",
        }

        loaded = load({key: "cli"}, environ, tmp_path)

        settings = loaded.settings
        token = settings.webhook_token
        assert (settings.stream_key, settings.stream_group) == ("cli", "env")
        assert (settings.http_host, settings.ops_host) == ("dotenv", "yml")
        assert token is not None
        assert token.get_secret_value() == "from a file"
        assert [loaded.origins[name] for name in names] == ["command line", "environment", ".env"]
        assert loaded.origins["CHATWOOT_CACHE_OPS_HOST"] == "env.yml"
        assert loaded.origins["CHATWOOT_CACHE_WEBHOOK_TOKEN"] == "file token"
        assert loaded.origins["CHATWOOT_CACHE_HTTP_PORT"] == "default"

    def test_the_environment_wins_over_its_file_which_is_not_read(self, load_here: Load) -> None:
        loaded = load_here(
            CHATWOOT_CACHE_INSTANCES="{7/1: shop}", CHATWOOT_CACHE_INSTANCES_FILE="absent"
        )

        assert loaded.settings.instances == {"7/1": "shop"}

    def test_maps_of_two_sources_are_not_merged(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("CHATWOOT_CACHE_INSTANCES='{7/2: other}'\n")

        settings = load_here(CHATWOOT_CACHE_INSTANCES="{7/1: shop}").settings

        assert settings.instances == {"7/1": "shop"}

    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_a_file_loses_its_final_newline_only(
        self, load_here: Load, tmp_path: Path, ending: str
    ) -> None:
        (tmp_path / "secret").write_bytes(f" s3cret \n{ending}".encode())

        settings = load_here(CHATWOOT_CACHE_WEBHOOK_TOKEN_FILE=str(tmp_path / "secret")).settings

        assert settings.webhook_token is not None
        expected = " s3cret \n" if ending else " s3cret "
        assert settings.webhook_token.get_secret_value() == expected

    def test_files_that_cannot_be_used_are_named(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "binary").write_bytes(b"s3cret\xff")

        message = refusal(
            lambda: load_here(
                CHATWOOT_CACHE_WEBHOOK_TOKEN_FILE="absent",
                CHATWOOT_CACHE_WEBHOOK_SECRETS_FILE="binary",
                CHATWOOT_CACHE_INSTANCES_FILE="empty",
            )
        )

        assert message.splitlines() == [
            "CHATWOOT_CACHE_INSTANCES_FILE=empty (environment): the file is empty",
            (
                "CHATWOOT_CACHE_WEBHOOK_SECRETS_FILE=binary (environment):"
                " cannot be read: it is not UTF-8 text"
            ),
            (
                "CHATWOOT_CACHE_WEBHOOK_TOKEN_FILE=absent (environment):"
                " cannot be read: No such file or directory"
            ),
        ]

    def test_a_secret_in_place_of_a_path_stays_in_one_line(self, load_here: Load) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_INSTANCES_FILE="7/1: a\n7/2: b\n"))

        assert "\n" not in message

    @pytest.mark.parametrize("content", ["", "# nothing\n", "- a list\n", "text\n"])
    def test_an_env_yml_without_settings_is_accepted(
        self, load_here: Load, tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "env.yml").write_text(content)

        assert load_here().warnings == ()

    def test_dotenv_quotes_comments_and_export(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text(
            "export CHATWOOT_CACHE_STREAM_KEY='a # b'  # why\n"
            'CHATWOOT_CACHE_STREAM_GROUP="g"\n'
            "CHATWOOT_CACHE_WEBHOOK_TOKEN=pa${HOME}$x\n"
            "CHATWOOT_CACHE_HTTP_HOST\n"
        )

        settings = load_here().settings

        assert (settings.stream_key, settings.stream_group) == ("a # b", "g")
        assert settings.webhook_token is not None
        assert settings.webhook_token.get_secret_value() == "pa${HOME}$x"

    def test_an_invalid_line_of_dotenv_is_a_warning_without_its_text(
        self, load_here: Load, tmp_path: Path
    ) -> None:
        (tmp_path / ".env").write_text("A=1\nCHATWOOT_CACHE_WEBHOOK_TOKEN='s3cret\n")

        assert load_here().warnings == (".env, line 2: cannot be parsed, ignored",)

    @pytest.mark.parametrize("empty", ["", "''"])
    def test_empty_is_not_set(self, load_here: Load, tmp_path: Path, empty: str) -> None:
        (tmp_path / ".env").write_text(f"CHATWOOT_CACHE_STREAM_KEY={empty}\n")

        loaded = load_here(CHATWOOT_CACHE_STREAM_KEY="", CHATWOOT_CACHE_STREM="")

        assert loaded.settings.stream_key == "chatwoot:events"
        assert loaded.warnings == ()

    def test_a_directory_named_dotenv_is_ignored(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").mkdir()

        assert load_here().warnings == ()

    def test_a_binary_dotenv_is_refused(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(b"A=\xff")

        assert refusal(load_here) == ".env: cannot be read: it is not UTF-8 text"

    def test_a_connect_file_that_cannot_be_read_is_refused(self, load_here: Load) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_CONNECT_FILE="x" * 300))

        assert message == f"{'x' * 300}: cannot be read: File name too long"


class TestBesideEvolution:
    def test_its_env_file_is_accepted(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text(EVOLUTION_ENV)

        loaded = load(environ={}, directory=tmp_path)

        assert loaded.warnings == ()
        assert loaded.settings.cache_redis_prefix_key == "evolution"
        assert loaded.settings.log_level == "info"

    def test_its_env_yml_of_version_1_is_accepted(self, tmp_path: Path) -> None:
        (tmp_path / "env.yml").write_text(
            """
            LOG: {LEVEL: [ERROR, WARN], COLOR: true}
            WEBHOOK: {GLOBAL: {ENABLED: false}}
            REDIS: {ENABLED: false, URI: "redis://redis:6379", PREFIX_KEY: evo}
            CACHE:
              REDIS: {ENABLED: true, URI: "redis://localhost:6379", PREFIX_KEY: evo, TTL: 7200}
              LOCAL: {ENABLED: false, TTL: 86400}
            CHATWOOT_CACHE:
              webhook_token: null
              STREAM_BATCH_SIZE: 7
              STREAM: {BLOCK_S: 0.5}
              INSTANCES: {7/1: 0123, 8/1: yes}
              WEBHOOK_SECRETS: {7: [0123, yes], 8: 1.10}
            """
        )

        loaded = load(environ={}, directory=tmp_path)

        settings = loaded.settings
        assert loaded.warnings == ()
        assert (settings.cache_redis_ttl, settings.stream_batch_size) == (7200, 7)
        assert settings.stream_block_s == 0.5
        assert settings.webhook_token is None
        assert settings.instances == {"7/1": "0123", "8/1": "yes"}
        assert secrets_of(settings) == {7: ["0123", "yes"], 8: ["1.10"]}

    def test_an_invalid_env_yml_is_refused_without_its_text(
        self, load_here: Load, tmp_path: Path
    ) -> None:
        (tmp_path / "env.yml").write_text("A: 1\nCHATWOOT_CACHE: {WEBHOOK_TOKEN: *s3cret}\n")

        message = refusal(load_here)

        assert message.startswith("env.yml: must be YAML or JSON")
        assert "line 2" in message
        assert "s3cret" not in message

    def test_a_list_is_not_text(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / "env.yml").write_text("CHATWOOT_CACHE: {STREAM_KEY: [a, b], LOG_LEVEL: [a]}")

        assert refusal(load_here).splitlines() == [
            "CHATWOOT_CACHE_STREAM_KEY=['a', 'b'] (env.yml): must be text",
            (
                "CHATWOOT_CACHE_LOG_LEVEL=['a'] (env.yml):"
                " must be one of debug, info, warning, error, critical"
            ),
        ]

    def test_service_variables_of_kubernetes_are_ignored(self, load_here: Load) -> None:
        """Kubernetes sets them in every container for a service named chatwoot-cache."""
        loaded = load_here(
            CHATWOOT_CACHE_PORT="tcp://10.0.0.7:9850",
            CHATWOOT_CACHE_PORT_9850_TCP_ADDR="10.0.0.7",
            CHATWOOT_CACHE_SERVICE_HOST="10.0.0.7",
            CHATWOOT_CACHE_SERVICE_PORT_HTTP="9850",
            CHATWOOT_CACHE_OPS_PORT="tcp://10.0.0.8:9851",
        )

        assert loaded.warnings == ()
        assert loaded.settings.ops_port == 9851


class TestMaps:
    @pytest.mark.parametrize(
        "text",
        [
            '{"7/1":"a","7/2":"b"}',
            "{7/1: a, 7/2: b}",
            "7/1: a\n7/2: 'b'",
            '{"7/1":"\\u0061",7/2: b}',
        ],
    )
    def test_instances_are_json_or_yaml(self, load_here: Load, text: str) -> None:
        settings = load_here(CHATWOOT_CACHE_INSTANCES=text).settings

        assert settings.instances == {"7/1": "a", "7/2": "b"}

    def test_an_emoji_survives_json(self, load_here: Load) -> None:
        settings = load_here(CHATWOOT_CACHE_INSTANCES='{"7/1": "\\ud83d\\ude00"}').settings

        assert settings.instances == {"7/1": "😀"}

    @pytest.mark.parametrize(
        "text", ["shop", "[7/1]", "{7: shop}", "{0/1: a}", "{07/1: a}", "{7/1: [a]}", "{7/1:shop}"]
    )
    def test_malformed_instances_are_refused(self, load_here: Load, text: str) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_INSTANCES=text))

        assert message == (
            f"CHATWOOT_CACHE_INSTANCES={text} (environment):"
            " must be a map of account/inbox to instance, such as {7/1: shop}"
        )

    @pytest.mark.parametrize("name", ["", "é" * 128, "\\ud83d"])
    def test_names_of_instances_are_bounded(self, load_here: Load, name: str) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_INSTANCES=f'{{"7/1": "{name}"}}'))

        assert message.endswith("must name instances of 1 to 255 bytes of UTF-8")

    def test_one_instance_has_one_account(self, load_here: Load) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_INSTANCES="{7/1: a, 8/1: a}"))

        assert message.endswith("must not give instance 'a' to two accounts (7 and 8)")

    def test_duplicate_keys_are_refused(self, load_here: Load) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_INSTANCES="{7/1: a, 7/1: b}"))

        assert "without duplicate keys" in message

    def test_secrets_keep_their_text(self, load_here: Load) -> None:
        settings = load_here(CHATWOOT_CACHE_WEBHOOK_SECRETS="{7: 0123, 8: [yes, '~']}").settings

        assert secrets_of(settings) == {7: ["0123"], 8: ["yes", "~"]}
        assert "0123" not in repr(settings)

    @pytest.mark.parametrize(
        "text",
        ["s3cret", "{7:s3cret}", "{s3cret: x}", "{7: {a: s3cret}}", "{7: []}", "{7: *s3cret}"],
    )
    def test_malformed_secrets_are_not_shown(self, load_here: Load, text: str) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_WEBHOOK_SECRETS=text))

        assert message.startswith("CHATWOOT_CACHE_WEBHOOK_SECRETS=*** (environment): must be ")
        assert "s3cret" not in message

    @pytest.mark.parametrize("text", ["{3: 27, 8: [27, 30]}", '{"3": 27, "8": ["27", 30]}'])
    def test_evolutions_users_are_numbers(self, load_here: Load, text: str) -> None:
        settings = load_here(CHATWOOT_CACHE_EVOLUTION_USERS=text).settings

        assert settings.evolution_users == {3: (27,), 8: (27, 30)}
        assert settings.origin_rules == OriginRules(evolution_users={3: (27,), 8: (27, 30)})

    @pytest.mark.parametrize("text", ["27", "{3: ana}", "{3: []}", "{3: 0}", "{0: 27}", "{3: {}}"])
    def test_malformed_users_are_refused(self, load_here: Load, text: str) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_EVOLUTION_USERS=text))

        assert message == (
            f"CHATWOOT_CACHE_EVOLUTION_USERS={text} (environment): must be a map of account id to"
            ' one user id or a list of user ids, such as {"7": 27, "8": [27, 30]}'
        )

    def test_python_maps_are_accepted(self) -> None:
        given = Settings(cache_redis_uri=RedisUri(URI), instances={"7/1": "a"}, webhook_secrets={})

        again = Settings.model_validate(given.model_dump())

        assert again == given


class TestRefusals:
    def test_every_bad_value_has_a_line(self, load_here: Load) -> None:
        message = refusal(
            lambda: load_here(
                {"CHATWOOT_CACHE_STREAM_BATCH_SIZE": "0"},
                CACHE_REDIS_ENABLED="maybe",
                CHATWOOT_CACHE_LOG_LEVEL="ERROR,WARN",
                CHATWOOT_CACHE_STREAM_BLOCK_S="nan",
                CHATWOOT_CACHE_STREAM_MAX_ENTRIES="many",
            )
        )

        assert message.splitlines() == [
            "CACHE_REDIS_ENABLED=maybe (environment): must be true or false",
            (
                "CHATWOOT_CACHE_STREAM_BATCH_SIZE=0 (command line):"
                " must be a whole number from 1 to 10000"
            ),
            "CHATWOOT_CACHE_STREAM_BLOCK_S=nan (environment): must be a number from 0.001 to 30",
            (
                "CHATWOOT_CACHE_STREAM_MAX_ENTRIES=many (environment):"
                " must be a whole number from 1 to 1000000000"
            ),
            (
                "CHATWOOT_CACHE_LOG_LEVEL=ERROR,WARN (environment):"
                " must be one of debug, info, warning, error, critical"
            ),
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CACHE_REDIS_TTL", "0"),
            ("CACHE_REDIS_TTL", "7d"),
            ("CHATWOOT_CACHE_STREAM_BLOCK_S", "0"),
            ("CHATWOOT_CACHE_STREAM_BLOCK_S", "31"),
            ("CHATWOOT_CACHE_HTTP_PORT", "65536"),
            ("CHATWOOT_CACHE_DEAD_RETENTION_S", "inf"),
            ("CHATWOOT_CACHE_STREAM_KEY", "a\nb"),
            ("CHATWOOT_CACHE_STREAM_GROUP", "\udcff"),
            ("CHATWOOT_CACHE_LOG_FORMAT", "xml"),
        ],
    )
    def test_a_value_out_of_bounds_is_one_line(
        self, load_here: Load, name: str, value: str
    ) -> None:
        message = refusal(lambda: load_here(**{name: value}))

        assert message.startswith(f"{name}=")
        assert "\n" not in message
        assert message.isprintable()

    def test_a_long_value_is_cut(self, load_here: Load) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_HTTP_PORT="9" * 5000))

        assert len(message) < 200

    @pytest.mark.parametrize("character", "*?[]{}\\%\n\x7f\x85")
    def test_a_prefix_cannot_widen_a_scan(self, load_here: Load, character: str) -> None:
        message = refusal(lambda: load_here(CACHE_REDIS_PREFIX_KEY=f"a{character}b"))

        assert message.startswith("CACHE_REDIS_PREFIX_KEY=")

    def test_no_address_says_what_to_set(self, tmp_path: Path) -> None:
        message = refusal(lambda: load(environ={}, directory=tmp_path))

        assert "set CACHE_REDIS_URI=redis://host:6379/0" in message
        assert "embedded://.data for a laptop" in message

    @pytest.mark.parametrize(
        ("local", "words"),
        [("false", "nothing would be cached"), ("true", "set CHATWOOT_CACHE_STREAM_REDIS_URI")],
    )
    def test_a_cache_without_redis_is_refused(
        self, load_here: Load, local: str, words: str
    ) -> None:
        message = refusal(lambda: load_here(CACHE_REDIS_ENABLED="false", CACHE_LOCAL_ENABLED=local))

        assert words in message

    def test_a_cache_in_memory_needs_a_stream_and_a_key(self, load_here: Load) -> None:
        environ = {
            "CACHE_REDIS_ENABLED": "false",
            "CACHE_LOCAL_ENABLED": "true",
            "CHATWOOT_CACHE_STREAM_REDIS_URI": URI,
        }
        (warning,) = load_here(**environ).warnings
        loaded = load_here(**environ, CHATWOOT_CACHE_HTTP_API_KEY="key")

        assert "set CHATWOOT_CACHE_HTTP_API_KEY" in warning
        assert loaded.warnings == ()
        assert loaded.settings.local_only
        assert "there is no cache in Redis" in refusal(lambda: loaded.settings.cache_uri)

    def test_two_servers_need_two_ports(self, load_here: Load) -> None:
        same = {"CHATWOOT_CACHE_HTTP_PORT": "80", "CHATWOOT_CACHE_OPS_PORT": "80"}

        assert "two servers need two ports" in refusal(lambda: load_here(**same))
        assert load_here(**same, CHATWOOT_CACHE_OPS_HOST="::1").settings.ops_port == 80
        assert load_here(CHATWOOT_CACHE_HTTP_PORT="0", CHATWOOT_CACHE_OPS_PORT="0").warnings == ()

    def test_the_stream_key_is_not_a_key_of_the_cache(self, load_here: Load) -> None:
        message = refusal(
            lambda: load_here(CHATWOOT_CACHE_STREAM_KEY="chatwoot-cache:chatwoot:events")
        )

        assert "must not start with chatwoot-cache:chatwoot:" in message

    def test_an_unknown_argument_is_an_error(self, load_here: Load) -> None:
        message = refusal(
            lambda: load_here({"STREAM_BATCH_SIZE": "3", "CHATWOOT_CACHE_HTTP_HOST": ""})
        )

        assert message.splitlines() == [
            "CHATWOOT_CACHE_HTTP_HOST (command line): must not be empty",
            (
                "STREAM_BATCH_SIZE (command line) is not a setting;"
                " did you mean CHATWOOT_CACHE_STREAM_BATCH_SIZE?"
            ),
        ]

    def test_the_error_has_no_cause_that_holds_the_value(self, load_here: Load) -> None:
        with pytest.raises(ConfigurationError) as caught:
            load_here(CACHE_REDIS_URI="s3cret://")

        assert caught.value.__suppress_context__


class TestWarnings:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("CHATWOOT_CACHE_STREM_KEY", "CHATWOOT_CACHE_STREAM_KEY"),
            ("CHATWOOT_CACHE_REDIS_URI", "CACHE_REDIS_URI"),
            ("CHATWOOT_CACHE_CACHE_REDIS_TTL", "CACHE_REDIS_TTL"),
            ("chatwoot_cache_log_level", "CHATWOOT_CACHE_LOG_LEVEL"),
            ("CHATWOOT_CACHE_STREAM_KEY_FILE", "CHATWOOT_CACHE_STREAM_KEY"),
            ("CACHE_LOCAL_MAX_ENTRIES", "CHATWOOT_CACHE_LOCAL_MAX_BYTES"),
            ("CHATWOOT_CACHE_LOCAL_MAX_ENTRIES", "CHATWOOT_CACHE_LOCAL_MAX_BYTES"),
            ("CHATWOOT_CACHE_CACHE_LOCAL_MAX_BYTES", "CHATWOOT_CACHE_LOCAL_MAX_BYTES"),
            ("CACHE_LOCAL_TTLS", "CACHE_LOCAL_TTL"),
        ],
    )
    def test_an_unknown_name_is_a_warning_with_the_most_similar_name(
        self, load_here: Load, name: str, nearest: str
    ) -> None:
        assert load_here(**{name: "s3cret"}).warnings == (
            f"{name} (environment) is not a setting; did you mean {nearest}?",
        )

    def test_an_unknown_name_in_a_file_is_a_warning(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / "env.yml").write_text("CACHE: {LOCAL: {MAX_ENTRIES: 1000}}")

        (warning,) = load_here().warnings

        assert warning.startswith("CACHE_LOCAL_MAX_ENTRIES (env.yml) is not a setting")
        assert warning.endswith("did you mean CHATWOOT_CACHE_LOCAL_MAX_BYTES?")

    def test_an_unknown_name_without_similar_names_gets_no_suggestion(
        self, load_here: Load, tmp_path: Path
    ) -> None:
        (tmp_path / "env.yml").write_text("CHATWOOT_CACHE: {ZZZ: 1}")

        assert load_here().warnings == ("CHATWOOT_CACHE_ZZZ (env.yml) is not a setting",)


class TestReadKeys:
    """Keys to read over HTTP."""

    def test_a_key_for_all_and_one_or_more_for_each_instance(
        self, load_here: Load, tmp_path: Path
    ) -> None:
        (tmp_path / "keys").write_text('{"loja 1": old, "padaria": [a, "b c"]}\n')
        loaded = load_here(
            CHATWOOT_CACHE_HTTP_API_KEY="s3cret", CHATWOOT_CACHE_HTTP_INSTANCE_KEYS_FILE="keys"
        )
        keys = loaded.settings.http_instance_keys
        masked = loaded.masked()

        assert loaded.settings.reads_enabled
        assert {i: [k.get_secret_value() for k in several] for i, several in keys.items()} == {
            "loja 1": ["old"],
            "padaria": ["a", "b c"],
        }
        assert masked["CHATWOOT_CACHE_HTTP_API_KEY"] == "***"
        assert masked["CHATWOOT_CACHE_HTTP_INSTANCE_KEYS"] == {
            "loja 1": ["***"],
            "padaria": ["***", "***"],
        }
        assert "s3cret" not in repr(loaded)
        assert not load_here().settings.reads_enabled

    @pytest.mark.parametrize(
        "text",
        ["s3cret", "[s3cret]", "{a:s3cret}", "{a: ''}", "{a: []}", "{'': s3cret}", "{a: {}}"],
    )
    def test_a_malformed_map_is_refused_and_not_shown(self, load_here: Load, text: str) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_HTTP_INSTANCE_KEYS=text))

        assert message.startswith("CHATWOOT_CACHE_HTTP_INSTANCE_KEYS=*** (environment): must be ")
        assert "s3cret" not in message

    @pytest.mark.parametrize("key", [" s3cret", "s3cret ", "s3\tcret", "s3\ncret"])
    def test_a_key_that_no_header_can_hold_is_refused(self, load_here: Load, key: str) -> None:
        message = refusal(lambda: load_here(CHATWOOT_CACHE_HTTP_API_KEY=key))

        assert message.startswith("CHATWOOT_CACHE_HTTP_API_KEY=*** (environment): must be a key")
        assert "cret" not in message

    @pytest.mark.parametrize("text", ["{a: x, b: x}", "{a: [x, y], b: y}", "{a: s3cret}"])
    def test_a_key_is_used_once(self, load_here: Load, text: str) -> None:
        message = refusal(
            lambda: load_here(
                CHATWOOT_CACHE_HTTP_API_KEY="s3cret", CHATWOOT_CACHE_HTTP_INSTANCE_KEYS=text
            )
        )

        assert "a key opens one instance only" in message
        assert "s3cret" not in message


class TestDeprecatedStorage:
    def test_a_disabled_storage_is_accepted(self, load_here: Load) -> None:
        assert load_here(REDIS_ENABLED="false", REDIS_URI=URI).warnings == ()

    @pytest.mark.parametrize("name", ["REDIS_ENABLED", "CACHE_REDIS_SAVE_INSTANCES"])
    def test_an_enabled_storage_is_a_warning(self, load_here: Load, name: str) -> None:
        (warning,) = load_here(**{name: "true"}).warnings

        assert f"set {name}=false" in warning

    @pytest.mark.parametrize(
        ("cache", "storage"),
        [
            ("redis://localhost", "redis://127.0.0.1:6379/0"),
            ("redis://user:a@[::1]:6379", "redis://LOCALHOST/"),
            ("redis://redis:6379/6", "rediss://:b@redis.?db=6"),
            ("unix:///run/redis.sock?db=0", "unix:///run//redis.sock"),
            ("embedded://.data", "embedded://./.data/"),
        ],
    )
    def test_a_storage_with_the_prefix_of_the_cache_is_refused(
        self, load_here: Load, cache: str, storage: str
    ) -> None:
        """Sharing both mixes instances."""
        message = refusal(
            lambda: load_here(
                CACHE_REDIS_URI=cache,
                CACHE_REDIS_PREFIX_KEY="evo",
                REDIS_ENABLED="true",
                REDIS_URI=storage,
                REDIS_PREFIX_KEY="evo",
            )
        )

        assert "instances get mixed" in message

    @pytest.mark.parametrize(
        ("storage", "prefix"),
        [
            ("redis://localhost:6379/0", "evo"),
            ("redis://localhost:6380/6", "evo"),
            ("redis://other:6379/6", "evo"),
            ("not an address", "evo"),
            (URI, "other"),
        ],
    )
    def test_a_storage_elsewhere_is_a_warning(
        self, load_here: Load, storage: str, prefix: str
    ) -> None:
        loaded = load_here(
            CACHE_REDIS_PREFIX_KEY="evo",
            REDIS_ENABLED="true",
            REDIS_URI=storage,
            REDIS_PREFIX_KEY=prefix,
        )

        assert len(loaded.warnings) == 1


class TestAddresses:
    @pytest.mark.parametrize(
        "uri",
        [
            "redis://localhost",
            "redis://evolution_redis:6379/6",
            "redis://user:p%40ss@host/0?protocol=3",
            "rediss://[::1]:6380/",
            "unix:///run/redis.sock?db=1",
            "embedded://.data",
            "embedded:///var/lib/chatwoot-cache",
            "unix://user:secret@/run/redis.sock",
        ],
    )
    def test_accepted(self, load_here: Load, uri: str) -> None:
        assert load_here(CACHE_REDIS_URI=uri).settings.cache_uri.get_secret_value() == uri

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("localhost:6379", "must start with redis://"),
            ("http://localhost", "must start with redis://"),
            ("REDIS://localhost", "must start with redis://"),
            ("redis+sentinel://a,b/main", "not in this version"),
            ("redis+cluster://a", "not in this version"),
            ("redis://", "must be redis://"),
            ("redis://:s3cret", "must be redis://"),
            ("redis://:s3/cret@host", "must be redis://"),
            ("redis://:s3cret#@host", "must be redis://"),
            ("redis://host/cache", "must be redis://"),
            ("redis://[::1", "must be redis://"),
            ("unix://run/redis.sock", "by its absolute path"),
            ("unix://[s3cret", "by its absolute path"),
            ("embedded://", "must name a directory"),
            ("redis://a b", "must not contain spaces"),
            ("redis://host/0?socket_timeout=1", "an option that cannot be set"),
            ("redis://host/0?db=s3", "option db that cannot be used"),
            ("redis://host/0?decode_responses=true", "an option that cannot be set"),
        ],
    )
    def test_refused_without_showing_a_password(
        self, load_here: Load, uri: str, words: str
    ) -> None:
        message = refusal(lambda: load_here(CACHE_REDIS_URI=uri))

        assert message.startswith("CACHE_REDIS_URI=")
        assert words in message
        if "@" in uri or uri.startswith("redis://:"):
            assert "s3" not in message

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("redis://localhost:6379/6", "redis://localhost:6379/6"),
            ("redis://[::1]:6379", "redis://[::1]:6379"),
            ("redis://:secret@host:6379/6", "redis://:***@host:6379/6"),
            ("redis://user:secret@host", "redis://user:***@host"),
            ("redis://secret@host", "redis://***@host"),
            ("user:secret@host:6379", "user:***@host:6379"),
            ("redis://:12345", "redis://:***"),
            ("redis://h:secret", "redis://h:***"),
            ("unix:///run/a.sock?db=1&password=secret", "unix:///run/a.sock?db=1&password=***"),
            ("redis://h/0?password=a:secret@c", "redis://h/0?password=***"),
            ("embedded://.data", "embedded://.data"),
        ],
    )
    def test_shown_without_the_password(self, uri: str, shown: str) -> None:
        assert mask(uri) == shown
        assert str(RedisUri(uri)) == shown

    @given(before=st.text(), after=st.text(), user=st.sampled_from(["", "user"]))
    def test_no_password_is_ever_shown(self, before: str, after: str, user: str) -> None:
        shown = mask(f"redis://{user}:{before}s3cret{after}@host:6379/6")

        assert "s3cret" not in shown

    @given(uri=st.text())
    def test_any_text_can_be_compared_and_masked(self, uri: str) -> None:
        redis_uri.server(uri)
        mask(uri)


def test_names_are_what_users_write() -> None:
    assert name_of("cache_redis_uri") == "CACHE_REDIS_URI"
    assert name_of("stream_key") == "CHATWOOT_CACHE_STREAM_KEY"
    assert name_of("node_app_instance") == "NODE_APP_INSTANCE"


def test_what_is_shown_has_no_secret(load_here: Load) -> None:
    loaded = load_here(
        CACHE_REDIS_URI="redis://:s3cret@host",
        CHATWOOT_CACHE_WEBHOOK_TOKEN="s3cret",
        CHATWOOT_CACHE_WEBHOOK_SECRETS="{7: s3cret}",
    )

    masked = loaded.masked()

    assert masked["CHATWOOT_CACHE_WEBHOOK_TOKEN"] == "***"
    assert masked["CHATWOOT_CACHE_WEBHOOK_SECRETS"] == {"7": ["***"]}
    assert masked["CHATWOOT_CACHE_STREAM_REDIS_URI"] == "redis://:***@host"
    assert "s3cret" not in str(masked) + repr(loaded)


def test_every_setting_has_a_docstring() -> None:
    """In a docstring after each field."""
    (model,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(model, ast.ClassDef)
    described = [
        field.target.id
        for field, after in pairwise(model.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(after, ast.Expr)
    ]

    assert described == list(Settings.model_fields)


def secrets_of(settings: Settings) -> dict[int, list[str]]:
    return {
        account: [secret.get_secret_value() for secret in several]
        for account, several in settings.webhook_secrets.items()
    }
