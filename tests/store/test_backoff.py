"""Delays between attempts."""

from worker.store.backoff import Backoff


def test_delays_double_up_to_a_limit_and_start_again_after_a_success() -> None:
    backoff = Backoff(first_s=0.05, max_s=0.3)
    delays_s = [backoff.next_delay_s() for _ in range(5)]
    backoff.reset()

    assert delays_s == [0.05, 0.1, 0.2, 0.3, 0.3]
    assert backoff.next_delay_s() == 0.05
