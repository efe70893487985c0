"""Units of costs: what a person may write behind a number, and how a cost is shown."""

from fractions import Fraction

from lwdc.text import si, significant

_SMALL = {
    "f": Fraction(1, 10**15),
    "p": Fraction(1, 10**12),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "µ": Fraction(1, 10**6),
    "μ": Fraction(1, 10**6),
}
_LARGE = {"": Fraction(1), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12)}
_PREFIXES = {**_SMALL, "m": Fraction(1, 1000), **_LARGE}
_COUNTED = {"mac": "MAC", "param": "params"}  # m is mega here: nobody counts thousandths of them
_BYTES = {"b": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for ending, base in (("b", 1000), ("ib", 1024))
}


def in_unit(suffix: str, unit: str) -> Fraction | None:
    """How many of ``unit`` one ``suffix`` is; None if it is no such unit.

    MACs and parameters take k, M, G and T in any case and a plural, bytes ``kB`` and ``KiB`` in any case. Times and
    other units with a symbol, such as J or Wh, take SI prefixes as they are written: 5 mJ are not 5 MJ. Any
    other unit is taken as it stands.
    """
    for stem, counted in _COUNTED.items():
        if unit == counted:
            prefix, found, plural = suffix.lower().rpartition(stem)
            known = {name.lower(): scale for name, scale in _LARGE.items()}
            return known.get(prefix) if found and plural in ("", "s") else None
    if unit == "B":
        return Fraction(_BYTES[suffix.lower()]) if suffix.lower() in _BYTES else None
    if suffix == unit:
        return Fraction(1)
    own, symbol = _split(unit)
    if not symbol or not suffix.endswith(symbol):
        return None
    prefix = suffix.removesuffix(symbol)
    return _PREFIXES[prefix] / _PREFIXES[own] if prefix in _PREFIXES else None


def _split(unit: str) -> tuple[str, str]:
    """Prefix and symbol; no symbol where the unit is a word, which takes no prefix."""
    for prefix in (unit[:1], ""):
        symbol = unit.removeprefix(prefix)
        if prefix in _PREFIXES and (symbol == "s" or symbol[:1].isupper()):
            return prefix, symbol
    return "", ""


def example(value: float, unit: str) -> str:
    """An amount as a person would write it."""
    if unit in ("B", *_COUNTED.values()):
        return f"{si(value)}{unit}"
    return shown(value, unit).replace(" ", "")


def shown(value: float, unit: str) -> str:
    """An amount as a table has it: ``"409nJ"`` for 409,000 pJ. As a budget it is read as the same, but for rounding."""
    if value < 1000:
        return f"{significant(value)} {unit}"
    if unit in ("B", *_COUNTED.values()):
        return f"{si(value)}{unit}"
    own, symbol = _split(unit)
    if not symbol:  # a word, which takes no prefix
        return f"{significant(value)} {unit}"
    amount = Fraction(value) * _PREFIXES[own]
    prefix = max((p for p in _PREFIXES if p.isascii() and _PREFIXES[p] <= amount), key=_PREFIXES.__getitem__)
    return f"{significant(float(amount / _PREFIXES[prefix]))}{prefix}{symbol}"
