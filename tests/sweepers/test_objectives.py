"""Objectives: figures of a run by name, never those of the test set."""

import pytest

from lwdc.errors import LwdcError
from lwdc.sweepers.objectives import FIGURES, Objective, parse_objectives

ROW = {"folder": "sweep/0", "valid_finetuned": 0.9, "cost_before": 200, "cost_after": 50, "valid_supernet": None}


def test_objectives_are_read_in_either_spelling() -> None:
    assert parse_objectives(["maximise valid_finetuned", "minimize cost_share"]) == [
        Objective("valid_finetuned", True), Objective("cost_share", False)
    ]  # fmt: skip


def test_a_figure_is_a_column_or_what_is_left_of_it() -> None:
    assert Objective("valid_finetuned", True).value(ROW) == 0.9
    assert Objective("cost_after", False).value(ROW) == 50
    assert Objective("cost_share", False).value(ROW) == 0.25


def test_no_figure_is_of_the_test_set() -> None:
    assert not [figure for figure in FIGURES if "test" in figure]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["maximise test_finetuned"], "what is chosen by the test set is no longer judged by it"),
        (["maximise test_accuracy"], "Take one of the validation set: valid_baseline"),
        (["maximise valid_finetund"], "unknown objective 'valid_finetund'. Did you mean 'valid_finetuned'"),
        (["maximise folder"], "unknown objective 'folder'"),
        (["valid_finetuned"], "is written like 'maximise valid_finetuned'; found 'valid_finetuned'"),
        ([], "needs one or more figures"),
        (["maximise macs_after", "minimise macs_after"], "each of them once"),
    ],
)
def test_what_cannot_be_an_objective_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(LwdcError) as caught:
        parse_objectives(texts)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["valid_supernet", "macs_share", "valid_discretised"])
def test_a_figure_that_the_run_lacks_says_which_it_has(name: str) -> None:
    with pytest.raises(LwdcError) as caught:
        Objective(name, True).value(ROW)
    assert f"the run in sweep/0 has no {name}; it has cost_after, valid_finetuned." in str(caught.value)
