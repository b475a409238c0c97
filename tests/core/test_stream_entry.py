"""Entries: what a producer may state around a payload, and what breaks the contract."""

import pytest
from hypothesis import given, strategies as st

from worker.core.stream_entry import Entry, Envelope, read_envelope
from worker.errors import UnusableEntry

NAMES = [b"payload", b"instance", b"expect", b"account", b"_id", b"delivery"]

SMALL = st.integers(0, 11)
IDS = st.tuples(SMALL | st.integers(0, 10**13 - 1), SMALL | st.integers(0, 2**64 - 1))


def reading(entry_id: bytes = b"1790863271000-0", **fields: bytes) -> Envelope:
    given_fields = {name.encode(): value for name, value in fields.items()}
    return read_envelope(Entry(entry_id, {b"payload": b"{}", **given_fields}))


def refused(entry_id: bytes = b"1790863271000-0", **fields: bytes) -> str:
    with pytest.raises(UnusableEntry) as caught:
        reading(entry_id, **fields)
    assert caught.value.reason == "bad_entry"
    return str(caught.value)


class TestFields:
    def test_a_payload_alone_is_enough(self) -> None:
        assert reading() == Envelope(
            payload=b"{}",
            order="1790863271000" + "0" * 20,
            ms=1_790_863_271_000,
            instance=None,
            expect=None,
            account_id=None,
        )

    def test_all_that_may_be_stated(self) -> None:
        said = reading(
            instance="São João".encode(), expect=b"loja", account=b"3", delivery=b"\xff", more=b""
        )

        assert (said.instance, said.expect, said.account_id) == ("São João", "loja", 3)

    @pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"not JSON"])
    def test_the_payload_is_left_as_it_is(self, payload: bytes) -> None:
        assert reading(payload=payload).payload == payload

    @pytest.mark.parametrize("fields", [{}, {b"Payload": b"{}"}, {b"instance": b"loja"}])
    def test_without_a_payload_it_is_a_bad_entry(self, fields: dict[bytes, bytes]) -> None:
        with pytest.raises(UnusableEntry, match="no field `payload`") as caught:
            read_envelope(Entry(b"1-0", fields))
        assert caught.value.reason == "bad_entry"

    @given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=300)))
    def test_any_bytes_are_read_or_refused(self, fields: dict[bytes, bytes]) -> None:
        refused_for = None
        try:
            read_envelope(Entry(b"1790863271000-0", fields))
        except UnusableEntry as error:
            refused_for = error.reason

        assert refused_for in (None, "bad_entry")
        assert refused_for or b"payload" in fields


class TestNames:
    @pytest.mark.parametrize("field", ["instance", "expect"])
    @pytest.mark.parametrize(
        "name", [b"a", b"a" * 255, "é".encode() * 127, b" ", b"\0", b"a:b*", "😀".encode()]
    )
    def test_of_1_to_255_bytes_are_taken(self, field: str, name: bytes) -> None:
        assert getattr(reading(**{field: name}), field) == name.decode()

    @pytest.mark.parametrize("field", ["instance", "expect"])
    @pytest.mark.parametrize("name", [b"", b"a" * 256, "é".encode() * 128])
    def test_of_another_length_are_refused(self, field: str, name: bytes) -> None:
        assert refused(**{field: name}) == f"field `{field}` is not 1 to 255 bytes long"

    @pytest.mark.parametrize("field", ["instance", "expect"])
    @pytest.mark.parametrize(
        "name", [b"\xff", b"loja\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
    )
    def test_that_are_not_utf_8_are_refused(self, field: str, name: bytes) -> None:
        assert refused(**{field: name}) == f"field `{field}` is not UTF-8"


class TestAccount:
    @pytest.mark.parametrize(
        ("account", "account_id"), [(b"1", 1), (b"007", 7), (b"9007199254740991", 2**53 - 1)]
    )
    def test_is_an_id(self, account: bytes, account_id: int) -> None:
        assert reading(account=account).account_id == account_id

    @pytest.mark.parametrize(
        "account",
        [
            b"",
            b"0",
            b"000",
            b"-1",
            b"+1",
            b" 1",
            b"1\n",
            b"1.0",
            b"1e3",
            b"0x1",
            b"1_0",
            "\u0663".encode(),
            b"9007199254740992",
            b"9999999999999999",
            b"9" * 5000,
            b"\xff",
        ],
    )
    def test_that_is_none_is_refused(self, account: bytes) -> None:
        """As an id in a payload would be: from 1 to 2^53 - 1."""
        assert refused(account=account) == "field `account` is not an account id"


class TestIds:
    @pytest.mark.parametrize(
        ("entry_id", "ms", "order"),
        [
            (b"0-1", 0, "0" * 32 + "1"),
            (b"9999999999999-0", 9_999_999_999_999, "9" * 13 + "0" * 20),
            (b"1-18446744073709551615", 1, "0" * 12 + "118446744073709551615"),
        ],
    )
    def test_are_time_and_sequence(self, entry_id: bytes, ms: int, order: str) -> None:
        said = reading(entry_id)

        assert (said.ms, said.order) == (ms, order)

    @pytest.mark.parametrize("entry_id", [b"10000000000000-0", b"18446744073709551615-0"])
    def test_with_more_than_13_digits_of_time_are_refused(self, entry_id: bytes) -> None:
        """They would not fit a stamp."""
        expected = "the entry's id has more than 13 digits of milliseconds"

        assert refused(entry_id) == expected
        assert refused(_id=entry_id) == expected

    @pytest.mark.parametrize(
        "first_id",
        [
            b"",
            b"-",
            b"1",
            b"1-",
            b"-1",
            b"1-1-1",
            b"1-1\n",
            b" 1-1",
            b"1--1",
            b"+1-1",
            b"1-*",
            b"*",
            b"1_0-1",
            "\u0661-\u0661".encode(),
            b"1-" + b"1" * 21,
            b"1" * 21 + b"-1",
            b"1" * 5000 + b"-1",
            b"\xff",
        ],
    )
    def test_of_another_form_are_refused(self, first_id: bytes) -> None:
        assert "milliseconds-sequence" in refused(_id=first_id)

    def test_a_replayed_entry_has_the_order_and_time_of_its_first_id(self) -> None:
        assert reading(b"1790863999999-5", _id=b"1790863271000-0") == reading()

    def test_the_new_id_of_a_replayed_entry_says_nothing(self) -> None:
        assert reading(b"99999999999999-0", _id=b"1-2").order == reading(b"1-2").order

    @given(IDS, IDS)
    def test_order_as_the_stream_does(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        mine, other = (reading(f"{ms}-{sequence}".encode()).order for ms, sequence in (a, b))

        assert len(mine) == len(other) == 33
        assert (mine < other) is (a < b)
        assert (mine == other) is (a == b)
