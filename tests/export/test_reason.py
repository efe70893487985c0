"""The reason is the one sentence that a reader can use."""

import pytest

from lwdc.export.reason import reason_of


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no such operator", "no such operator"),
        (
            "Constraints violated!\n  - the batch is fixed at 2. Or use this.\nSuggested fixes: none",
            "the batch is fixed at 2",
        ),
        ("\nfirst line.\nsecond line", "first line"),
        ("", "RuntimeError"),
    ],
)
def test_pages_become_a_sentence(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason


def test_the_first_cause_counts() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise KeyError("aten.eig")
        except KeyError as error:
            raise RuntimeError("step 3 of 3 failed") from error
    assert reason_of(caught.value) == "'aten.eig'"
