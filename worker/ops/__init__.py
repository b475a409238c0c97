"""Health, probes, metrics, logs and notifications to the supervisor.

Imported from everywhere but `core`.
"""
