"""Measured latency: what is measured, kept and fitted. Times are made up, because a timing must not decide a test."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import Latency, Macs, latency, parse_budget, tabulate, timing
from lwdc.costs.timing import Run, onnx_run, side_by_side, torch_run, without_drift
from lwdc.counting import count_macs
from lwdc.errors import CostError
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, original_network, wrap

SIZE = (4, 8, 8)
SPACE = SearchSpace([{"op": "original"}, {"op": "pointwise"}, {"op": "grouped", "groups": 2}])


class Net(nn.Module):
    """Two blocks whose sites are alike, a third that is not, and a rest."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.blocks = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.last = nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.stem(x)))  # type: ignore[no-any-return]


SUPERNET = wrap(Net(), SPACE, input_size=SIZE, inherit=False)


class Machine:
    """Takes half a nanosecond a multiply-accumulate alone, and twice that in a network."""

    def __init__(self) -> None:
        self.timed: list[nn.Module] = []

    def run(self, module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        self.timed.append(module)
        whole = sum(isinstance(m, nn.Conv2d) for m in module.modules()) > 2
        macs = count_macs(module, [tuple(x.shape[1:]) for x in inputs])
        return lambda times: times * macs * (1e-9 if whole else 0.5e-9)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(latency, "torch_run", made.run)
    return made


def random_architecture(seed: int) -> Architecture:
    generator = np.random.default_rng(seed)
    ops = selection_ops(SUPERNET)
    return Architecture({n: op.candidates[generator.integers(len(op.candidates))] for n, op in ops.items()})


def test_operators_are_timed_once_and_the_rest_is_what_the_whole_takes_beside_them(machine: Machine) -> None:
    table = Latency(cache=None, networks=0).tabulate(SUPERNET)
    macs = tabulate(SUPERNET, Macs())
    assert (table.unit, table.per_unit) == ("ms", 10**6)
    for site, costs in macs.sites.items():
        assert table.sites[site] == {label: round(count / 2) for label, count in costs.items()}
    assert table.total == macs.total and table.agreement is None
    operators = sum(len(costs) for costs in macs.sites.values())
    # Those of the second site are those of the first; beside them the network, and a reference a site.
    assert len(machine.timed) == operators - 3 + 1 + 3


def test_scale_and_offset_are_those_of_whole_networks(machine: Machine) -> None:
    table = Latency(cache=None, networks=8).tabulate(SUPERNET)
    macs = tabulate(SUPERNET, Macs())
    for seed in range(10):
        architecture = random_architecture(seed)
        assert table.of(architecture) == pytest.approx(macs.of(architecture), rel=1e-3)
    assert table.agreement is not None
    assert (table.agreement.networks, table.agreement.rank) == (6, pytest.approx(1.0))  # two were drawn twice
    assert table.agreement.error < 1e-3 and table.agreement.error_repeated < 1e-9
    assert parse_budget("0.05ms", table) == 50_000


def test_the_original_costs_what_it_took_and_nothing_costs_less_than_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        """Operators alone take four times what they take in a network, the original one half more than it should."""
        run, convolutions = machine.run(module, inputs), [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        slower = 8.0 if len(convolutions) == 1 else 1.0
        dense = len(convolutions) == 4 and all(m.groups == 1 and m.kernel_size == (3, 3) for m in convolutions)
        return lambda times: run(times) * (1.5 if dense else slower)

    monkeypatch.setattr(latency, "torch_run", odd)
    total = 1.5 * tabulate(SUPERNET, Macs()).total
    for networks in (0, 8):
        cost = Latency(cache=None, networks=networks)
        table = cost.tabulate(SUPERNET)
        original = original_network(SUPERNET)
        assert table.total == pytest.approx(total, rel=1e-3)
        assert cost.measure(original, original, SIZE, table) == table.total
        assert table.rest >= 0 and 0 < table.smallest < table.total


def test_a_space_without_a_choice_has_nothing_to_compare(machine: Machine) -> None:
    supernet = wrap(Net(), SearchSpace([{"op": "pointwise"}]), input_size=SIZE, inherit=False)
    table = Latency(cache=None, networks=5).tabulate(supernet)
    assert table.agreement is None
    json.dumps(table.to_dict(), allow_nan=False)


def test_windows_folded_into_the_batch_are_one_call(machine: Machine) -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(4, 8, 1)
            self.inner = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            windows = y.reshape(-1, 8, 4, y.shape[-1])  # two for one image
            return self.inner(windows)  # type: ignore[no-any-return]

    seen: list[tuple[int, ...]] = []
    run = machine.run

    def noting(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        seen.extend(tuple(x.shape) for x in inputs)
        return run(module, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "torch_run", noting)
        supernet = wrap(Windows(), SPACE, input_size=SIZE, inherit=False)
        Latency(cache=None, networks=0, batch=3).tabulate(supernet)
    assert seen.count((6, 8, 4, 8)) == 3  # the three operators of the inner layer


def test_operators_without_weights_run_in_the_type_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def noting(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        seen.extend(x.dtype for x in inputs)
        return lambda times: times * 1e-3

    monkeypatch.setattr(latency, "torch_run", noting)
    space = SearchSpace([{"op": "original"}, {"op": "max_pool"}], exclude=("last",))
    supernet = wrap(Net().double(), space, input_size=SIZE, inherit=False)
    Latency(cache=None, networks=0).tabulate(supernet)
    assert set(seen) == {torch.float64}


def test_a_machine_that_slows_down_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    steady = Latency(cache=None, networks=0).tabulate(SUPERNET)
    kept = Latency(cache=str(tmp_path / "latency.jsonl"), networks=0)
    one, other = (
        wrap(Net(), SPACE.__class__(SPACE.candidates, include=(pattern,)), input_size=SIZE, inherit=False)
        for pattern in ("blocks*", "last")
    )
    kept.tabulate(one)
    fast = machine.run

    def slow(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        run = fast(module, inputs)
        return lambda times: 3 * run(times)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "torch_run", slow)
        kept.tabulate(other)
        table = kept.tabulate(SUPERNET)
    ratio = table.sites["last"]["original"] / table.sites["blocks.0"]["original"]
    assert ratio == pytest.approx(steady.sites["last"]["original"] / steady.sites["blocks.0"]["original"], rel=1e-3)
    assert table.rest / table.total == pytest.approx(steady.rest / steady.total, rel=1e-3)


def test_what_was_measured_is_kept_and_not_measured_again(machine: Machine, tmp_path: Path) -> None:
    cost = Latency(cache=str(tmp_path / "deep" / "latency.jsonl"), networks=0)
    first = cost.tabulate(SUPERNET)
    machine.timed.clear()
    strict = Latency(cache=cost.cache, networks=0, strict=True)
    assert strict.tabulate(SUPERNET) == first
    assert len(machine.timed) == 2  # the network and the reference


def test_strict_refuses_what_was_measured_elsewhere(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    Latency(cache=str(path), networks=0, batch=2).tabulate(SUPERNET)
    line = json.loads(path.read_text().splitlines()[0])
    line["environment"] |= {"device": "Another Processor", "batch": 1}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    machine.timed.clear()
    with pytest.raises(CostError, match=r"6 operators have never been measured .*batch 2; device 'Another Processor'"):
        Latency(cache=str(path), networks=0, strict=True).tabulate(SUPERNET)
    assert not machine.timed


def test_a_line_cut_short_by_a_kill_is_measured_again(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    cost = Latency(cache=str(path), networks=0)
    first = cost.tabulate(SUPERNET)
    whole = path.read_text()
    path.write_text(whole[:-30])
    assert cost.tabulate(SUPERNET) == first
    assert cost.tabulate(SUPERNET) == first
    with pytest.raises(json.JSONDecodeError):
        json.loads(path.read_text().splitlines()[1])
    assert Latency(cache=str(path), networks=0, strict=True).tabulate(SUPERNET) == first


def test_a_finished_network_is_measured_at_the_level_of_its_table(machine: Machine) -> None:
    cost = Latency(cache=None, networks=0)
    table = cost.tabulate(SUPERNET)
    network, architecture = discretise(SUPERNET, random_architecture(1))
    found = cost.measure(network, original_network(SUPERNET), SIZE, table)
    macs = tabulate(SUPERNET, Macs())
    assert found == pytest.approx(table.total * macs.of(architecture) / macs.total, rel=1e-6)


def test_without_drift_frees_rounds_of_what_slowed_all_alike() -> None:
    true = np.array([1.0, 2.0, 5.0])
    drift = np.array([1.0, 1.0, 1.3, 4.0, 0.9, 1.0, 2.0])[:, None]
    assert without_drift(true * drift) == pytest.approx(true)


def test_side_by_side_takes_turns_and_gives_seconds_of_one_execution() -> None:
    order: list[str] = []

    def run(name: str, seconds: float) -> Run:
        def execute(times: int) -> float:
            order.append(name)
            return times * seconds

        return execute

    rounds = side_by_side([run("a", 0.001), run("b", 0.1)], rounds=4)
    assert rounds == pytest.approx(np.array([[0.001, 0.1]] * 4))
    assert order[-8:] == ["a", "b"] * 4


def test_slow_runs_get_one_round_at_least_and_no_more_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def run(times: int) -> float:
        clock[0] += times
        return float(times)

    # Two executions of each come before the first round.
    assert [len(side_by_side([run, run], budget_s=seconds)) for seconds in (1, 4, 5, 9, 1000)] == [1, 1, 1, 3, 9]


@pytest.mark.parametrize("make", [torch_run, onnx_run])
def test_a_run_takes_time_and_leaves_the_module_as_it_was(make: Callable[..., Run]) -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seconds = make(module, [torch.randn(2, 4, 8, 8)])(3)
    assert 0 < seconds < 5
    assert module.training and all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_latency_in_onnx_runtime_takes_the_norm_with_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[nn.Module] = []

    def noting(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        timed.append(module)
        return onnx_run(module, inputs)

    monkeypatch.setattr(latency, "onnx_run", noting)
    space = SearchSpace([{"op": "original"}, {"op": "pointwise"}], include=("blocks*",))  # exports take a second each
    supernet = wrap(Net(), space, input_size=SIZE, inherit=False)
    table = Latency(runtime="onnxruntime", cache=None, networks=0).tabulate(supernet)
    assert all(cost > 0 for costs in table.sites.values() for cost in costs.values())
    followed = [m for m in timed if isinstance(m, nn.Sequential) and isinstance(m[-1], nn.BatchNorm2d)]
    assert len(followed) == 2  # the operators at blocks.0, and not those at blocks.2, which no norm follows
    assert len(timed) == 1 + 4 + 1  # an empty call, the operators, the network


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "unknown cost.runtime 'onnx'.*Did you mean 'onnxruntime'"),
        ({"batch": 0}, "cost.batch is a number of images from 1 on, found 0"),
        ({"networks": 2}, "cost.networks is how many architectures are timed, 3 or more, or 0: 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CostError, match=message):
        Latency(**options)


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nand more"), NotImplementedError()])
def test_an_operator_that_fails_as_it_runs_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(times: int) -> float:
        raise error

    monkeypatch.setattr(latency, "torch_run", lambda module, inputs: failing)
    cause = "out of memory" if str(error) else "NotImplementedError"
    with pytest.raises(CostError, match=rf"original at blocks\.0 cannot be timed in torch: {cause}\. Take"):
        Latency(cache=None).tabulate(SUPERNET)


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_timed(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CostError, match=r"cost.cache=.* cannot be written: .*Name another file, or null"):
        Latency(cache=str(tmp_path / "file" / "latency.jsonl")).tabulate(SUPERNET)
    assert not [m for m in machine.timed if not isinstance(m, Net)]


def test_the_norm_of_a_timm_network_is_joined_too() -> None:
    model = Backbone("mobilenetv2_050", 10, 3).create()
    supernet = wrap(model, SPACE, input_size=(3, 32, 32), inherit=False)
    norms = latency._norms(original_network(supernet), supernet)
    assert set(norms) == set(selection_ops(supernet))


def test_an_operator_that_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(latency, "onnx_run", lambda m, x: onnx_run(m, x) if isinstance(m, nn.ReLU) else failing(m, x))
    with pytest.raises(CostError, match=r"original at blocks\.0 cannot be timed in onnxruntime: no such kernel\. Take"):
        Latency(runtime="onnxruntime", cache=None).tabulate(SUPERNET)
