"""Chatwoot message cache: a sidecar for Evolution API and Chatwoot."""

from importlib.metadata import version

__version__ = version("chatwoot-cache")
