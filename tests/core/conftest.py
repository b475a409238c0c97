"""How many examples a property is tried on: `CHATWOOT_CACHE_TEST_EXAMPLES=10000` for a long run."""

import os

from hypothesis import HealthCheck, settings

# Taken out of the environment, so that the product's settings under test never see it.
_EXAMPLES = int(os.environ.pop("CHATWOOT_CACHE_TEST_EXAMPLES", "100"))

settings.register_profile(
    "core",
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("core")
