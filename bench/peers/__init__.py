"""What we are compared with: each a program as its library's users write it, without our guards.

Each reads the same group, caches the whole payload under the message's id with a time to live,
and acknowledges after writing. None merges, keeps indexes, or minds the order of events.
"""
