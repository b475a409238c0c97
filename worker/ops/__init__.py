"""Operations: health, probes, metrics, logs, and notification of the process manager.

`logs`, `metrics` and `notify` may be imported from everywhere but `core`.
"""
