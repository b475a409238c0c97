"""`connect`: binds exact matches, sets up one webhook per account, and guesses nothing."""

import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chatwoot.conftest import Command
from tests.fakes.chatwoot import Chatwoot
from tests.fakes.evolution import Evolution
from tests.fakes.http import HTML, Reply
from worker.core.chatwoot_event import EVENTS

Bound = Callable[[], dict[str, str]]
URL = "http://chatwoot-cache.internal:9850/chatwoot/webhook"


def pair(evolution: Evolution, chatwoot: Chatwoot, name: str, inbox_id: int = 12) -> None:
    evolution.add(name, url=chatwoot.url)
    chatwoot.add_inbox(inbox_id, name, evolution.webhook_url(name))


def ask(evolution: Evolution) -> tuple[str, ...]:
    return ("connect", "--evolution", evolution.url, "--apikey", evolution.apikey)


def test_binds_the_inbox_sets_the_webhook_up_and_keeps_its_secret(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    pair(evolution, chatwoot, "loja-aurora")

    result = command(*ask(evolution))

    assert (result.code, result.err) == (0, "")
    assert bindings() == {"3/12": "loja-aurora"}
    (webhook,) = chatwoot.webhooks[3]
    assert (webhook["url"], webhook["subscriptions"]) == (URL, list(EVENTS))
    env_file = Path("connect.env")
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert webhook["secret"] in env_file.read_text()
    assert "admin-token" in env_file.read_text()
    for secret in (webhook["secret"], "admin-token", evolution.apikey):
        assert secret not in result.out + result.err
    settings = command("config", "--json").json["settings"]
    assert settings["CHATWOOT_CACHE_WEBHOOK_SECRETS"] == {
        "value": {"3": ["***"]},
        "from": "connect.env",
    }
    assert settings["CHATWOOT_CACHE_CHATWOOT_URL"]["value"] == chatwoot.url


def test_a_second_run_changes_nothing(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    pair(evolution, chatwoot, "loja-aurora")
    command(*ask(evolution))
    before = Path("connect.env").stat(), bindings(), [dict(w) for w in chatwoot.webhooks[3]]

    result = command(*ask(evolution), "--json")

    after = Path("connect.env").stat(), bindings(), chatwoot.webhooks[3]
    assert (before[0].st_ino, *before[1:]) == (after[0].st_ino, *after[1:])
    assert result.code == 0
    assert result.json["inboxes"][0]["binding"] == "already bound"
    assert result.json["webhooks"][0]["webhook"] == "found"
    assert result.json["written"] == []
    assert len(chatwoot.paths("POST") + chatwoot.paths("PATCH")) == 1


def test_a_dry_run_changes_nothing_anywhere(
    command: Command,
    evolution: Evolution,
    chatwoot: Chatwoot,
    keys: Callable[[], set[bytes]],
    tmp_path: Path,
) -> None:
    pair(evolution, chatwoot, "loja-aurora")

    result = command(*ask(evolution), "--dry-run")

    assert result.code == 0
    assert "would bind" in result.out
    assert "would create" in result.out
    assert keys() == set()
    assert list(tmp_path.iterdir()) == []
    assert {request.method for request in chatwoot.requests} == {"GET"}


def test_nothing_is_mixed_and_nothing_guessed(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    """Three inboxes, one a website; names with spaces and emoji; "Whatsapp" in two accounts."""
    chatwoot.users["admin-4"] = {4: "administrator"}
    pair(evolution, chatwoot, "loja do João 🛒", 12)
    pair(evolution, chatwoot, "padaria + café %2F", 13)
    chatwoot.add_inbox(14, "Site", channel="Channel::WebWidget")
    for account_id, token, name, inbox_id in ((3, "admin-token", "n", 15), (4, "admin-4", "s", 16)):
        evolution.add(
            name, url=chatwoot.url, accountId=str(account_id), token=token, nameInbox="Whatsapp"
        )
        chatwoot.add_inbox(inbox_id, "Whatsapp", evolution.webhook_url(name), account_id=account_id)
    evolution.add("sem chatwoot")

    result = command(*ask(evolution), "--json")

    assert result.code == 0, result
    assert bindings() == {
        "3/12": "loja do João 🛒",
        "3/13": "padaria + café %2F",
        "3/15": "n",
        "4/16": "s",
    }
    reasons = {(row["name"], row["instance"]): row["reason"] for row in result.json["inboxes"]}
    assert "Channel::WebWidget" in reasons["Site", None]
    assert "Chatwoot is off" in reasons[None, "sem chatwoot"]
    assert [len(chatwoot.webhooks[account]) for account in (3, 4)] == [1, 1]


def test_two_instances_for_one_inbox_are_reported_and_not_bound(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    for name in ("norte", "sul"):
        evolution.add(name, url=chatwoot.url, nameInbox="Whatsapp")
    chatwoot.add_inbox(12, "Whatsapp", evolution.webhook_url("norte"))

    result = command(*ask(evolution))

    assert result.code == 1
    assert "instances 'norte' and 'sul' use this one inbox" in result.out
    assert "Not bound: 3/12. The worker binds such an inbox by its name" in result.out
    assert bindings() == {}
    assert chatwoot.webhooks[3] == []


def test_a_binding_that_stands_is_not_put_over(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    pair(evolution, chatwoot, "loja nova")
    command("bindings", "set", "3/12", "loja velha")

    result = command(*ask(evolution))

    assert result.code == 1
    assert "chatwoot-cache bindings set 3/12 'loja nova'" in result.out
    assert bindings() == {"3/12": "loja velha"}


def test_an_instance_of_another_account_is_not_taken_over(
    command: Command, chatwoot: Chatwoot, bindings: Bound
) -> None:
    chatwoot.users["admin-token"][4] = "administrator"
    for account_id in (3, 4):
        chatwoot.add_inbox(10 + account_id, "Whatsapp", account_id=account_id)
    alone = ("connect", "--chatwoot", chatwoot.url, "--token", "admin-token", "--account")

    assert command(*alone, "3").code == 0
    result = command(*alone, "4")

    assert result.code == 1
    assert "belongs to account 3" in result.out
    assert bindings() == {"3/13": "Whatsapp"}


def test_chatwoot_alone_with_what_a_person_states(
    command: Command, chatwoot: Chatwoot, bindings: Bound
) -> None:
    chatwoot.add_inbox(12, "a=b")
    chatwoot.add_inbox(13, "Vendas")
    chatwoot.add_inbox(14, "Site", channel="Channel::WebWidget")

    result = command(
        *("connect", "--chatwoot", chatwoot.url, "--token", "admin-token", "--account", "3"),
        *("--bind", "a=b=c=d", "--bind", "3/14=site da loja"),
    )

    assert result.code == 0, result
    assert bindings() == {"3/12": "c=d", "3/13": "Vendas", "3/14": "site da loja"}


@pytest.mark.parametrize("option", ["12", "nada=x", "12=", "Igual=x"])
def test_what_a_person_states_must_mean_one_inbox(
    command: Command, chatwoot: Chatwoot, bindings: Bound, option: str
) -> None:
    for inbox_id in (12, 13):
        chatwoot.add_inbox(inbox_id, "Igual")

    result = command(
        *("connect", "--chatwoot", chatwoot.url, "--token", "admin-token", "--account", "3"),
        *("--bind", option),
    )

    assert result.code == 2
    assert f"--bind {option}" in result.err
    assert len(result.err.splitlines()) == 1
    assert bindings() == {}


def test_an_agents_token_binds_and_says_that_the_webhook_needs_an_administrators(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    chatwoot.users["admin-token"] = {3: "agent"}
    pair(evolution, chatwoot, "loja")

    result = command(*ask(evolution))

    assert result.code == 1
    assert "answers 403" in result.out
    assert "administrator" in result.out
    assert bindings() == {"3/12": "loja"}

    chatwoot.users["another"] = {3: "administrator"}
    assert command(*ask(evolution), "--token", "another").code == 0
    assert len(chatwoot.webhooks[3]) == 1


def test_a_bare_address_of_the_worker_gets_the_webhooks_path(
    command: Command, evolution: Evolution, chatwoot: Chatwoot
) -> None:
    pair(evolution, chatwoot, "loja")

    command(*ask(evolution), "--webhook-url", "https://cache.exemplo.test/")
    assert chatwoot.webhooks[3][0]["url"] == "https://cache.exemplo.test/chatwoot/webhook"


def test_a_webhook_that_is_there_already_gets_the_events_it_lacks(
    command: Command, evolution: Evolution, chatwoot: Chatwoot
) -> None:
    pair(evolution, chatwoot, "loja")
    chatwoot.webhooks[3] += [
        {"id": 7, "url": f"{URL}/", "subscriptions": ["message_created", "contact_updated"]},
        {"id": 8, "url": "https://n8n.test/webhook/x", "subscriptions": ["message_created"]},
    ]
    chatwoot.webhooks[3][0]["secret"] = "secret"

    result = command(*ask(evolution), "--json")

    assert result.json["webhooks"] == [{"account": 3, "webhook": "changed", "reason": ""}]
    ours, other = chatwoot.webhooks[3]
    assert set(ours["subscriptions"]) == {*EVENTS, "contact_updated"}
    assert other["subscriptions"] == ["message_created"]
    assert '{"3":"secret"}' in Path("connect.env").read_text()


def test_a_chatwoot_that_does_not_sign_gets_a_token_into_the_url(
    command: Command, evolution: Evolution, chatwoot: Chatwoot
) -> None:
    chatwoot.signs = False
    pair(evolution, chatwoot, "loja")

    assert command(*ask(evolution)).code == 0
    (webhook,) = chatwoot.webhooks[3]
    url, _, token = webhook["url"].partition("?token=")
    assert url == URL
    assert f"CHATWOOT_CACHE_WEBHOOK_TOKEN={token}" in Path("connect.env").read_text()

    again = command(*ask(evolution), "--json").json
    assert again["webhooks"][0]["webhook"] == "found"
    assert again["written"] == []


def test_secrets_are_asked_for_where_the_command_line_would_show_them(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(evolution, chatwoot, "loja")
    monkeypatch.setenv("CHATWOOT_CACHE_EVOLUTION_APIKEY", evolution.apikey)

    assert command("connect", "--evolution", evolution.url).code == 0
    monkeypatch.delenv("CHATWOOT_CACHE_EVOLUTION_APIKEY")
    result = command("connect", "--evolution", evolution.url)
    assert result.code == 2
    assert "--apikey is missing" in result.err


def test_a_secret_goes_to_the_file_that_the_settings_name(
    command: Command,
    evolution: Evolution,
    chatwoot: Chatwoot,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    secrets_file = tmp_path / "secrets.json"
    secrets_file.write_text('{"9": "other"}')
    monkeypatch.setenv("CHATWOOT_CACHE_WEBHOOK_SECRETS_FILE", str(secrets_file))
    pair(evolution, chatwoot, "loja")

    assert command(*ask(evolution)).code == 0
    assert (
        secrets_file.read_text() == f'{{"9":"other","3":"{chatwoot.webhooks[3][0]["secret"]}"}}\n'
    )
    assert stat.S_IMODE(secrets_file.stat().st_mode) == 0o600
    assert "SECRETS" not in Path("connect.env").read_text()


def test_a_setting_that_would_override_the_file_is_reported(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATWOOT_CACHE_WEBHOOK_SECRETS", '{"9": "other"}')
    pair(evolution, chatwoot, "loja")

    result = command(*ask(evolution))

    assert result.code == 1
    assert "CHATWOOT_CACHE_WEBHOOK_SECRETS is set in environment" in result.err


def test_a_file_that_cannot_be_written_is_a_line_beside_the_table(
    command: Command,
    evolution: Evolution,
    chatwoot: Chatwoot,
    bindings: Bound,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHATWOOT_CACHE_CONNECT_FILE", "/proc/nowhere/connect.env")
    pair(evolution, chatwoot, "loja")

    result = command(*ask(evolution))
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert "/proc/nowhere/connect.env cannot be written" in line
    assert "CHATWOOT_CACHE_CONNECT_FILE" in line
    assert bindings() == {"3/12": "loja"}


def test_an_address_that_only_evolution_knows_is_reported_and_can_be_replaced(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    evolution.add("loja", url="http://127.0.0.1:1")
    chatwoot.add_inbox(12, "loja", evolution.webhook_url("loja"))

    result = command(*ask(evolution))
    assert result.code == 1
    assert "http://127.0.0.1:1 cannot be reached from here" in result.err
    assert "--chatwoot URL" in result.err

    assert command(*ask(evolution), "--chatwoot", chatwoot.url).code == 0
    assert bindings() == {"3/12": "loja"}


def test_two_chatwoots_are_not_mixed_in_one_cache(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    pair(evolution, chatwoot, "loja")
    evolution.add("outra", url="https://other.test", accountId="3")

    result = command(*ask(evolution))
    assert result.code == 2
    assert "https://other.test" in result.err
    assert bindings() == {}

    assert command(*ask(evolution), "--chatwoot", chatwoot.url).code == 1
    assert bindings() == {"3/12": "loja"}


ANSWERS = {
    "unauthorized": Reply(401, {"error": "Invalid Access Token"}),
    "forbidden": Reply(403, {"error": "You are not authorized to do this action"}),
    "missing": Reply(404, {"error": "Resource could not be found"}),
    "limited": Reply(429, b"Retry later\n", {"Retry-After": "1"}),
    "failing": Reply(502, HTML, {"Content-Type": "text/html"}),
    "html": Reply(200, HTML, {"Content-Type": "text/html"}),
    "redirected": Reply(301, b"", {"Location": "https://chat.exemplo.test/x?token=secret"}),
    "shape": Reply(200, {"data": []}),
    "no_json": Reply(200, b"{"),
}


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("who", ["evolution", "chatwoot"])
def test_each_failure_is_one_line_that_says_who_and_what(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound, how: str, who: str
) -> None:
    pair(evolution, chatwoot, "loja")
    failing = evolution if who == "evolution" else chatwoot
    failing.fault = lambda _request: ANSWERS[how]

    result = command(*ask(evolution))

    assert result.code == 1
    (line,) = result.err.splitlines()
    assert f"{who.title()} at {failing.url}" in line
    assert not {"secret", "admin-token", evolution.apikey, "<"} & set(
        line.replace("/", " ").split()
    )
    assert "secret" not in line
    assert bindings() == {}
    assert not Path("connect.env").exists()


@pytest.mark.parametrize("token", ["tóken 🛒", "a\nb", "\udcff"])
def test_a_token_that_no_header_can_carry_is_one_line(
    command: Command, chatwoot: Chatwoot, bindings: Bound, token: str
) -> None:
    result = command("connect", "--chatwoot", chatwoot.url, "--token", token, "--account", "3")

    assert result.code == 1
    (line,) = result.err.splitlines()
    assert f"Chatwoot at {chatwoot.url}" in line
    assert token not in line
    assert bindings() == {}


def test_a_slow_answer_is_not_waited_for(
    command: Command, evolution: Evolution, chatwoot: Chatwoot
) -> None:
    pair(evolution, chatwoot, "loja")
    over = threading.Event()
    chatwoot.fault = lambda _request: Reply(200, {"payload": []}, delay=over)
    try:
        result = command(*ask(evolution), "--set", "CHATWOOT_CACHE_CHATWOOT_TIMEOUT_S=0.2")
    finally:
        over.set()

    assert result.code == 1
    assert "did not answer within 0.2 s" in result.err


def test_one_account_that_refuses_does_not_stop_the_others(
    command: Command, evolution: Evolution, chatwoot: Chatwoot, bindings: Bound
) -> None:
    pair(evolution, chatwoot, "loja")
    evolution.add("outra", url=chatwoot.url, accountId="8", token="admin-token")

    result = command(*ask(evolution))

    assert result.code == 1
    assert "account 8: Chatwoot" in result.err
    assert "answers 401" in result.err
    assert bindings() == {"3/12": "loja"}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--evolution", "evolution:8080", "--apikey", "k"),
        ("--evolution", "http://u:hidden@e.test", "--apikey", "k"),
        ("--chatwoot", "http://127.0.0.1:1", "--token", "t"),
        ("--evolution", "http://127.0.0.1:1", "--apikey", "k", "--webhook-url", "nowhere"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    command: Command, arguments: tuple[str, ...]
) -> None:
    result = command("connect", *arguments)

    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "hidden" not in result.err
