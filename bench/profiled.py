"""Our worker under one of two profilers of the standard library: `python -m bench.profiled`.

`calls` counts every call (cProfile): exact in number, but small functions look dearer than they
are; waiting is no time. `samples` looks which line runs, as often per CPU second as the
kernel's clock lets it (250 times on most): true in proportion; a C function's time is its
caller's line's.
"""

import cProfile
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

# Imported before the profile begins, so that it shows work and not imports.
import worker.app  # noqa: F401
from worker.__main__ import main

SAMPLE_S = 0.001


def under_calls(out: Path) -> int:
    """Run the worker and leave cProfile's statistics."""
    profiler = cProfile.Profile(time.process_time)
    try:
        return profiler.runcall(main, ["run"])
    finally:
        profiler.dump_stats(out)


def under_samples(out: Path) -> int:
    """Run the worker and leave how often each line was seen to run."""
    seen: Counter[str] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            seen[f"{code.co_filename}:{frame.f_lineno}({code.co_qualname})"] += 1

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
    try:
        return main(["run"])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write_text(json.dumps(seen))


UNDER: dict[str, Callable[[Path], int]] = {"calls": under_calls, "samples": under_samples}

if __name__ == "__main__":
    sys.exit(UNDER[sys.argv[1]](Path(sys.argv[2])))
