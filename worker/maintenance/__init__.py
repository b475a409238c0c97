"""What runs on a timer beside the consumer, one module for each timer.

May import `consumer`, `store`, `settings` and `core`.
"""

from typing import Final

FAST_S: Final = 5.0
SLOW_S: Final = 60.0

LEASE_S: Final = 3 * FAST_S
"""How long one worker trims and retires consumers for its group without renewing the lease."""
