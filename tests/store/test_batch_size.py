"""How many entries are asked for at once."""

from worker.core.stream_entry import DeadEntry, Entry
from worker.errors import UnusableEntry
from worker.store.stream.batch_size import MAX_BYTES, AdaptiveBatchSize, split


def entries(count: int, size: int) -> list[Entry]:
    return [Entry(b"1-1", {b"": b"x" * size})] * count


def test_a_portion_starts_small_and_grows_by_doubling_to_the_batch_size() -> None:
    portion = AdaptiveBatchSize(50)
    counts = []
    for _ in range(4):
        counts.append(portion.count)
        portion.learn(entries(portion.count, 1000))

    assert counts == [8, 16, 32, 50]


def test_large_entries_make_a_small_portion_and_small_ones_a_large_one_again() -> None:
    portion = AdaptiveBatchSize(200)
    for _ in range(8):
        portion.learn(entries(portion.count, 1000))
    assert portion.count == 200

    portion.learn(entries(200, MAX_BYTES // 3))
    assert portion.count == 3
    portion.learn(entries(3, 2 * MAX_BYTES))
    assert portion.count == 1
    portion.learn(entries(1, 1000))
    assert portion.count == 2


def test_a_read_without_entries_teaches_nothing() -> None:
    portion = AdaptiveBatchSize(200)
    portion.learn([])

    assert portion.count == 8


def test_a_reply_that_does_not_come_makes_the_next_one_small() -> None:
    portion = AdaptiveBatchSize(200)
    portion.learn(entries(1, 1000))
    portion.shrink()

    assert portion.count == 1


def test_letters_are_split_by_their_bytes_and_stay_in_order() -> None:
    error = UnusableEntry("bad_json", "no")
    sizes = [1, 1, MAX_BYTES, 1, MAX_BYTES + 1, 1]
    letters = [DeadEntry(Entry(b"1-1", {b"": b"x" * size}), error) for size in sizes]

    parts = list(split(letters))

    assert [letter for part in parts for letter in part] == letters
    assert [len(part) for part in parts] == [2, 1, 1, 1, 1]
    assert list(split([])) == []
