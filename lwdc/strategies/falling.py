"""Where a function that falls is zero, or no longer above: the pressure at which a cost is what it may be."""

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


def least_within(excess: Callable[[float], float], least: float) -> float:
    """The smallest number from ``least`` on at which a function that falls in steps is not above zero.

    It is found to about a thousandth. If there is none, the smallest at which the function comes nearest.
    """
    low, high = least, 4 * least + 1
    if excess(low) <= 0:
        return low
    while excess(high) > 0 and high < _MOST:
        low, high = high, 4 * high
    enough = max(excess(high), 0.0)
    if excess(low) <= enough:  # it is never reached, and this is as near
        low = least
    while high - low > 1e-3 * (1 + low):  # nearer to a step float32 could not tell the two operators apart
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) <= enough else (middle, high)
    return high


_NEAR = 1e-4  # of the original's cost
_MOST = 2.0**20  # of a pressure: what is not reached by it, is not reached
