"""A front from one search: held at every budget, read off within any, whatever is asked for."""

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, expected_cost, tabulate
from lwdc.data import Digits
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, Softmax, TrainableGate
from lwdc.records import EpochRecord
from lwdc.selection import gates
from lwdc.space import SearchSpace, make_plan
from lwdc.strategies import Dialled, FrontLesson, JointLesson, add_dial, dial_of, search_fit
from lwdc.surgery import begin_with_prior, discretise, wrap
from lwdc.training import Fit, Recipe

GATES: dict[str, Callable[[int], Gate]] = {
    "softmax": Softmax,
    "gumbel": GumbelSoftmax,
    "gumbel_hard": functools.partial(GumbelSoftmax, hard=True),
    "one_hot": OneHot,
    "lwdc": TrainableGate,
    "reinmax": ReinMax,
    "independent": Independent,
}
CANDIDATES: list[Any] = [{"op": "original"}, {"op": "separable"}, {"op": "pointwise"}]
CANDIDATES += [{"op": "grouped", "groups": groups} for groups in (2, 4)]
ADAM = functools.partial(torch.optim.Adam, lr=0.1)


def recipe(epochs: int) -> Recipe:
    return Recipe(epochs, 64, functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9))


@pytest.fixture(scope="module")
def data() -> Digits:
    """Four batches of 64 an epoch."""
    digits = Digits(limit_train=256, valid=60)
    digits.prepare(torch.device("cpu"))
    return digits


@functools.cache
def backbone() -> nn.Module:
    return Backbone("cifar_resnet8", 10, 1, {"channels": (8, 8, 16)}).create()


def begun(gate: str = "softmax") -> tuple[nn.Module, CostTable]:
    plan = make_plan(backbone(), SearchSpace(CANDIDATES), (1, 8, 8))
    supernet = wrap(backbone(), gate=GATES[gate], plan=plan)
    table = tabulate(supernet, Macs())
    begin_with_prior(supernet, 4.0)
    add_dial(supernet, table, 0.9, 0.3, 3)
    return supernet, table


def lesson_of(supernet: nn.Module, table: CostTable, share: float = 0.5) -> FrontLesson:
    joint = JointLesson(supernet, [Dialled(table, dial_of(supernet))], ADAM)
    return FrontLesson(joint, int(share * table.total))


def fit_of(supernet: nn.Module, data: Digits, lesson: FrontLesson, epochs: int = 6) -> Fit:
    fabric = Fabric(accelerator="cpu", devices=1)
    return search_fit(supernet, data, recipe(epochs), lesson, seed=0, fabric=fabric)


@pytest.mark.parametrize("gate", GATES)
def test_one_search_gives_a_choice_within_every_budget(gate: str, data: Digits) -> None:
    supernet, table = begun(gate)
    lesson = lesson_of(supernet, table)
    records = list(fit_of(supernet, data, lesson, 2).run())
    state = next(r.search for r in reversed(records) if isinstance(r, EpochRecord))
    assert state is not None and state.costs[0].bound == pytest.approx((0.9 * 0.3) ** 0.5, rel=1e-5)
    trained = copy.deepcopy(supernet.state_dict())
    costs = []
    for share in (0.9, 0.7, 0.5, 0.35, 0.3):
        bound = int(share * table.total)
        architecture = lesson.choice([bound])
        costs.append(table.of(architecture) / table.total)
        assert costs[-1] <= share
        assert set(lesson.decidedness(architecture)) == set(table.sites)
        discretise(supernet, architecture)[0](torch.zeros(2, 1, 8, 8))
    assert costs[0] > costs[2] > costs[-1]
    assert lesson.choice() == lesson.choice([int(0.5 * table.total)])
    now = supernet.state_dict()
    assert all(
        torch.equal(value, now[k])
        for k, value in trained.items()
        if not k.endswith(("position", "pressure", "average"))
    )


def test_every_step_is_held_at_its_budget_once_gates_are_no_longer_uniform(data: Digits) -> None:
    supernet, table = begun()
    lesson = lesson_of(supernet, table)
    found = []

    def look(module: nn.Module, args: object) -> None:
        if module.training and not bool(next(iter(gates(supernet))).uniform):
            expected = float(expected_cost(supernet, table).detach())
            found.append((lesson.dial.share, expected))

    supernet.register_forward_pre_hook(look)
    list(fit_of(supernet, data, lesson, 6).run())
    assert len({share for share, _ in found}) > 15
    assert all(expected == pytest.approx(share, abs=2e-3) for share, expected in found)


def test_no_step_of_the_search_knows_what_is_asked_for(data: Digits) -> None:
    found = []
    for share in (0.8, 0.35):
        supernet, table = begun()
        list(fit_of(supernet, data, lesson_of(supernet, table, share), 2).run())
        found.append(supernet.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_the_middle_of_the_scale_is_what_is_seen_between_steps(data: Digits) -> None:
    supernet, table = begun()
    fit = fit_of(supernet, data, lesson_of(supernet, table), 1)
    positions = {float(dial_of(supernet).position) for _ in fit.run()}
    assert positions == {0.5}


def test_an_interrupted_search_ends_as_if_it_had_not_been(data: Digits) -> None:
    whole, table = begun()
    list(fit_of(whole, data, lesson_of(whole, table), 3).run())
    supernet, table = begun()
    fit = fit_of(supernet, data, lesson_of(supernet, table), 3)
    for _, _ in zip(range(7), fit.run(), strict=False):
        pass
    saved = io.BytesIO()
    torch.save(fit.state_dict(), saved)
    saved.seek(0)
    again, table = begun()
    fit = fit_of(again, data, lesson_of(again, table), 3)
    fit.load_state_dict(torch.load(saved, weights_only=True))
    list(fit.run())
    wanted, found = whole.state_dict(), again.state_dict()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)


def test_every_knot_of_every_gate_is_trained(data: Digits) -> None:
    supernet, table = begun()
    before = [next(gate.parameters()).detach().clone() for gate in gates(supernet)]
    list(fit_of(supernet, data, lesson_of(supernet, table), 3).run())
    for old, gate in zip(before, gates(supernet), strict=True):
        assert bool((next(gate.parameters()).detach() - old).abs().amax(1).gt(1e-3).all())


def test_only_weights_are_trained_as_weights() -> None:
    from lwdc.strategies import weight_parameters

    supernet, _ = begun()
    weights = {id(p) for p in weight_parameters(supernet)}
    curves = {id(p) for gate in gates(supernet) for p in gate.parameters()}
    assert weights.isdisjoint(curves) and len(weights) + len(curves) == len(list(supernet.parameters()))
