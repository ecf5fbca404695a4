"""The clocks by which a lease is counted.

time.monotonic() is CLOCK_MONOTONIC on Linux, which does not count the time for which a machine is suspended. A second clock that does
count it is read beside it, where the system has one. A lease is over as soon as either clock says so. The wall clock is not used: it may be
set at any time.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass

if sys.platform == "linux":

    def _elapsed() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":

    def _elapsed() -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
else:
    _elapsed = time.monotonic


@dataclass(frozen=True)
class Reading:
    """A time on both clocks, in seconds."""

    monotonic: float
    elapsed: float

    def __add__(self, seconds: float) -> Reading:
        return Reading(self.monotonic + seconds, self.elapsed + seconds)

    def left(self) -> float:
        """Return the seconds until this time, by the clock that says less."""
        return min(self.monotonic - time.monotonic(), self.elapsed - _elapsed())

    def passed(self) -> float:
        """Return the seconds since this time, by the clock that says less."""
        return min(time.monotonic() - self.monotonic, _elapsed() - self.elapsed)


def now() -> Reading:
    """Read both clocks."""
    return Reading(time.monotonic(), _elapsed())


def chance(seconds: float) -> float:
    """Return a random time up to seconds, so that clients spread."""
    return random.random() * seconds  # noqa: S311 (not for secrets)
