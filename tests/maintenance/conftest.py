"""A rig for each test, on the shared server."""

from tests.consumer.conftest import rig

__all__ = ["rig"]
