"""Proposals: from Hydra's overrides to Optuna's distributions, and back."""

import math

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lwdc.errors import LwdcError
from lwdc.sweepers.proposals import as_overrides, open_settings


def parsed(*overrides: str) -> list:
    return OverridesParser.create().parse_overrides(list(overrides))


def proposals(count: int, *overrides: str) -> list[dict[str, str]]:
    """What a study proposes, key by key, as it is written."""
    space = open_settings(parsed(*overrides))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [as_overrides(space, study.ask(space).params) for _ in range(count)]
    return [dict(text.split("=", 1) for text in texts) for texts in asked]


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("gate=softmax,gumbel", {"softmax", "gumbel"}),
        ("strategy.lr=choice(0.005,0.02)", {"0.005", "0.02"}),
        ("+space.include=choice([a,b],'x y')", {"[a,b]", r"x\ y"}),
        ("a=true,false", {"True", "False"}),
        ("a=range(1,10,4)", {"1", "5", "9"}),
        ("a=range(3)", {"0", "1", "2"}),
        ("a=range(5,1,-2)", {"5", "3"}),
        ("a=range(0.1,0.5,0.1)", {"0.1", "0.2", "0.3", "0.4"}),
        ("a=int(interval(2,4))", {"2", "3", "4"}),
    ],
)
def test_what_can_be_counted_is_proposed_in_full_and_nothing_else(override: str, allowed: set[str]) -> None:
    key = override.partition("=")[0]
    found = {trial[key] for trial in proposals(60, override)}
    assert found == allowed
    parsed(*(f"b={value}" for value in found))  # none of them raises


def test_an_interval_is_kept_and_its_numbers_are_read_back_exactly() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = open_settings(parsed("a=interval(0.03,3)"))
    for _ in range(50):
        params = study.ask(space).params
        (again,) = parsed(*as_overrides(space, params))
        assert again.value() == params["a"] and 0.03 <= params["a"] <= 3


def test_a_logarithmic_scale_gives_every_decade_its_share() -> None:
    values = [float(trial["a"]) for trial in proposals(300, "a=tag(log, interval(0.001,10))")]
    assert all(0.001 <= value <= 10 for value in values)
    shares = [sum(math.floor(math.log10(v)) == d for v in values) / len(values) for d in (-3, -2, -1, 0)]
    assert all(0.15 < share < 0.35 for share in shares)


def test_a_quarter_of_a_plain_interval_gets_a_quarter() -> None:
    values = [float(trial["a"]) for trial in proposals(300, "a=interval(0,4)")]
    assert all(0.15 < sum(d <= v < d + 1 for v in values) / 300 < 0.35 for d in range(4))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["seed=0"], "there is nothing to search"),
        (["a=interval(3,1)"], "a=interval(3,1): an interval goes from a smaller number to a larger one"),
        (["a=interval(1,1)"], "from a smaller number to a larger one"),
        (["a=tag(log, interval(0,1))"], "on a logarithmic scale numbers are greater than 0"),
        (["a=tag(log, choice(1,2))"], "choices have no scale"),
        (["a=tag(lgo, interval(1,2))"], "the tag lgo means nothing here; log does"),
        (["a=choice(1)"], "a search needs two values or more"),
        (["a=1,1"], "a search needs two values or more"),
        (["a=range(1,1)"], "a search needs two values or more"),
        (["a=range(1,5,0)"], "its step is 0"),
        (["a=tag(log, range(1,9,2))"], "a range has the step 1"),
        (["a=tag(log, range(0.1,0.9,0.1))"], "real numbers have no step"),
    ],
)
def test_a_space_that_means_nothing_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(LwdcError) as caught:
        open_settings(parsed(*overrides))
    assert said in str(caught.value)
