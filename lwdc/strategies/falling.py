"""Where a function that falls is zero: the pressure at which a cost is what it may be."""

import math
from collections.abc import Callable

from scipy.optimize import brentq


def held_at(excess: Callable[[float], float], guess: float, *, least: float = -math.inf) -> float:
    """Where a falling function is zero, from near ``guess``; as near as it comes, from ``least`` on.

    ``guess`` if it is constant.
    """
    here = excess(guess)
    if abs(here) < _NEAR or (here < 0 and guess <= least):
        return guess
    last, there, width = guess, here, 1.0
    while width <= _MOST:
        beyond = max(guess + math.copysign(width, here), least)
        there = excess(beyond)
        if abs(there) < _NEAR:
            return beyond
        if there * here < 0:
            return float(brentq(excess, last, beyond, xtol=1e-3, rtol=1e-6))
        last, width = beyond, 4 * width
        if beyond == least:
            break
    return last if there != here else guess


_NEAR = 1e-4  # of the original's cost
_MOST = 2.0**20  # of a pressure: what is not reached by it, is not reached
