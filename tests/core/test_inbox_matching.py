"""Inboxes match instances exactly or not at all, whatever their names are."""

from urllib.parse import quote

import pytest
from hypothesis import given

from tests.core.names import names
from worker.core.inbox_matching import (
    ChatwootConfig,
    EvolutionInstance,
    Inbox,
    MatchedInbox,
    Unmatched,
    instance_named_in,
    match_by_name,
    match_inboxes,
)

ROUTE = "http://evolution:8080/chatwoot/webhook/"


def instance(name: str, account_id: int = 3, inbox_name: str | None = None) -> EvolutionInstance:
    return EvolutionInstance(
        name, ChatwootConfig("https://chat.test", account_id, "t", inbox_name or name)
    )


def inbox(
    inbox_id: int,
    name: str,
    *,
    of: str | None = None,
    account_id: int = 3,
    channel: str = "Channel::Api",
) -> Inbox:
    url = None if of is None else f"{ROUTE}{quote(of, safe='')}"
    return Inbox(inbox_id, account_id, name, channel, url)


def pairs(instances: list[EvolutionInstance], inboxes: list[Inbox]) -> dict[str, str]:
    return {
        p.inbox.key: p.instance
        for p in match_inboxes(instances, inboxes)
        if isinstance(p, MatchedInbox)
    }


def left(instances: list[EvolutionInstance], inboxes: list[Inbox]) -> list[str]:
    results = match_inboxes(instances, inboxes)
    return [
        f"{result.inbox.key if result.inbox else '-'} {result.instance or '-'}: {result.reason}"
        for result in results
        if isinstance(result, Unmatched)
    ]


@given(names())
def test_any_name_is_read_back_from_the_url_that_names_it(name: str) -> None:
    assert instance_named_in(f"{ROUTE}{quote(name, safe='')}") == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"{ROUTE}loja%20sul", "loja sul"),
        (f"{ROUTE}loja+sul", "loja+sul"),
        (f"{ROUTE}loja%2Bsul", "loja+sul"),
        (f"{ROUTE}a%2Fb", "a/b"),
        (f"{ROUTE}a%252Fb", "a%2Fb"),
        (f"{ROUTE}loja sul", "loja sul"),
        (f"{ROUTE}%F0%9F%9B%92%20caf%C3%A9", "🛒 café"),
        (f"{ROUTE}loja?x=1#y", "loja"),
        ("https://e.test/sub/path/chatwoot/webhook/loja", "loja"),
        (f"{ROUTE}%FF", None),
        (ROUTE, None),
        ("http://chatwoot-cache.internal:9850/chatwoot/webhook", None),
        ("https://n8n.test/webhook/loja", None),
        ("", None),
        (None, None),
    ],
)
def test_a_webhook_url_names_its_instance_decoded_once(url: str | None, name: str | None) -> None:
    assert instance_named_in(url) == name


def test_a_website_and_odd_names_and_one_name_in_two_accounts() -> None:
    instances = [
        instance("loja do João 🛒"),
        instance("a/b + c%2F"),
        instance("norte", 4, "Whatsapp"),
        instance("sul", 5, "Whatsapp"),
    ]
    inboxes = [
        inbox(1, "loja do João 🛒", of="loja do João 🛒"),
        inbox(2, "outra", of="a/b + c%2F"),
        inbox(3, "Site", channel="Channel::WebWidget"),
        inbox(4, "Whatsapp", of="norte", account_id=4),
        inbox(5, "Whatsapp", of="sul", account_id=5),
    ]

    assert pairs(instances, inboxes) == {
        "3/1": "loja do João 🛒",
        "3/2": "a/b + c%2F",
        "4/4": "norte",
        "5/5": "sul",
    }
    (website,) = left(instances, inboxes)
    assert website.startswith("3/3 -: its channel is Channel::WebWidget")


def test_a_name_alone_pairs_nothing() -> None:
    instances, inboxes = [instance("loja", inbox_name="Whatsapp")], [inbox(1, "Whatsapp")]

    assert pairs(instances, inboxes) == {}
    assert any(
        "3/1 has its inbox's name, which alone proves nothing" in result
        for result in left(instances, inboxes)
    )


def test_two_instances_for_one_inbox_are_reported_and_not_bound() -> None:
    instances = [instance("a", inbox_name="Whatsapp"), instance("b", inbox_name="Whatsapp")]
    inboxes = [inbox(1, "Whatsapp", of="a")]

    assert pairs(instances, inboxes) == {}
    assert any(
        "instances 'a' and 'b' use this one inbox" in result for result in left(instances, inboxes)
    )


def test_two_inboxes_of_one_name_are_told_apart_by_their_urls() -> None:
    instances = [instance("a", inbox_name="Whatsapp"), instance("b", inbox_name="Whatsapp")]
    inboxes = [inbox(1, "Whatsapp", of="a"), inbox(2, "Whatsapp", of="b")]

    assert pairs(instances, inboxes) == {"3/1": "a", "3/2": "b"}


def test_of_two_inboxes_that_name_an_instance_the_one_it_uses_is_bound() -> None:
    inboxes = [inbox(1, "antiga", of="loja"), inbox(2, "loja", of="loja")]

    assert pairs([instance("loja")], inboxes) == {"3/2": "loja"}
    assert pairs([instance("loja", inbox_name="outra")], inboxes) == {}
    assert pairs([instance("loja")], [inbox(n, "loja", of="loja") for n in (1, 2)]) == {}


@pytest.mark.parametrize(
    ("instances", "reason"),
    [
        ([], "names instance 'loja', which this Evolution does not have"),
        ([EvolutionInstance("loja", None)], "whose Chatwoot is off in Evolution"),
        ([instance("loja", 4)], "which Evolution has set to account 4"),
    ],
)
def test_an_inbox_whose_instance_says_otherwise_is_not_bound(
    instances: list[EvolutionInstance], reason: str
) -> None:
    inboxes = [inbox(1, "loja", of="loja")]

    assert pairs(instances, inboxes) == {}
    assert any(reason in result for result in left(instances, inboxes))


def test_chatwoot_alone_takes_the_url_then_the_name_unless_stated() -> None:
    inboxes = [
        inbox(1, "Whatsapp", of="norte"),
        inbox(2, "sul"),
        inbox(3, "Site", channel="Channel::WebWidget"),
        inbox(4, "igual"),
        inbox(5, "igual"),
        inbox(6, ""),
        inbox(7, "sete"),
    ]
    results = list(match_by_name(inboxes, {"3/7": "dita"}))

    assert {p.inbox.key: p.instance for p in results if isinstance(p, MatchedInbox)} == {
        "3/1": "norte",
        "3/2": "sul",
        "3/7": "dita",
    }
    assert len([result for result in results if isinstance(result, Unmatched)]) == 4
