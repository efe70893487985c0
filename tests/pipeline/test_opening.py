"""What a run says before it begins."""

from collections import Counter

from lwdc.pipeline.opening import in_short


def test_reasons_are_said_in_short_one_line_a_candidate() -> None:
    more = "costs more than the original: {} MACs and 9 parameters against 4 and 4"
    assert in_short(Counter({more.format(8): 2})) == more.format(8)
    reasons = Counter({more.format(8): 2, more.format(9): 3, "it is the original": 1})
    assert in_short(reasons) == "costs more than the original (5); it is the original (1)"
    found = in_short(Counter({f"groups={n} does not divide": 1 for n in range(5)}))
    assert found.count("groups=") == 3 and found.endswith("; 2 more reasons, see lwdc inspect")
    parts = {f"grouped_8: groups=8 does not divide {n} -> {n} channels": 1 for n in (4, 6)}
    assert in_short(Counter(parts)) == "; ".join(f"{reason} (1)" for reason in parts)
