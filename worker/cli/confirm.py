"""A question before something is taken away."""

import sys


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on a terminal, unless told not to; say whether to go on. Elsewhere there is nobody."""
    if yes or not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
