"""Histories: the front, by hand, and scores that are refused."""

from collections.abc import Callable

import pytest

from lwdc.errors import TrainingError
from lwdc.proposers import History, Menu


def test_the_front_holds_what_nothing_beats(menu: Callable[..., Menu]) -> None:
    space = menu(budget=0.7)
    history = History(space)
    cheap = [(4, 4, 4, 4, 4, 4, 4, k) for k in (4, 3, 2, 1)]  # rising in cost
    accuracies = [0.5, 0.4, 0.6, 0.6]
    for code, accuracy in zip(cheap, accuracies, strict=True):
        history.tell(space.decode(code), accuracy, space.share(code))
    failed, alike = (4, 4, 4, 4, 4, 4, 3, 4), (4, 4, 4, 4, 4, 4, 2, 4)
    history.tell(space.decode(failed), None, space.share(failed))
    history.tell(space.decode(alike), 0.6, space.share(alike))
    history.tell(space.decode(space.original), 0.9, 1.0)
    assert [trial.code for trial in history.front()] == [cheap[0], cheap[2], alike]
    assert History(space).front() == []


@pytest.mark.parametrize("lost", ["nan", "inf"])
def test_a_score_that_is_no_number_is_refused(menu: Callable[..., Menu], lost: str) -> None:
    space = menu()
    history = History(space, score=lambda relative, share: relative * float(lost))
    with pytest.raises(TrainingError, match=rf"the score of an accuracy of 0.5 at 1.0 of the cost is {lost}, and must"):
        history.tell(space.decode(space.original), 0.5, 1.0)
    assert history.trials == []
