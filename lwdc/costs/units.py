"""Units of costs: what a person may write behind a number, and how a cost is shown."""

from fractions import Fraction

_TIMES = {
    "ns": Fraction(1, 10**6),
    "us": Fraction(1, 10**3),
    "µs": Fraction(1, 10**3),
    "ms": Fraction(1),
    "s": Fraction(10**3),
}
_BYTES = {"b": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def in_unit(suffix: str, unit: str) -> Fraction | None:
    """How many of ``unit`` one ``suffix`` is; None if it is no such unit.

    Milliseconds take other times (``us``, ``s``), bytes take ``kB`` and ``KiB``; any other unit takes the
    prefixes k, M, G and T, in any case, and a plural.
    """
    if unit == "ms":
        return _TIMES.get(suffix)
    stem = suffix.lower()
    if unit == "B":
        return Fraction(_BYTES[stem]) if stem in _BYTES else None
    for ending in (unit.lower() + "s", unit.lower(), unit.lower().rstrip("s")):
        if stem.endswith(ending) and stem.removesuffix(ending) in _PREFIXES:
            return Fraction(_PREFIXES[stem.removesuffix(ending)])
    return None


def example(value: float, unit: str) -> str:
    """An amount as a person would write it."""
    prefix, scale = "", 1.0
    if unit != "ms":
        prefix, scale = next(((p, s) for p, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= s), ("", 1.0))
    return f"{value / scale:.3g}{prefix}{unit}"
