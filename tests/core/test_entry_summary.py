"""What an entry is about, as far as it says so; whatever it is, reading it never fails."""

import json

import pytest
from hypothesis import given, strategies as st

from tests import events
from worker.core.binding_rules import Bindings
from worker.core.operations.dead_letter import DeadLetter, mask_payload
from worker.core.operations.entry_summary import EntrySummary, summarize_entry

BOUND = Bindings({"3/12": "loja", "5/20": "padaria"}, {"loja": 3, "padaria": 5})


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (EntrySummary(account_id=3, inbox_id=12, inbox_name="x", instance="y"), "loja"),
        (EntrySummary(inbox_id=20), "padaria"),
        (EntrySummary(account_id=3, inbox_id=30, inbox_name="nova"), "nova"),
        (EntrySummary(account_id=3, inbox_id=30, inbox_name="loja"), "loja"),
        (
            EntrySummary(
                account_id=3, inbox_id=30, inbox_name="Site", channel="Channel::WebWidget"
            ),
            None,
        ),
        (EntrySummary(account_id=3, inbox_id=30, instance="stated"), "stated"),
        # Another account's of the same name is not this instance's.
        (EntrySummary(account_id=4, inbox_id=30, inbox_name="loja"), None),
        (EntrySummary(account_id=4, inbox_id=30, instance="loja"), None),
        (EntrySummary(account_id=3), "loja"),
        (EntrySummary(account_id=4), None),
        (EntrySummary(inbox_id=99, instance="loja"), "loja"),
        (EntrySummary(), None),
    ],
)
def test_an_entry_belongs_where_its_inbox_is_bound_or_would_be(
    summary: EntrySummary, expected: str | None
) -> None:
    assert summary.belongs_to(BOUND) == expected


def test_of_an_account_with_two_instances_what_names_no_inbox_is_neithers() -> None:
    both = Bindings({"3/12": "loja", "3/13": "outra"}, {"loja": 3, "outra": 3})

    assert EntrySummary(account_id=3).belongs_to(both) is None


def test_a_message_says_all_of_it() -> None:
    body = events.message(1, account_id=4, inbox_id=9, inbox_name="x", conversation_id=7)
    summary = summarize_entry({b"payload": events.encode(body), b"expect": b"e", b"account": b"4"})

    assert (summary.event, summary.account_id, summary.inbox_id) == ("message_created", 4, 9)
    assert (summary.inbox_name, summary.conversation_id, summary.expect) == ("x", 7, "e")
    assert summary.contacts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "event",
                    "account",
                    "inbox",
                    "id",
                    "conversation",
                    "messages",
                    "name",
                    "identifier",
                    "phone_number",
                    "inbox_id",
                    "channel",
                    "content",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.binary(max_size=8), st.binary(max_size=8))
def test_nothing_that_an_entry_holds_stops_its_reading(
    body: object, instance: bytes, account: bytes
) -> None:
    payload = json.dumps(body).encode()
    fields = {b"payload": payload, b"instance": instance, b"account": account}
    letter = DeadLetter(b"1-1", {**fields, b"_more": instance, b"_id": account})

    summarize_entry(fields).names(BOUND)
    letter.details(BOUND, content=True)
    assert b"payload" in letter.original()
    assert letter.first_ms >= 0


@given(st.text("xyz ", min_size=12, max_size=30))
def test_no_text_of_people_is_shown_wherever_it_stands(text: str) -> None:
    body = events.message(content=text)
    body["sender"] |= {"name": text, "phone_number": text, "created_at": text}
    body["content_attributes"] = {"items": [{"name": text, "deep": [text]}]}
    body["conversation"]["meta"]["sender"]["name"] = text
    body["conversation"]["messages"][0]["content"] = text

    shown = json.dumps(mask_payload(events.encode(body)))

    assert text not in shown
    assert "loja-aurora" in shown
