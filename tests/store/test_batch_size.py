"""How many entries are asked for at once."""

from worker.core.stream_entry import DeadEntry, Entry
from worker.errors import UnusableEntry
from worker.store.stream.batch_size import MAX_BYTES, AdaptiveBatchSize, split


def entries(count: int, size: int) -> list[Entry]:
    return [Entry(b"1-1", {b"": b"x" * size})] * count


def test_a_batch_size_starts_small_and_grows_by_doubling_to_the_batch_size() -> None:
    batch_size = AdaptiveBatchSize(50)
    counts = []
    for _ in range(4):
        counts.append(batch_size.count)
        batch_size.observe(entries(batch_size.count, 1000))

    assert counts == [8, 16, 32, 50]


def test_large_entries_make_a_small_batch_size_and_small_ones_a_large_one_again() -> None:
    batch_size = AdaptiveBatchSize(200)
    for _ in range(8):
        batch_size.observe(entries(batch_size.count, 1000))
    assert batch_size.count == 200

    batch_size.observe(entries(200, MAX_BYTES // 3))
    assert batch_size.count == 3
    batch_size.observe(entries(3, 2 * MAX_BYTES))
    assert batch_size.count == 1
    batch_size.observe(entries(1, 1000))
    assert batch_size.count == 2


def test_a_read_without_entries_changes_nothing() -> None:
    batch_size = AdaptiveBatchSize(200)
    batch_size.observe([])

    assert batch_size.count == 8


def test_a_reply_that_does_not_come_makes_the_next_one_small() -> None:
    batch_size = AdaptiveBatchSize(200)
    batch_size.observe(entries(1, 1000))
    batch_size.shrink()

    assert batch_size.count == 1


def test_letters_are_split_by_their_bytes_and_stay_in_order() -> None:
    error = UnusableEntry("bad_json", "no")
    sizes = [1, 1, MAX_BYTES, 1, MAX_BYTES + 1, 1]
    letters = [DeadEntry(Entry(b"1-1", {b"": b"x" * size}), error) for size in sizes]

    parts = list(split(letters))

    assert [letter for part in parts for letter in part] == letters
    assert [len(part) for part in parts] == [2, 1, 1, 1, 1]
    assert list(split([])) == []
