"""Which keys a SCAN pattern matches, as Redis decides it (`stringmatchlen` in its util.c)."""


def matches(pattern: bytes, key: bytes) -> bool:
    """Say whether a glob pattern matches all of a key, byte by byte, case included."""
    while pattern:
        if pattern[:1] == b"*":
            rest = pattern.lstrip(b"*")
            return any(matches(rest, key[at:]) for at in range(len(key) + 1))
        if not key:
            return False
        fits, pattern = _one(pattern, key[0])
        if not fits:
            return False
        key = key[1:]
    return not key


def _one(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    """Match one byte; returns whether it fits and what is left of the pattern."""
    head = pattern[:1]
    if head == b"?":
        return True, pattern[1:]
    if head == b"[":
        return _class(pattern[1:], byte)
    if head == b"\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return pattern[0] == byte, pattern[1:]


def _class(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    """Match one byte against what stands in brackets; a class that never ends goes to the end."""
    negated = pattern[:1] == b"^"
    if negated:
        pattern = pattern[1:]
    found = False
    while pattern and pattern[:1] != b"]":
        if pattern[:1] == b"\\" and len(pattern) > 1:
            found, pattern = found or pattern[1] == byte, pattern[2:]
        elif len(pattern) > 2 and pattern[1:2] == b"-":
            low, high = sorted((pattern[0], pattern[2]))
            found, pattern = found or low <= byte <= high, pattern[3:]
        else:
            found, pattern = found or pattern[0] == byte, pattern[1:]
    return found != negated, pattern[1:]
