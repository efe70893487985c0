"""Figures as people read them."""

import math


def si(number: float, *, digits: int = 3) -> str:
    """``1234567`` as ``"1.23M"``: ``digits`` significant digits and a decimal prefix."""
    for scale, prefix in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        scaled = number / scale
        if abs(scaled) < 1000 - 0.5 * 10 ** (3 - digits) or prefix == "T":
            break
    return str(round(number)) if not prefix else significant(scaled, digits=digits) + prefix


def significant(number: float, *, digits: int = 3, decimals: int = 9) -> str:
    """``"0.0123"`` or ``"12.3"``: ``digits`` that count, at most ``decimals`` of them after the point."""
    rounded = float(f"{number:.{digits - 1}e}")
    if number == 0 or not math.isfinite(rounded):
        return "0" if number == 0 else str(number)
    magnitude = math.floor(math.log10(abs(rounded)))
    return f"{number:.{min(decimals, max(0, digits - 1 - magnitude))}f}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as ``"98.7%"``; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}%"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, signed: ``"-0.4"``; a dash for None."""
    return "-" if difference is None else f"{100 * difference:+.1f}"


def duration(seconds: float) -> str:
    """``"4.2s"``, ``"3m07s"`` or ``"2h05m"``."""
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
