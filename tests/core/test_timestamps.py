"""Times: what Chatwoot writes, as microseconds, and back in one spelling."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from worker.core.merge import MAX_TIME_US
from worker.core.timestamps import canonical_iso, to_iso, to_us

ISO = "2026-10-01T14:01:10.498Z"
ISO_US = 1_790_863_270_498_000


class TestReading:
    @pytest.mark.parametrize(
        ("time", "us"),
        [
            (None, 0),
            (0, 0),
            (1, 1_000_000),
            (1_790_863_271, 1_790_863_271_000_000),
            (1_790_863_271.722044, 1_790_863_271_722_044),
            (0.000001, 1),
            (ISO, ISO_US),
            ("2026-10-01T14:01:10Z", 1_790_863_270_000_000),
            ("2026-10-01T14:01:10.498123Z", ISO_US + 123),
            ("2026-10-01T11:01:10.498-03:00", ISO_US),
            ("2026-10-01T14:01:10.498+0000", ISO_US),
            ("2026-10-01T14:01:10.498", ISO_US),
            ("2020-03-03 13:05:57 UTC", 1_583_240_757_000_000),
            ("1970-01-01T00:00:00Z", 0),
        ],
    )
    def test_every_form_of_chatwoots(self, time: float | str | None, us: int) -> None:
        assert to_us(time) == us

    @pytest.mark.parametrize(
        "time",
        [
            -1,
            -0.5,
            10**10 + 1,
            1e10 + 1,
            10**400,
            -(10**400),
            1.7e308,
            float("inf"),
            float("-inf"),
            float("nan"),
            "",
            " ",
            "UTC",
            "soon",
            "1790863271",
            "2026-13-01T00:00:00Z",
            "2026-10-01T25:00:00Z",
            "1969-12-31T23:59:59Z",
            "2286-11-20T17:46:41Z",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59.999999-23:59",
            "\uff12\uff10\uff12\uff16-10-01T14:01:10Z",
            "😀" * 20,
        ],
    )
    def test_what_is_no_time_is_none(self, time: float | str) -> None:
        assert to_us(time) == 0

    @given(st.integers() | st.floats() | st.text() | st.none())
    def test_never_fails_and_stays_within_bounds(self, time: float | str | None) -> None:
        assert 0 <= to_us(time) <= MAX_TIME_US

    @given(st.datetimes(timezones=st.timezones()))
    def test_reads_any_zone_as_the_same_moment(self, time: datetime) -> None:
        assert to_us(time.isoformat()) == to_us(time.astimezone(UTC).isoformat())

    @given(st.integers(0, 4 * 10**15))
    def test_seconds_with_a_fraction_are_exact_to_the_microsecond(self, us: int) -> None:
        """Until the year 2096, as far as a float tells microseconds apart."""
        assert to_us(us / 1_000_000) == us

    def test_a_long_text_is_no_time(self) -> None:
        """A payload may bring megabytes where a time belongs, and thousands of them."""
        assert to_us(ISO + "0" * 1_000_000) == 0
        assert to_us("x" * 65) == 0


class TestWriting:
    @pytest.mark.parametrize(
        ("us", "text"),
        [
            (0, None),
            (ISO_US, ISO),
            (ISO_US + 123, "2026-10-01T14:01:10.498123Z"),
            (1_790_863_270_000_000, "2026-10-01T14:01:10.000Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
            (MAX_TIME_US, "2286-11-20T17:46:40.000Z"),
        ],
    )
    def test_is_as_chatwoot_does(self, us: int, text: str | None) -> None:
        assert to_iso(us) == text

    @given(st.integers(0, MAX_TIME_US))
    def test_can_be_read_again(self, us: int) -> None:
        assert to_us(to_iso(us)) == us

    @given(*[st.integers(1, MAX_TIME_US)] * 2)
    def test_one_time_has_one_spelling(self, a: int, b: int) -> None:
        assert (to_iso(a) == to_iso(b)) is (a == b)

    @given(
        st.none()
        | st.text()
        | st.datetimes().map(lambda time: time.isoformat(timespec="milliseconds") + "Z")
        | st.from_regex(r"\A(19|20|99)\d\d-[01]\d-[0-3]\d[T ][0-2]\d:\d\d:\d\d[.,]\d{3}Z\Z")
        | st.from_regex(r"\A20\d\d-W[0-5]\d-[1-7]T[0-2]\d:\d\d:\d\d\.\d{3}Z\Z")
    )
    def test_a_time_in_our_spelling_is_left_as_it_is(self, time: str | None) -> None:
        us = to_us(time)

        assert canonical_iso(time, us) == to_iso(us)
