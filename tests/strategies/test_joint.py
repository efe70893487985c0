"""Joint search: runs with every gate, becomes decided, chooses within its bound, moves nothing that took no part."""

import copy
import functools
import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Macs, Params, expected_cost, logarithmic, tabulate
from lwdc.counting import count_params
from lwdc.data import Digits
from lwdc.errors import TrainingError
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, Softmax, TrainableGate
from lwdc.objectives import Distillation
from lwdc.records import EpochRecord, SearchState
from lwdc.selection import SelectionOp, gates, selection_ops
from lwdc.space import Plan, SearchSpace, make_plan
from lwdc.strategies import Held, JointLesson, Pressure, search_fit, weight_parameters
from lwdc.strategies.joint import mean_entropy
from lwdc.surgery import begin_with_prior, discretise, point_at, wrap
from lwdc.training import Fit, Recipe, StepRecord

GATES: dict[str, Callable[[int], Gate]] = {
    "softmax": Softmax,
    "gumbel": GumbelSoftmax,
    "gumbel_hard": functools.partial(GumbelSoftmax, hard=True),
    "one_hot": OneHot,
    "lwdc": TrainableGate,
    "reinmax": ReinMax,
    "independent": Independent,
}
HARD = ["gumbel_hard", "one_hot", "lwdc", "reinmax"]
SPACE = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}])
RECIPE = Recipe(5, 64, functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=1e-2))
ADAM = functools.partial(torch.optim.Adam, lr=0.1)


@pytest.fixture(scope="session")
def data() -> Digits:
    """Four batches of 64 an epoch."""
    digits = Digits(limit_train=256, valid=60)
    digits.prepare(torch.device("cpu"))
    return digits


@functools.cache
def backbone() -> nn.Module:
    return Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()


@functools.cache
def planned(model: nn.Module) -> tuple[Plan, CostTable]:
    """The same for every gate, and slow beside these searches."""
    plan = make_plan(model, SPACE, (1, 8, 8))
    return plan, tabulate(wrap(model, plan=plan), Macs())


def supernet_of(gate: str, model: nn.Module | None = None) -> tuple[nn.Module, CostTable]:
    model = model or backbone()
    plan, table = planned(model)
    return wrap(model, gate=GATES[gate], plan=plan), table


def lesson_of(supernet: nn.Module, table: CostTable, budget: float | None = 0.5, **changes: Any) -> JointLesson:
    """A lesson under a budget, or under a factor where ``budget`` is None."""
    own = {name: changes.pop(name) for name in list(changes) if name in ("decide", "decide_from", "rest_from")}
    cost = Pressure(table, **changes) if budget is None else Held(table, int(budget * table.total))
    return JointLesson(supernet, [cost], ADAM, **own)


def fit_of(supernet: nn.Module, data: Digits, lesson: JointLesson, **changes: Any) -> Fit:
    fabric = Fabric(accelerator="cpu", devices=1)
    return search_fit(supernet, data, RECIPE, lesson, **{"seed": 0, "fabric": fabric, **changes})


def last_state(records: list[Any]) -> SearchState:
    states = [record.search for record in records if isinstance(record, EpochRecord)]
    assert states[-1] is not None
    return states[-1]


@pytest.mark.parametrize("gate", GATES)
def test_a_search_becomes_decided_and_chooses_within_its_bound(gate: str, data: Digits) -> None:
    supernet, table = supernet_of(gate)
    lesson = lesson_of(supernet, table)
    fit = search_fit(supernet, data, RECIPE, lesson, seed=0, fabric=Fabric(accelerator="cpu", devices=1))
    found = list(fit.run())
    architecture = lesson.choice()
    assert table.of(architecture) <= 0.5 * table.total
    assert [type(record) for record in found] == [*[StepRecord] * 4, EpochRecord] * 5

    first, state = next(r.search for r in found if isinstance(r, EpochRecord)), last_state(found)
    assert first is not None and first.decided < state.decided <= 1.0
    assert state.costs[0].bound == pytest.approx(0.5, abs=1e-4)
    decided = lesson.decidedness(architecture)
    for record in state.gates:
        assert sum(record.probabilities) == pytest.approx(1.0)
        index = selection_ops(supernet)[record.site].candidates.index(architecture.choices[record.site])
        assert decided[record.site] == record.probabilities[index]

    network, again = discretise(supernet, architecture)
    assert again == architecture
    point_at(supernet, architecture)
    images = next(data.batches("valid", 60))[0]
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), supernet.eval()(images), atol=1e-4)


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_learns_and_may_turn_to_the_end(gate: str, data: Digits) -> None:
    supernet, table = supernet_of(gate)
    running = fit_of(supernet, data, lesson_of(supernet, table)).run()
    records = list(running)
    assert all(float(g.logits.detach().abs().max()) < 100 for g in gates(supernet))
    assert all(math.isfinite(r.loss) for r in records if isinstance(r, EpochRecord))
    moved = [float(g.logits.detach().abs().max()) for g in gates(supernet)]
    assert min(moved) > 0  # every gate has learnt something


def taking_no_part(op: SelectionOp) -> dict[str, Tensor]:
    """The weights of the operators that the last forward pass did not use, by name, as they are."""
    assert op.sampled is not None
    found = {}
    for label, operator, weight in zip(op.labels, op.operators, op.sampled.tolist(), strict=True):
        if weight == 0:
            own = {"weight": op.original_weight()} if label == "original" else dict(operator.named_parameters())
            found |= {f"{op.site.name} {label} {name}": p.detach().clone() for name, p in own.items()}
    return found


class Biased(nn.Module):
    """Two sites with biases, which their operators share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()).relu()).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("gate", GATES)
def test_only_gates_that_take_one_train_operators_one_at_a_time(gate: str) -> None:
    """Also where chance closes all but one, and so the network chosen inherits the mixture of the others."""
    supernet = wrap(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 2)),
        SPACE,
        GATES[gate],
        (1, 5, 5),
    )
    for seed in range(20):
        torch.manual_seed(seed)
        assert JointLesson(supernet, [], ADAM).hard == (gate in HARD)


@pytest.mark.parametrize("gate", HARD)
def test_an_operator_that_took_no_part_is_moved_by_neither_momentum_nor_decay(gate: str, data: Digits) -> None:
    supernet, table = supernet_of(gate, Biased())
    running = fit_of(supernet, data, lesson_of(supernet, table))
    ops = selection_ops(supernet)
    still = 0

    def weights() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in supernet.named_parameters()}

    before = weights()
    everyone = {label for op in ops.values() for label in op.labels}
    idle: set[str] = set()
    for record in running.run():
        if not isinstance(record, StepRecord):
            continue
        after = weights()
        for site, op in ops.items():
            for name, value in taking_no_part(op).items():
                label, parameter = name.split()[1:]
                index = op.labels.index(label)
                key = f"{site}.conv.weight" if label == "original" else f"{site}.operators.{index}.{parameter}"
                assert torch.equal(value, after[key])
                assert torch.equal(before[key], after[key]), f"{name} moved at step {running.step}"
                still += 1
                idle.add(label)
            assert not torch.equal(before[f"{site}.conv.bias"], after[f"{site}.conv.bias"])
        before = after
    assert still > 50
    assert idle == everyone  # the original as well as its rivals


@pytest.mark.parametrize("gate", HARD)
def test_everything_trains_in_the_warm_up(gate: str, data: Digits) -> None:
    supernet, table = supernet_of(gate, Biased())
    lesson = lesson_of(supernet, table)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    next(iter(fit_of(supernet, data, lesson).run()))
    still = {name for name, p in supernet.named_parameters() if torch.equal(p, before[name])}
    assert all(name.endswith("gate.logits") for name in still), still


def test_weights_and_logits_split_the_parameters_exactly() -> None:
    supernet, _ = supernet_of("softmax")
    weights, logits = weight_parameters(supernet), [gate.logits for gate in gates(supernet)]
    assert {*weights, *logits} == set(supernet.parameters())
    assert len(weights) + len(logits) == len(list(supernet.parameters()))


def test_nothing_decays_the_logits(data: Digits) -> None:
    """With no gradient to follow they stay where they are, however strong the decay of the weights."""
    supernet, table = supernet_of("softmax")
    for gate in gates(supernet):
        with torch.no_grad():
            gate.logits.normal_()
        gate.logits.register_hook(torch.zeros_like)
    before = [gate.logits.detach().clone() for gate in gates(supernet)]
    list(itertools.islice(fit_of(supernet, data, lesson_of(supernet, table)).run(), 5))
    assert all(torch.equal(a, g.logits.detach()) for a, g in zip(before, gates(supernet), strict=True))


def test_two_budgets_are_both_kept_and_reported(data: Digits) -> None:
    supernet, macs = supernet_of("softmax")
    params = tabulate(supernet, Params())
    tables = {"macs": (macs, 0.7), "params": (params, 0.5)}
    held = [Held(table, int(share * table.total)) for table, share in tables.values()]
    lesson = JointLesson(supernet, held, ADAM)
    records = list(fit_of(supernet, data, lesson).run())
    architecture = lesson.choice()
    for table, share in tables.values():
        assert table.of(architecture) <= share * table.total
    assert [cost.name for cost in last_state(records).costs] == ["macs", "params"]
    assert [cost.bound for cost in last_state(records).costs] == pytest.approx([0.7, 0.5], abs=1e-3)


@pytest.mark.parametrize("gate", sorted(GATES.keys() - {"one_hot", "lwdc", "gumbel_hard"}))
def test_a_budget_is_held_in_every_step(gate: str, data: Digits) -> None:
    """Far below where the gates begin, so that something has to hold it."""
    supernet, table = supernet_of(gate)
    lesson = lesson_of(supernet, table, 0.3)
    found = []

    def look(module: nn.Module, args: object) -> None:
        if module.training and not bool(next(iter(gates(supernet))).uniform):
            found.append(lesson.pressures[0].state(supernet))

    supernet.register_forward_pre_hook(look)
    records = list(fit_of(supernet, data, lesson).run())
    assert len(found) > 10 and all(state.expected <= state.bound + 2e-3 for state in found if state.bound is not None)
    assert max(state.factor for state in found) > 0
    last = last_state(records).costs[0]
    assert last.bound is not None and last.expected <= last.bound + 0.02


def test_pressures_add_up(data: Digits) -> None:
    supernet, macs = supernet_of("softmax")
    params = tabulate(supernet, Params())

    def term(*pressures: Pressure) -> float:
        lesson = JointLesson(supernet, pressures, ADAM, decide=0.0)
        lesson.begin(0.3)
        found = lesson.extra_loss()
        assert found is not None
        return float(found.detach())

    both = term(Pressure(macs, factor=2.0), Pressure(params, factor=0.5))
    assert both == pytest.approx(term(Pressure(macs, factor=2.0)) + term(Pressure(params, factor=0.5)), rel=1e-6)


def test_a_bigger_factor_never_ends_with_more_expected_cost(data: Digits) -> None:
    costs = []
    for factor in (0.0, 0.3, 3.0, 30.0):
        torch.manual_seed(0)
        supernet, table = supernet_of("softmax")
        lesson = lesson_of(supernet, table, budget=None, factor=factor, decide=0.0)
        list(fit_of(supernet, data, lesson).run())
        costs.append(float(expected_cost(supernet, table).detach()))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.8 * costs[0]


def test_the_factor_ramps_up_and_weighs_the_shape_of_the_cost() -> None:
    supernet, table = supernet_of("softmax")
    lesson = lesson_of(supernet, table, budget=None, factor=2.0, ramp=0.4, decide=0.0, shape=logarithmic)
    found = []
    for progress in (0.0, 0.1, 0.2, 0.4, 0.7):
        lesson.begin(progress)
        expected = float(expected_cost(supernet, table).detach())
        term = lesson.extra_loss()
        assert term is not None
        found.append(float(term.detach()) / (1 + math.log(expected)))
    assert found == pytest.approx([0.0, 0.5, 1.0, 2.0, 2.0], rel=1e-5)


def test_late_in_the_search_indecision_costs() -> None:
    supernet, table = supernet_of("softmax")
    lesson = lesson_of(supernet, table, budget=None, factor=0.0, decide=3.0, decide_from=0.5)
    terms = {}
    for progress in (0.4, 0.5, 0.75, 0.9):
        lesson.begin(progress)
        entropy, term = float(mean_entropy(supernet).detach()), lesson.extra_loss()
        assert term is not None
        terms[progress] = float(term.detach()) / max(entropy, 1e-9)
    assert terms == pytest.approx({0.4: 0.0, 0.5: 0.0, 0.75: 1.5, 0.9: 2.4}, abs=1e-4)


@pytest.mark.parametrize(("gate", "rests"), [("one_hot", True), ("lwdc", True), ("softmax", False), ("gumbel", False)])
def test_logits_of_one_hot_gates_rest_at_last_and_what_trains_by_itself_is_chosen(
    gate: str, rests: bool, data: Digits
) -> None:
    supernet, table = supernet_of(gate)
    weights = weight_parameters(supernet)
    lesson, found = lesson_of(supernet, table, rest_from=0.8), []
    for record in fit_of(supernet, data, lesson).run():
        if isinstance(record, StepRecord):
            logits = torch.cat([gate.logits.detach() for gate in gates(supernet)])
            found.append((logits, torch.cat([weight.detach().flatten() for weight in weights])))
    assert len(found) == 20
    steps = list(itertools.pairwise(found))  # the seventeenth is the last that is shifted to keep the bound
    assert all(torch.equal(before[0], after[0]) == rests for before, after in steps[16:])
    assert not any(torch.equal(before[0], after[0]) for before, after in steps[4:12])
    assert not any(torch.equal(before[1], after[1]) for before, after in steps)
    if rests:
        ops = selection_ops(supernet)
        largest = {name: op.candidates[int(op.gate.logits.argmax())] for name, op in ops.items()}
        assert lesson.choice() == Architecture(largest)


def test_what_trains_at_rest_is_within_the_bound_of_the_choice_and_is_chosen() -> None:
    """Also where the bound of the search is still falling, and after an interruption."""
    supernet, table = supernet_of("one_hot")
    begin_with_prior(supernet, 4.0)

    def lesson_on(supernet: nn.Module) -> JointLesson:
        return JointLesson(supernet, [Held(table, int(0.4 * table.total), 0.0, 1.0)], ADAM, rest_from=0.5)

    def trained(supernet: nn.Module) -> Architecture:
        ops = selection_ops(supernet)
        return Architecture({name: op.candidates[int(op.gate.logits.argmax())] for name, op in ops.items()})

    lesson = lesson_on(supernet)
    lesson.begin(0.4)
    assert table.of(trained(supernet)) > 0.4 * table.total
    lesson.begin(0.5)
    resting = trained(supernet)
    assert table.of(resting) <= 0.4 * table.total
    again = copy.deepcopy(supernet)
    resumed = lesson_on(again)
    resumed.load_state_dict(copy.deepcopy(lesson.state_dict()))
    for of, network in ((lesson, supernet), (resumed, again)):
        before = [gate.logits.detach().clone() for gate in gates(network)]
        of.begin(0.6)
        assert all(torch.equal(old, gate.logits) for old, gate in zip(before, gates(network), strict=True))
        assert of.choice() == trained(network) == resting


def test_entropy_is_one_for_uniform_gates_and_zero_for_a_choice() -> None:
    supernet, _ = supernet_of("softmax")
    assert float(mean_entropy(supernet).detach()) == pytest.approx(1.0)
    point_at(supernet, Architecture({n: op.candidates[-1] for n, op in selection_ops(supernet).items()}))
    assert float(mean_entropy(supernet).detach()) == pytest.approx(0.0, abs=1e-9)


def test_the_entropy_of_gates_that_are_all_but_decided_has_a_finite_slope() -> None:
    supernet, _ = supernet_of("softmax")
    for gate in gates(supernet):
        with torch.no_grad():
            gate.temperature.fill_(0.05)
            gate.logits[1:] = -20  # a probability that float32 rounds to zero
    mean_entropy(supernet).backward()
    assert all(bool(gate.logits.grad.isfinite().all()) for gate in gates(supernet))


@pytest.mark.parametrize("indexing", ["per_axis", "per_block"])
def test_a_search_over_epitomes_ends(indexing: str, data: Digits) -> None:
    space = SearchSpace([{"op": "original"}, {"op": "epitome", "ratio": 4, "indexing": indexing}])
    supernet = wrap(backbone(), space, input_size=(1, 8, 8))
    table = tabulate(supernet, Params())
    lesson = lesson_of(supernet, table, 0.6)
    assert list(fit_of(supernet, data, lesson).run())
    network, _ = discretise(supernet, lesson.choice())
    assert count_params(network) <= 0.6 * table.total


def test_the_teacher_is_the_network_before(data: Digits) -> None:
    supernet, table = supernet_of("softmax")
    recipe = Recipe(1, 64, RECIPE.optim, objective=Distillation())
    fabric, lesson = Fabric(accelerator="cpu", devices=1), lesson_of(supernet, table)
    with pytest.raises(TrainingError, match="phase 'search' needs a teacher"):
        search_fit(supernet, data, recipe, lesson, seed=0, fabric=fabric)
    teacher = copy.deepcopy(backbone())
    list(search_fit(supernet, data, recipe, lesson, seed=0, fabric=fabric, teacher=teacher).run())
    theirs, ours = teacher.state_dict(), backbone().state_dict()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gate=st.sampled_from(sorted(GATES)), stop=st.integers(1, 24), budget=st.sampled_from([0.4, None]))
def test_a_search_goes_on_bit_for_bit_after_any_record(
    gate: str, stop: int, budget: float | None, data: Digits
) -> None:
    """Twenty steps and five ends of epochs."""

    def start() -> Fit:
        torch.manual_seed(0)
        supernet, table = supernet_of(gate)
        return fit_of(supernet, data, lesson_of(supernet, table, budget, **({} if budget else {"factor": 1.0})))

    straight, first, resumed = start(), start(), start()
    expected = list(straight.run())
    told = list(itertools.islice(first.run(), stop))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    told += list(resumed.run())

    theirs = straight.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in resumed.model.state_dict().items())
    assert [r.search for r in told if isinstance(r, EpochRecord)] == [
        r.search for r in expected if isinstance(r, EpochRecord)
    ]
