"""Merge: whatever the order, grouping, repetition and clock, the end state is the same."""

import json
import re
from dataclasses import replace
from functools import reduce
from itertools import combinations, pairwise

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from tests.core.merge_model import DAY_MS, ModelCache, judge, stamps
from tests.core.rows import (
    MESSAGE_ID,
    NOON_S,
    PLACEHOLDER,
    Clock,
    Reading,
    as_of_0_1_0,
    histories,
    plain,
    readings,
    statuses,
)
from worker.core.coalescer import Coalescer
from worker.core.documents import Conversation, Message, PendingWrite, encode
from worker.core.merge import (
    MAX_TIME_US,
    STAMP_DIGITS,
    is_created_with_source,
    merge,
    stamp,
    status_stamp,
)
from worker.core.timestamps import to_iso

RANKS = {"failed": 1, "sent": 2, "delivered": 3, "read": 4}
FAR_FUTURE = Clock("2150-01-01T00:00:00.000Z", 5_680_281_600_000_000)


def message_of(history: list[Reading]) -> Message:
    return reduce(merge, [reading.documents()[0] for reading in history])


def conversation_of(history: list[Reading]) -> Conversation:
    return reduce(merge, [reading.documents()[1] for reading in history])


def subsets(history: list[Reading]) -> list[list[Reading]]:
    return [list(some) for size in (1, 2, 3) for some in combinations(history, size)]


def at(offset_s: int) -> Clock:
    return Clock(NOON_S + offset_s, (NOON_S + offset_s) * 1_000_000)


def touched(clock: Clock) -> dict[str, Clock]:
    return dict.fromkeys(("updated_at", "last_activity_at", "timestamp"), clock)


class TestIsAJoin:
    @given(histories(min_size=3, max_size=5), st.data())
    def test_of_messages_in_any_state(self, history: list[Reading], data: st.DataObject) -> None:
        some = st.lists(st.sampled_from(history), min_size=1, max_size=4)
        a, b, c = (message_of(data.draw(some)) for _ in range(3))

        assert merge(a, b) == merge(b, a)
        assert merge(merge(a, b), c) == merge(a, merge(b, c))
        assert merge(a, a) == a
        assert merge(a, merge(a, b)) == merge(a, b)

    @given(histories(min_size=3, max_size=5), st.data())
    def test_of_conversations(self, history: list[Reading], data: st.DataObject) -> None:
        some = st.lists(st.sampled_from(history), min_size=1, max_size=4)
        a, b, c = (conversation_of(data.draw(some)) for _ in range(3))

        assert merge(a, b) == merge(b, a)
        assert merge(merge(a, b), c) == merge(a, merge(b, c))
        assert merge(a, a) == a

    @given(histories(min_size=2, max_size=5))
    def test_equal_revisions_mean_equal_documents(self, history: list[Reading]) -> None:
        found: dict[str, bytes] = {}
        for some in subsets(history):
            for document in (message_of(some), conversation_of(some)):
                assert found.setdefault(document.revision, encode(document)) == encode(document)

    @given(histories(min_size=2, max_size=6), st.data())
    def test_is_what_the_script_decides_stamp_by_stamp(
        self, history: list[Reading], data: st.DataObject
    ) -> None:
        """A document the script writes or drops unmerged is one that merge would have chosen."""
        some = st.lists(st.sampled_from(history), min_size=1, max_size=4)
        mine, stored = message_of(data.draw(some)), message_of(data.draw(some))
        merged = merge(mine, stored)

        match judge(mine.revision, stored.revision):
            case "stale":
                assert merged == stored
            case "applied":
                assert merged == mine
            case _:
                assert merged not in (mine, stored)
        assert all(
            m == max(a, b)
            for m, a, b in zip(
                stamps(merged.revision), stamps(mine.revision), stamps(stored.revision), strict=True
            )
        )


class TestEndState:
    @given(histories(max_size=6, message_ids=(MESSAGE_ID, MESSAGE_ID + 1)), st.data())
    def test_is_the_same_in_any_order_grouping_and_repetition(
        self, history: list[Reading], data: st.DataObject
    ) -> None:
        again = data.draw(st.lists(st.sampled_from(history), max_size=6))
        arrivals = data.draw(st.permutations(history + again))
        sizes = st.lists(st.integers(1, 5), min_size=len(arrivals), max_size=len(arrivals))
        cache = ModelCache(ttl_ms=10**9, now_ms=NOON_S * 1000)

        while arrivals:
            size = data.draw(sizes)[0]
            batch, arrivals = arrivals[:size], arrivals[size:]
            fold = Coalescer()
            for reading in batch:
                for document in reading.documents(replayed=data.draw(st.booleans())):
                    fold.add(document, reading.order[0])
            for write in data.draw(st.permutations(fold.writes)):
                cache.write(write)

        for message_id in {reading.message_id for reading in history}:
            of_message = [reading for reading in history if reading.message_id == message_id]
            assert cache.get((Message, "loja", message_id)) == message_of(of_message)
        conversation = conversation_of(history)
        assert cache.get((Conversation, "loja", conversation.id)) == conversation

    @given(histories())
    def test_is_the_one_the_contract_names(self, history: list[Reading]) -> None:
        """Register by register, from what the readings state rather than from any stamp."""
        merged = message_of(history)

        def latest(some: list[Reading]) -> Reading:
            return max(some, key=lambda r: (r.witness_us, r.is_update, r.order))

        deletions = [reading for reading in history if reading.deleted]
        body = latest(deletions or history)
        assert merged == msgspec.structs.replace(
            body.documents()[0],
            revision=merged.revision,
            source_id=merged.source_id,
            status=merged.status,
            updated_at=merged.updated_at,
        )
        sources = [reading for reading in history if reading.source_id is not None]
        created = [reading for reading in sources if not reading.is_update]
        assert merged.source_id == (latest(created or sources).source_id if sources else None)
        assert is_created_with_source(merged.revision) is bool(created)

    @given(histories())
    def test_has_the_status_with_the_latest_time(self, history: list[Reading]) -> None:
        merged = message_of(history)
        known = [reading for reading in history if reading.status_is_known]
        if not known:
            assert (merged.status, merged.updated_at) == (None, None)
            return

        def rank(reading: Reading) -> tuple[int, int]:
            return reading.status_at.us, RANKS.get(reading.status or "", 0)

        top = max(map(rank, known))
        candidates = {r.status for r in known if rank(r) == top and r.status is not None}
        prefix = max(status.encode()[:5] for status in candidates)
        assert merged.status in {s for s in candidates if top[1] or s.encode()[:5] == prefix}
        assert merged.updated_at == to_iso(top[0])

    @given(histories())
    def test_of_a_conversation_is_its_latest_reading(self, history: list[Reading]) -> None:
        latest = max(history, key=lambda reading: (reading.witness_us, reading.order))

        assert conversation_of(history) == latest.documents()[1]

    def test_a_fold_keeps_instances_kinds_and_ids_apart(self) -> None:
        fold = Coalescer()
        message, conversation = plain().documents()
        of_equal_id = msgspec.structs.replace(message, id=conversation.id)
        elsewhere = [
            msgspec.structs.replace(document, instance="padaria")
            for document in (message, conversation)
        ]

        for document in (message, conversation, of_equal_id, *elsewhere):
            assert fold.add(document, 1).added
        assert [write.document for write in fold.writes] == [
            *(message, conversation, of_equal_id, *elsewhere)
        ]

    @given(histories(min_size=2, max_size=5, message_ids=(1, 2)))
    def test_a_fold_holds_one_draft_for_each_document(self, history: list[Reading]) -> None:
        fold = Coalescer()
        for reading in history:
            held = dict(enumerate(fold.writes))
            for document in reading.documents():
                part = fold.add(document, reading.order[0])
                before = held.get(part.write)
                now = fold.writes[part.write]
                assert part.added is (before is None or before.document != now.document)

        assert len(fold.writes) == len({reading.message_id for reading in history}) + 1
        for write in fold.writes:
            born = [
                reading.order[0]
                for reading in history
                if isinstance(write.document, Conversation)
                or reading.message_id == write.document.id
            ]
            assert write.event_ms == max(born)


class TestPromises:
    @given(histories(), st.data())
    def test_once_deleted_the_text_never_shows(
        self, history: list[Reading], data: st.DataObject
    ) -> None:
        deletion = replace(data.draw(readings()), order=(NOON_S * 1000, 77), deleted=True)
        merged = message_of(data.draw(st.permutations([*history, deletion])))

        assert merged.deleted
        assert merged.content == PLACEHOLDER
        assert merged.content_attributes == {"deleted": True}
        assert merged.attachments == []
        assert b"text (" not in encode(merged)
        assert b"/(" not in encode(merged)

    @given(histories())
    def test_a_known_status_or_source_id_is_never_lost(self, history: list[Reading]) -> None:
        steps = [message_of(history[: count + 1]) for count in range(len(history))]

        for before, after in pairwise(steps):
            assert after.status is not None or before.status is None
            assert after.source_id is not None or before.source_id is None
            assert after.deleted or not before.deleted

    @given(histories(min_size=2))
    def test_a_state_dated_later_is_never_replaced_by_an_earlier_one(
        self, history: list[Reading]
    ) -> None:
        """As long as Chatwoot's clock is within ten minutes of ours, and nothing is deleted."""
        sane = [
            r for r in history if not r.deleted and r.witness_us < r.order[0] * 1000 + 6 * 10**8
        ]
        if not sane:
            return
        latest_us = max(reading.witness_us for reading in sane)

        assert message_of(sane).content in {
            reading.text for reading in sane if reading.witness_us == latest_us
        }
        assert conversation_of(sane).additional_attributes in [
            {"from": list(reading.order)} for reading in sane if reading.witness_us == latest_us
        ]

    @given(histories(min_size=2))
    def test_no_step_goes_backwards(self, history: list[Reading]) -> None:
        steps = [message_of(history[: count + 1]) for count in range(len(history))]

        for before, after in pairwise(steps):
            assert judge(before.revision, after.revision) == "stale"


class TestRevision:
    @given(readings())
    @example(plain(order=(9_999_999_999_999, 2**64 - 1), created_at=FAR_FUTURE))
    @example(plain(order=(0, 0)))
    @example(plain(order=(9_999_999_999_999, 0), created_at=Clock(10**10, MAX_TIME_US)))
    def test_is_digits_of_one_width_and_stands_first(self, reading: Reading) -> None:
        message, conversation = reading.documents()

        assert re.match(rb'\{"revision":"[0-9]{156}"', encode(message))
        assert re.match(rb'\{"revision":"[0-9]{52}"', encode(conversation))
        assert next(iter(json.loads(encode(message)))) == "revision"

    @given(readings())
    def test_holds_the_witness_time_and_the_entrys_id(self, reading: Reading) -> None:
        message, conversation = reading.documents()
        ms, sequence = reading.order
        order = f"{ms:013d}{sequence:020d}"

        assert conversation.revision == f"1{reading.witness_us:017d}0{order}"
        body, _, source = stamps(message.revision)
        time_and_order = f"{reading.witness_us:017d}{reading.is_update:d}{order}"
        assert body == f"{reading.deleted:d}{time_and_order}"
        assert source == (
            "0" * 52 if reading.source_id is None else f"{2 - reading.is_update}{time_and_order}"
        )

    @given(readings())
    def test_a_replayed_entry_is_the_same_document(self, reading: Reading) -> None:
        assert reading.documents(replayed=True) == reading.documents()

    @given(*[st.tuples(statuses(), st.sampled_from([0, 1, 2, MAX_TIME_US]))] * 2)
    def test_status_stamps_order_by_time_then_rank_then_text(
        self, a: tuple[str | None, int], b: tuple[str | None, int]
    ) -> None:
        def sense(status: str, us: int) -> tuple[int, int, bytes]:
            rank = RANKS.get(status, 0)
            return us, rank, b"" if rank else status.encode()[:5].ljust(5, b"\0")

        (one, one_us), (two, two_us) = (a[0] or "", a[1]), (b[0] or "", b[1])
        mine, other = status_stamp(one, one_us), status_stamp(two, two_us)
        assert len(mine) == len(other) == STAMP_DIGITS
        assert (mine == other) is ((one, one_us) == (two, two_us))
        if sense(one, one_us) != sense(two, two_us):
            assert (mine < other) is (sense(one, one_us) < sense(two, two_us))

    @given(st.text(st.characters(codec="utf-8"), max_size=50))
    def test_any_status_has_a_stamp_below_the_known_ones(self, status: str) -> None:
        made = status_stamp(status, MAX_TIME_US)

        assert re.fullmatch(r"[0-9]{52}", made)
        assert status in RANKS or made < status_stamp("failed", MAX_TIME_US)

    @pytest.mark.parametrize("flag", [False, True])
    def test_a_stamp_has_its_width_at_either_end(self, *, flag: bool) -> None:
        least = stamp(flag=flag, witness_us=0, kind=0, order="0" * 33)
        most = stamp(flag=flag, witness_us=MAX_TIME_US + 600_000_000, kind=1, order="9" * 33)

        assert len(least) == len(most) == STAMP_DIGITS
        assert least < most


class TestReleases:
    """Workers of 0.1.0 and of this release settle entries of one group, some of them both."""

    @given(histories(max_size=6), st.data())
    def test_together_they_end_in_a_join_that_no_order_changes(
        self, history: list[Reading], data: st.DataObject
    ) -> None:
        documents = data.draw(written_by_both(history))
        end = reduce(merge, documents)

        assert reduce(merge, data.draw(st.permutations(documents))) == end
        assert len(end.revision) == 3 * STAMP_DIGITS
        for reading in history:
            assert judge(as_of_0_1_0(reading.documents()[0]).revision, end.revision) == "stale"
        if any(reading.deleted for reading in history):
            assert end.deleted
            assert end.content == PLACEHOLDER
        assert (end.source_id is None) is all(r.source_id is None for r in history)

    @given(readings())
    def test_a_source_id_of_creation_is_recognised_in_both(self, reading: Reading) -> None:
        message = reading.documents()[0]
        known = reading.source_id is not None and not reading.is_update

        assert is_created_with_source(message.revision) is known
        assert is_created_with_source(as_of_0_1_0(message).revision) is known


def written_by_both(history: list[Reading]) -> st.SearchStrategy[list[Message]]:
    """The documents of a history, each made by a worker of one release, or of both."""
    makers = st.lists(st.sampled_from(["old", "new", "both"]), min_size=6, max_size=6)

    def documents(by: list[str]) -> list[Message]:
        made = [
            (reading.documents()[0], maker) for reading, maker in zip(history, by, strict=False)
        ]
        old = [as_of_0_1_0(message) for message, maker in made if maker != "new"]
        return old + [message for message, maker in made if maker != "old"]

    return makers.map(documents)


class TestWrongClock:
    def test_a_witness_time_is_cut_to_ten_minutes_after_the_entry(self) -> None:
        reading = plain(created_at=FAR_FUTURE)

        body, *_ = stamps(reading.documents()[0].revision)

        assert int(body[1:18]) == (NOON_S + 600) * 1_000_000

    @pytest.mark.parametrize("name", ["updated_at", "last_activity_at"])
    def test_it_cannot_freeze_a_document(self, name: str) -> None:
        wrong = plain(touched=touched(at(0)) | {name: FAR_FUTURE})
        soon = plain(order=((NOON_S + 601) * 1000, 0), touched=touched(at(601)))

        assert merge(wrong.documents()[0], soon.documents()[0]).content == soon.text
        assert merge(wrong.documents()[1], soon.documents()[1]) == soon.documents()[1]

    @pytest.mark.parametrize("time", [-1, 10**10 + 1, -0.5, 1e300, "soon", ""])
    def test_a_senseless_time_counts_as_absent(self, time: float | str) -> None:
        reading = plain(touched=touched(Clock(time, 0)), created_at=at(0))

        body, *_ = stamps(reading.documents()[0].revision)

        assert int(body[1:18]) == NOON_S * 1_000_000


class TestTies:
    """Where the witness time is the same, kind decides, then the entry's id."""

    def test_an_update_stands_above_a_creation(self) -> None:
        created = plain(order=(NOON_S * 1000, 9))
        updated = plain(order=(NOON_S * 1000, 1), is_update=True)

        assert message_of([updated, created]).content == updated.text

    def test_the_later_entry_stands_above_the_earlier(self) -> None:
        """By number: as text, sequence 9 would stand above 10."""
        first, second = plain(order=(NOON_S * 1000, 9)), plain(order=(NOON_S * 1000, 10))

        assert message_of([second, first]).content == second.text

    def test_a_later_creation_stands_above_an_earlier_update(self) -> None:
        updated = plain(order=(NOON_S * 1000, 9), is_update=True)
        created = plain(order=(NOON_S * 1000, 1), touched=touched(at(1)))

        assert message_of([updated, created]).content == created.text

    def test_a_deletion_stands_above_any_time(self) -> None:
        deleted = plain(deleted=True, touched=touched(at(-3600)))
        edited = plain(order=(NOON_S * 1000, 1), is_update=True, touched=touched(at(500)))

        assert message_of([deleted, edited]).content == PLACEHOLDER

    def test_a_status_of_another_message_says_nothing(self) -> None:
        mine = plain(status="sent", status_at=at(0))
        other = plain(
            order=(NOON_S * 1000, 1), status="read", status_at=at(1), latest_is_other=True
        )

        assert message_of([mine, other]).status == "sent"

    @pytest.mark.parametrize(
        ("low", "high"), [*pairwise(["z" * 9, *RANKS]), ("queued", "queuf"), ("", "a")]
    )
    def test_statuses_of_one_time_rank(self, low: str, high: str) -> None:
        one = plain(status=low, status_at=at(0))
        two = plain(order=(NOON_S * 1000, 1), status=high, status_at=at(0))

        assert message_of([one, two]).status == message_of([two, one]).status == high

    @pytest.mark.parametrize(("a", "b"), [("queued 1", "queued 2"), ("xxxxx", "x" * 300)])
    def test_long_statuses_of_one_time_are_kept_apart(self, a: str, b: str) -> None:
        one = plain(status=a, status_at=at(0))
        two = plain(order=(NOON_S * 1000, 1), status=b, status_at=at(0))

        assert message_of([one, two]) == message_of([two, one])
        assert status_stamp(a, 0) != status_stamp(b, 0)

    def test_failed_then_sent_again_is_sent(self) -> None:
        failed = plain(status="failed", status_at=at(0))
        sent = plain(order=(NOON_S * 1000, 1), status="sent", status_at=at(1))

        merged = message_of([sent, failed])

        assert (merged.status, merged.updated_at) == ("sent", "2026-10-01T14:00:01.000Z")


class TestAges:
    """Deleted texts under expiry: section 4, rule 9 of the contract."""

    TTLS_S = (600, 86_400, 604_800)

    @given(st.data())
    def test_a_deleted_text_never_returns(self, data: st.DataObject) -> None:
        """Entries are added within a day of being read, and settled whenever, more than once."""
        ttl_ms = data.draw(st.sampled_from(self.TTLS_S)) * 1000
        arrivals = data.draw(arrivals_of(ttl_ms))
        cache, seen_deletion = ModelCache(ttl_ms=ttl_ms), False

        for now_ms in sorted({now_ms for now_ms, _ in arrivals}):
            cache.now_ms = now_ms
            batch = [reading for at_ms, reading in arrivals if at_ms == now_ms]
            for write in writes_of(batch, folded=data.draw(st.booleans())):
                cache.write(write)
            seen_deletion = seen_deletion or any(reading.deleted for reading in batch)
            stored = cache.get((Message, "loja", MESSAGE_ID))
            if seen_deletion and stored is not None:
                assert isinstance(stored, Message)
                assert stored.deleted
                assert stored.content == PLACEHOLDER

    @pytest.mark.parametrize(
        ("extra_ms", "has_age_rule", "lag_ms", "returns"),
        [
            (DAY_MS, True, -1, False),
            (DAY_MS, True, DAY_MS + 1, False),
            (0, True, -1, True),
            (DAY_MS, False, DAY_MS + 1, True),
        ],
    )
    def test_both_halves_of_the_rule_are_needed(
        self, extra_ms: int, lag_ms: int, *, has_age_rule: bool, returns: bool
    ) -> None:
        """Without one of them, one of two late arrivals brings the text back."""
        ttl_ms, noon_ms = 604_800_000, NOON_S * 1000
        cache = ModelCache(ttl_ms, extra_ms, has_age_rule=has_age_rule, now_ms=noon_ms)
        deletion = plain(order=(noon_ms, 0), deleted=True)
        late = plain(order=(noon_ms + DAY_MS - 1000, 0))

        cache.write(PendingWrite(deletion.documents()[0], noon_ms))
        cache.now_ms = late.order[0] + ttl_ms + lag_ms
        cache.write(PendingWrite(late.documents()[0], late.order[0]))

        stored = cache.get((Message, "loja", MESSAGE_ID))
        assert (isinstance(stored, Message) and stored.content == late.text) is returns

    def test_an_old_entry_updates_but_never_creates(self) -> None:
        ttl_ms, noon_ms = 600_000, NOON_S * 1000
        cache = ModelCache(ttl_ms, now_ms=noon_ms + ttl_ms + 1)
        old, new = plain(), plain(order=(noon_ms + 1, 0), source_id="WAID:1")
        update = plain(order=(noon_ms, 1), is_update=True, touched=touched(at(1)))

        assert cache.write(PendingWrite(old.documents()[0], old.order[0])) == "stale"
        assert cache.write(PendingWrite(new.documents()[0], new.order[0])) == "applied"
        assert cache.write(PendingWrite(update.documents()[0], update.order[0])) == "applied"
        stored = cache.get((Message, "loja", MESSAGE_ID))
        assert isinstance(stored, Message)
        assert (stored.content, stored.source_id) == (update.text, "WAID:1")


def arrivals_of(ttl_ms: int) -> st.SearchStrategy[list[tuple[int, Reading]]]:
    """Times at which the worker settles entries, each with the reading that it brought.

    The message is deleted at noon: what was read before has its text, what was read later has not.
    """
    edges = [0, 1000, ttl_ms, DAY_MS, ttl_ms + DAY_MS]
    near = [max(0, edge + by) for edge in edges for by in (-1001, -1, 0, 1, 1001)]
    spans = st.sampled_from(near) | st.integers(0, 3 * ttl_ms + 2 * DAY_MS)
    reads = spans | spans.map(int.__neg__)
    delays = st.sampled_from([0, 1, 1000, DAY_MS - 1, DAY_MS]) | st.integers(0, DAY_MS)
    lags = st.lists(spans, min_size=1, max_size=3)
    entries = st.lists(st.tuples(reads, delays, lags, readings()), min_size=2, max_size=5)

    def arrive(drawn: list[tuple[int, int, list[int], Reading]]) -> list[tuple[int, Reading]]:
        arrivals = []
        for sequence, (read_ms, delay_ms, lags_ms, reading) in enumerate(drawn):
            added_ms = NOON_S * 1000 + read_ms + delay_ms
            dated = replace(reading, order=(added_ms, sequence), deleted=read_ms >= 0)
            arrivals += [(added_ms + lag_ms, dated) for lag_ms in lags_ms]
        return arrivals

    return entries.map(arrive)


def writes_of(batch: list[Reading], *, folded: bool) -> list[PendingWrite]:
    if not folded:
        return [PendingWrite(reading.documents()[0], reading.order[0]) for reading in batch]
    fold = Coalescer()
    for reading in batch:
        fold.add(reading.documents()[0], reading.order[0])
    return fold.writes
