"""After the choice: whose weights go on, and that nothing else changes."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import Macs
from lwdc.data import Digits
from lwdc.folders import CHECKPOINT
from lwdc.gates import OneHot, Softmax
from lwdc.pipeline import CostSettings, Prepared, Settings, choice, compress, prepare
from lwdc.pipeline.choice import choose_network, chosen_network, images_to_refit
from lwdc.pipeline.settling import Settled
from lwdc.records import Note
from lwdc.selection import gates
from lwdc.strategies import Chooser
from lwdc.surgery import discretise, inherit_mixture
from lwdc.tracking import parse_record, read_records
from lwdc.training import Fit, load_checkpoint

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def trained(settings: MakeSettings) -> tuple[Prepared, nn.Module]:
    """A run that can begin, and its baseline after 200 steps."""
    given = settings(gate=Softmax, data=Digits(limit_train=640, valid=200))
    prepared = prepare(dataclasses.replace(given, train=dataclasses.replace(given.train, epochs=20)))
    model, recipe = prepared.model, prepared.settings.train
    list(Fit("baseline", model, prepared.settings.data, recipe, seed=0, fabric=prepared.fabric).run())
    return prepared, model


def with_settings(prepared: Prepared, **changes: Any) -> Prepared:
    return dataclasses.replace(prepared, settings=dataclasses.replace(prepared.settings, **changes))


def ruined(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


def same_state(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def choice_of(supernet: nn.Module, prepared: Prepared) -> Architecture:
    return prepared.lesson(supernet).choice()


def test_both_supernets_weights_come_into_question_and_nothing_changes_in_place(
    trained: tuple[Prepared, nn.Module],
) -> None:
    prepared, baseline = trained
    supernet = prepared.supernet(baseline)
    architecture = choice_of(supernet, prepared)
    broken = ruined(supernet)
    for mine, theirs, best in ((supernet, ruined(baseline), "supernet"), (broken, baseline, "baseline")):
        before = copy.deepcopy(mine), copy.deepcopy(theirs)
        starts = chosen_network(prepared, mine, prepared.supernet(theirs), theirs, architecture, mixes=True)
        assert list(starts) == ["supernet", "baseline"] and max(starts, key=lambda whose: starts[whose][1]) == best
        assert all(prepared.accuracy(network, "valid") == right for network, right in starts.values())
        assert same_state(mine, before[0]) and same_state(theirs, before[1])


def test_the_refit_pays_and_can_be_left_out(trained: tuple[Prepared, nn.Module]) -> None:
    prepared, baseline = trained
    supernet = prepared.supernet(baseline)
    architecture = choice_of(supernet, prepared)
    with_it, without = (
        chosen_network(
            with_settings(prepared, refit_images=images),
            *(supernet, prepared.supernet(baseline), baseline, architecture),
            mixes=True,
        )
        for images in (100, 0)
    )
    for whose in ("baseline", "supernet"):
        assert with_it[whose][1] > without[whose][1] + 0.05

    plain = copy.deepcopy(supernet)
    inherit_mixture(plain, architecture)
    weights = dict(discretise(plain, architecture)[0].named_parameters())
    only = with_settings(prepared, refit_images=0, inherit=False)
    starts = chosen_network(only, supernet, None, baseline, architecture, mixes=True)
    assert list(starts) == ["supernet"]
    assert all(torch.equal(p, weights[name]) for name, p in starts["supernet"][0].named_parameters())


def test_both_refits_take_the_same_images_which_are_read_once(
    trained: tuple[Prepared, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, baseline = trained
    supernet = prepared.supernet(baseline)
    taken: list[torch.Tensor] = []
    monkeypatch.setattr(choice, "refit", lambda network, reference, architecture, images: taken.append(images))
    architecture = choice_of(supernet, prepared)
    chosen_network(prepared, supernet, prepared.supernet(baseline), baseline, architecture, mixes=True)
    assert len(taken) == 2 and taken[0] is taken[1]


def test_operators_trained_one_at_a_time_stay_what_they_are(settings: MakeSettings) -> None:
    prepared = prepare(settings(gate=OneHot, inherit=False))
    supernet = prepared.supernet(prepared.model)
    for gate in gates(supernet):
        nn.init.normal_(gate.logits)
    architecture = choice_of(supernet, prepared)
    network, _ = chosen_network(prepared, supernet, None, prepared.model, architecture, mixes=False)["supernet"]
    weights = dict(discretise(supernet, architecture)[0].named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())


@pytest.fixture(scope="module")
def still(settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    """Settings, and the folder of a search of no epochs by them after a baseline of 15."""
    folder = tmp_path_factory.mktemp("still") / "run"
    data = Digits(limit_train=640, valid=200)
    base = settings(gate=Softmax, data=data, cost=CostSettings(Macs(), budget=0.85))
    base = dataclasses.replace(base, train=dataclasses.replace(base.train, epochs=15))
    compress(dataclasses.replace(base, search=dataclasses.replace(base.search, epochs=0)), folder, {}, until="search")
    return base, folder


@pytest.mark.parametrize("beginning", [True, False])
def test_a_search_that_goes_astray_does_not_end_worse_than_what_it_began_with(
    still: tuple[Settings, Path], tmp_path: Path, beginning: bool
) -> None:
    """Its gates climb where they should descend."""
    base, unmoved = still
    given = dataclasses.replace(
        base, search=dataclasses.replace(base.search, epochs=2), baseline=unmoved, beginning=beginning,
        logits_optim=functools.partial(torch.optim.Adam, lr=1.0, maximize=True),
    )  # fmt: skip
    compress(given, tmp_path / "astray", {}, until="search")
    found, begun = (Architecture.load(folder / "architecture.json") for folder in (tmp_path / "astray", unmoved))
    assert (found == begun) == beginning
    records = [parse_record(line) for line in read_records(tmp_path / "astray" / "records.jsonl")]
    said = [record.text for record in records if isinstance(record, Note)]
    assert ("what gates begin with is better than what they have learned, and goes on" in said) == beginning
    if beginning:  # what is said of it is of the gates that chose it
        ends = [load_checkpoint(f / CHECKPOINT)["done"]["search"] for f in (tmp_path / "astray", unmoved)]
        assert ends[0]["probabilities"] == ends[1]["probabilities"]


@pytest.mark.parametrize(
    ("searched", "begun", "beginning_goes_on"),
    [(0.0, 0.0, False), (0.6, 0.0, True), (0.6, 0.1, True), (0.1, 0.6, False), (0.0, 0.6, False), (0.6, 0.6, False)],
)
def test_of_two_that_are_alike_what_is_nearer_to_the_budget_as_measured_goes_on(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, searched: float, begun: float, beginning_goes_on: bool
) -> None:
    prepared = prepare(settings(refit_images=0))
    baseline = prepared.placed(prepared.model)
    supernet = prepared.placed(prepared.supernet(baseline))
    for gate in gates(supernet):
        gate.logits.data.copy_(torch.randn(len(gate.logits)))
    excesses = iter((searched, begun))

    def settled(prepared: Prepared, chooser: Chooser, baseline: nn.Module, note: Any) -> Settled:
        excess = next(excesses)
        return Settled(chooser.choice(), [None], excess, f"missed by {excess}" if excess else None)

    monkeypatch.setattr(choice, "settle", settled)
    monkeypatch.setattr(Prepared, "accuracy", lambda *_: 0.5)
    chooser = prepared.lesson(supernet)
    wanted = chooser.choice()
    chosen = choose_network(prepared, chooser, supernet, baseline, lambda *_: None)
    assert (chosen.architecture != wanted) == beginning_goes_on
    missed = begun if beginning_goes_on else searched
    assert (f"missed by {missed}" in chosen.warnings) == (missed > 0)


def test_large_images_are_fewer(trained: tuple[Prepared, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, _ = trained
    asked = with_settings(prepared, refit_images=100)
    assert len(images_to_refit(asked)) == 100  # type: ignore[arg-type]
    monkeypatch.setattr("lwdc.refitting._MOST_VALUES", 30 * 8 * 8)
    assert len(images_to_refit(asked)) == 30  # type: ignore[arg-type]
    assert images_to_refit(with_settings(prepared, refit_images=0)) is None


def test_what_was_random_before_has_no_say(settings: MakeSettings) -> None:
    """The network has dropout, and batch norms are re-estimated in training mode."""
    prepared = prepare(settings(gate=Softmax))
    supernet = prepared.supernet(prepared.model)
    architecture = choice_of(supernet, prepared)
    given = supernet, prepared.supernet(prepared.model), prepared.model, architecture
    networks = []
    for _ in range(2):
        networks.append(chosen_network(prepared, *given, mixes=True)["supernet"][0])
        torch.randn(7)
    assert same_state(*networks)
    fresh, _ = discretise(supernet, architecture)
    moved = [name for name, value in networks[0].named_buffers() if "running" in name]
    assert moved and all(not torch.equal(networks[0].get_buffer(n), fresh.get_buffer(n)) for n in moved)
