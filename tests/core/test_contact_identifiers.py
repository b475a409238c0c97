"""Under which names a contact is looked up."""

import pytest
from hypothesis import given, strategies as st

from worker.core.contact_identifiers import index_identifiers, lookup_identifiers
from worker.core.documents import Contact


@pytest.mark.parametrize(
    "written",
    [
        "5511900000042",
        "+5511900000042",
        "+55 (11) 90000-0042",
        "5511900000042@s.whatsapp.net",
        "5511900000042@c.us",
        "5511900000042:17@s.whatsapp.net",
    ],
)
@pytest.mark.parametrize(
    "contact",
    [
        Contact(phone_number="+5511900000042"),
        Contact(phone_number="+5511900000042", identifier="5511900000042@s.whatsapp.net"),
        Contact(identifier="5511900000042@s.whatsapp.net"),
    ],
)
def test_a_number_is_found_however_it_is_written(written: str, contact: Contact) -> None:
    """By `+`, spaces, as a JID, as one of its devices; and where Chatwoot knows one form only."""
    assert {*lookup_identifiers(written).own} & {*index_identifiers(contact)}


@pytest.mark.parametrize("other", ["551100000042", "551100000042@s.whatsapp.net", "+551100000042"])
def test_brazils_ninth_digit_may_be_there_or_not(other: str) -> None:
    """Both ways round; each form's own names come first."""
    assert "5511900000042" in lookup_identifiers(other).other_form
    assert "551100000042" in lookup_identifiers("+5511900000042").other_form
    assert "5511900000042" not in lookup_identifiers(other).own


@pytest.mark.parametrize(
    "number", ["351912345678", "5501900000042", "55119000000421", "55118000000042", "5511"]
)
def test_no_other_form_elsewhere(number: str) -> None:
    """Other countries, other lengths, another first digit."""
    assert lookup_identifiers(number).other_form == []


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("211234567890123@lid", "211234567890123@lid"),
        ("211234567890123:4@lid", "211234567890123@lid"),
        ("120363020000000001@g.us", "120363020000000001@g.us"),
        ("5511900000042-1414141414@g.us", "5511900000042-1414141414@g.us"),
        ("customer-7", "customer-7"),
        ("a@b@lid", "a@b@lid"),
    ],
)
def test_other_identifiers_stand_for_themselves(written: str, name: str) -> None:
    """Groups and `@lid` have no phone number, and no other form."""
    assert lookup_identifiers(written) == ([name], [])


@given(st.text(min_size=1))
def test_any_text_has_names_that_are_not_empty(contact: str) -> None:
    """An empty name would be everybody's."""
    own, other_form = lookup_identifiers(contact)

    assert all([*own, *other_form])
