"""Keys: no name, whatever it is, lets one instance reach the keys of another."""

import itertools
import re
import unicodedata
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given, strategies as st
from msgspec.structs import replace

from tests.core.glob import matches
from tests.core.names import ADVERSARIAL, names, prefixes
from tests.core.rows import conversation_document, message_document
from worker.core.cache_keys import CacheKeys, escape, unescape
from worker.core.contact_identifiers import index_identifiers, phone_digits
from worker.core.documents import Contact

IDS = st.integers(1, 2**53 - 1) | st.integers(1, 3)


class Place(NamedTuple):
    """What a key stands for."""

    instance: str
    kind: str
    id: int | str


def key_of(keys: CacheKeys, place: Place) -> str:
    key: str = getattr(keys, place.kind)(place.instance, place.id)
    return key


def places(instances: st.SearchStrategy[str]) -> st.SearchStrategy[Place]:
    by_number = st.builds(
        Place, instances, st.sampled_from(["message", "conversation", "timeline"]), IDS
    )
    by_name = st.builds(Place, instances, st.sampled_from(["source", "contact"]), names(min_size=0))
    return by_number | by_name


def every_place(instance: str) -> list[Place]:
    numbered = [Place(instance, kind, 1) for kind in ("message", "conversation", "timeline")]
    named = itertools.product(("source", "contact"), ADVERSARIAL)
    return numbered + [Place(instance, kind, name) for kind, name in named]


class TestEscape:
    @given(names(min_size=0))
    def test_can_be_undone(self, name: str) -> None:
        assert unescape(escape(name)) == name

    @given(names(min_size=0), names(min_size=0))
    def test_keeps_two_names_apart(self, a: str, b: str) -> None:
        assert (escape(a) == escape(b)) is (a == b)

    def test_keeps_all_adversarial_names_apart(self) -> None:
        assert len({escape(name) for name in ADVERSARIAL}) == len(ADVERSARIAL)

    @given(names(min_size=0))
    def test_leaves_no_separator_no_glob_and_nothing_invisible_to_a_terminal(
        self, name: str
    ) -> None:
        escaped = escape(name)

        assert not set(escaped) & set(":*?[]{}\\")
        assert all(unicodedata.category(character) != "Cc" for character in escaped)
        assert re.fullmatch(r"(?:[^%]|%[0-9A-F]{2})*", escaped)

    @given(st.text(st.characters(codec="utf-8", exclude_characters="%:*?[]{}\\")))
    @example("loja São João")
    @example("Sa\u0303o")
    @example("متجر 😀 ../^-!,;=@+&'\"")
    def test_leaves_other_names_as_they_are(self, name: str) -> None:
        assume(all(unicodedata.category(character) != "Cc" for character in name))

        assert escape(name) == name
        assert unescape(name) == name

    @pytest.mark.parametrize(
        ("name", "escaped"),
        [
            ("a:b", "a%3Ab"),
            ("100%", "100%25"),
            ("%3A", "%253A"),
            ("a*?[b]{c}\\", "a%2A%3F%5Bb%5D%7Bc%7D%5C"),
            ("\x00\n\x7f", "%00%0A%7F"),
            ("\x80\x9f", "%C2%80%C2%9F"),
            ("\xa0", "\xa0"),
        ],
    )
    def test_writes_the_utf_8_bytes_in_capitals(self, name: str, escaped: str) -> None:
        assert escape(name) == escaped


class TestLayout:
    def test_is_the_public_one(self) -> None:
        keys = CacheKeys("p")

        assert keys.message("i:j", 1) == "p:chatwoot:i%3Aj:message:1"
        assert keys.source("i", "WAID:3E") == "p:chatwoot:i:source:WAID%3A3E"
        assert keys.conversation("i", 2) == "p:chatwoot:i:conversation:2"
        assert keys.timeline("i", 2) == "p:chatwoot:i:conversation:2:messages"
        assert keys.contact("i", "1@g.us") == "p:chatwoot:i:contact:1@g.us"
        assert keys.bindings == "p:chatwoot:%bindings"
        assert keys.accounts == "p:chatwoot:%accounts"

    @given(prefixes(), places(names()), places(names()))
    def test_two_places_never_have_one_key(self, prefix: str, a: Place, b: Place) -> None:
        keys = CacheKeys(prefix)

        assert (key_of(keys, a) == key_of(keys, b)) is (a == b)

    @given(st.data())
    def test_two_kinds_never_have_one_key(self, data: st.DataObject) -> None:
        """Where instance and id are the same, or would be if one were cut elsewhere."""
        instance = data.draw(names())
        numbers = st.sampled_from([1, 11])
        texts = st.sampled_from(["1", "11", "1:messages", "message:1", "", "contact:1", "%31"])
        a, b = data.draw(
            st.tuples(
                *[
                    st.builds(Place, st.just(instance), st.sampled_from(kinds), ids)
                    for kinds, ids in (
                        (["message", "conversation", "timeline"], numbers),
                        (["source", "contact"], texts),
                    )
                ]
            )
        )
        keys = CacheKeys("p")

        assert key_of(keys, a) != key_of(keys, b)

    @given(prefixes(), places(names()))
    def test_no_key_is_one_of_the_bindings(self, prefix: str, place: Place) -> None:
        keys = CacheKeys(prefix)
        pattern = keys.instance_pattern(place.instance).encode()

        for hash_key in (keys.bindings, keys.accounts):
            assert key_of(keys, place) != hash_key
            assert not matches(pattern, hash_key.encode())

    def test_every_adversarial_key_is_its_own(self) -> None:
        keys = CacheKeys("p")
        all_places = [place for name in ADVERSARIAL for place in every_place(name)]

        made = {key_of(keys, place) for place in all_places}

        assert len(made) == len(all_places)
        assert not made & {keys.bindings, keys.accounts}


class TestScan:
    @given(prefixes(), places(names()))
    def test_finds_every_key_of_its_instance(self, prefix: str, place: Place) -> None:
        keys = CacheKeys(prefix)

        pattern = keys.instance_pattern(place.instance).encode()

        assert matches(pattern, key_of(keys, place).encode())

    @given(prefixes(), names(), places(names()))
    def test_finds_no_key_of_another_instance(self, prefix: str, mine: str, other: Place) -> None:
        assume(mine != other.instance)
        keys = CacheKeys(prefix)

        assert not matches(keys.instance_pattern(mine).encode(), key_of(keys, other).encode())

    @given(names(), names(min_size=0), st.sampled_from(["message", "conversation", "timeline"]))
    def test_finds_no_key_of_an_instance_whose_name_begins_like_it(
        self, mine: str, more: str, kind: str
    ) -> None:
        assume(more)
        keys = CacheKeys("p")
        pattern = keys.instance_pattern(mine).encode()

        for longer in (mine + more, f"{mine}:{more}", f"{mine}:message:{more}", f"{mine}*"):
            assert not matches(pattern, key_of(keys, Place(longer, kind, 1)).encode())

    def test_finds_none_among_all_adversarial_pairs(self) -> None:
        keys = CacheKeys("p")
        made = {
            name: [key_of(keys, place).encode() for place in every_place(name)[:5]]
            for name in ADVERSARIAL
        }

        for mine, other in itertools.permutations(ADVERSARIAL, 2):
            pattern = keys.instance_pattern(mine).encode()
            assert not any(matches(pattern, key) for key in made[other])

    @pytest.mark.parametrize(
        ("pattern", "key", "expected"),
        [
            (b"loja:*", b"loja:2:x", True),
            (b"loja*:*", b"loja2:x", True),
            (b"[ab]:*", b"b:x", True),
            (b"[^a]:*", b"a:x", False),
            (b"[a-c]?", b"bz", True),
            (b"[c-a]?", b"bz", True),
            (b"\\*:*", b"a:x", False),
            (b"\\*:*", b"*:x", True),
            (b"a", b"A", False),
            (b"a*b*c", b"a--b--c", True),
            (b"a*b*c", b"a--c--b", False),
            (b"[ab", b"b", True),
            (b"", b"", True),
            (b"**", b"", True),
        ],
    )
    def test_the_matcher_knows_redis_globs(
        self, pattern: bytes, key: bytes, *, expected: bool
    ) -> None:
        """The proof is worth as much as its matcher: unescaped names do widen a scan."""
        assert matches(pattern, key) is expected


class TestLocate:
    @given(names(), names(), st.none() | names(min_size=0), st.none() | names(min_size=0))
    def test_every_key_of_a_document_is_its_instances(
        self, instance: str, other: str, source_id: str | None, identifier: str | None
    ) -> None:
        assume(instance != other)
        keys = CacheKeys("p")
        contact = Contact(identifier=identifier, phone_number="+55 11 9")
        message = replace(message_document(), instance=instance, source_id=source_id)
        conversation = replace(conversation_document(), instance=instance, contact=contact)

        for document in (message, conversation):
            key, timeline, pointers = keys.locate(document)
            for touched in (key, *([timeline] if timeline else []), *pointers):
                assert matches(keys.instance_pattern(instance).encode(), touched.encode())
                assert not matches(keys.instance_pattern(other).encode(), touched.encode())

    def test_a_message_stands_in_its_conversation_and_under_its_source_id(self) -> None:
        message = replace(message_document(), source_id="WAID:1")
        keys = CacheKeys("p")

        assert keys.locate(message) == (
            keys.message("loja", message.id),
            keys.timeline("loja", message.conversation_id),
            [keys.source("loja", "WAID:1")],
        )
        assert keys.locate(replace(message, source_id=None))[2] == []

    def test_a_conversation_stands_under_its_contacts_names(self) -> None:
        contact = Contact(identifier="77@lid", phone_number="+55 11")
        conversation = replace(conversation_document(), contact=contact)
        keys = CacheKeys("p")

        assert keys.locate(conversation) == (
            keys.conversation("loja", conversation.id),
            None,
            [keys.contact("loja", "5511"), keys.contact("loja", "77@lid")],
        )


class TestContactNames:
    @pytest.mark.parametrize(
        ("identifier", "phone_number", "expected"),
        [
            ("5511900000042@s.whatsapp.net", "+5511900000042", ["5511900000042"]),
            ("5511900000042@s.whatsapp.net", "+55 (11) 90000-0042", ["5511900000042"]),
            # Brazil's ninth digit: WhatsApp's JID may lack it.
            (
                "551100000042@s.whatsapp.net",
                "+5511900000042",
                ["5511900000042", "551100000042@s.whatsapp.net"],
            ),
            ("551100000042@s.whatsapp.net", None, ["551100000042@s.whatsapp.net"]),
            ("120363000000000001@g.us", None, ["120363000000000001@g.us"]),
            ("120363000000000001@g.us", "", ["120363000000000001@g.us"]),
            ("5511900000042@g.us", "+5511900000042", ["5511900000042", "5511900000042@g.us"]),
            ("77000000000001@lid", "+5511900000042", ["5511900000042", "77000000000001@lid"]),
            ("77000000000001@lid", None, ["77000000000001@lid"]),
            (None, "+5511900000042", ["5511900000042"]),
            ("", "+", []),
            (None, None, []),
            (None, "٣٤", []),
        ],
    )
    def test_are_the_digits_and_the_identifier_that_says_more(
        self, identifier: str | None, phone_number: str | None, expected: list[str]
    ) -> None:
        contact = Contact(identifier=identifier, phone_number=phone_number)

        assert index_identifiers(contact) == expected

    def test_of_nobody_are_none(self) -> None:
        assert index_identifiers(None) == []

    @given(st.none() | names(min_size=0), st.none() | names(min_size=0))
    def test_are_never_empty(self, identifier: str | None, phone_number: str | None) -> None:
        made = index_identifiers(Contact(identifier=identifier, phone_number=phone_number))

        assert all(made)
        assert len(made) <= 2

    @given(st.text(st.characters(codec="utf-8")))
    def test_digits_are_ascii(self, phone_number: str) -> None:
        assert phone_digits(phone_number) == "".join(c for c in phone_number if c in "0123456789")
