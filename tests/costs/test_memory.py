"""Peak activation memory: counted by hand where that can be done, and as the discretised network is counted."""

import functools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lwdc.activations import activations
from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import CostTable, Memory, expected_cost, tabulate
from lwdc.gates import Softmax
from lwdc.selection import gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, point_at, wrap


class Residual(nn.Module):
    """Keeps its input while two layers run, of which the second widens."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return y + x.repeat(1, 4, 1, 1)


def test_what_is_alive_at_once_is_counted_by_hand() -> None:
    found = activations(Residual(), (4, 5, 5), ["first", "second"])
    one = 4 * 5 * 5 * 4  # bytes of four channels
    # x and y; then the repeated x beside them, and the sum of both: 1 + 4 + 4 + 4
    assert (found.given, found.peak, found.outside) == (one, 13 * one, 13 * one)
    assert [(use.alive, use.shape) for use in found.uses["first"]] == [(one, (4, 5, 5))]
    assert [(use.alive, use.shape) for use in found.uses["second"]] == [(2 * one, (4, 5, 5))]


def test_the_type_of_the_network_counts_and_its_weights_do_not() -> None:
    wide = nn.Sequential(nn.Conv2d(2, 64, 1), nn.Conv2d(64, 2, 1))
    assert activations(wide, (2, 3, 3)).peak == (2 + 64 + 2) * 9 * 4
    assert activations(wide.double(), (2, 3, 3)).peak == (2 + 64 + 2) * 9 * 8


def test_a_freed_activation_counts_no_more() -> None:
    line = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(6)))
    assert activations(line, (8, 3, 3)).peak == 3 * 8 * 9 * 4  # the image, and the input and output of one layer


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("cifar_resnet8", (3, 16, 16), {}),
        ("mobilenetv2_050", (3, 32, 32), {}),
        ("densenet121", (3, 32, 32), {"growth_rate": 8, "block_config": (2, 2)}),
        ("vit_tiny_patch16_224", (3, 32, 32), {"img_size": 32, "depth": 2}),
    ],
)
def test_the_table_gives_the_peak_of_the_discretised_network(name: str, size, options) -> None:  # type: ignore[no-untyped-def]
    space = SearchSpace(
        [{"op": "original"}, {"op": "low_rank", "ratio": 0.5}, {"op": "ghost"}, {"op": "separable_norm"},
         {"op": "grouped", "groups": 2}, {"op": "pointwise"}],
        stem=True, shortcuts=True, costlier=True,
    )  # fmt: skip
    model = Backbone(name, 10, 3, options).create()
    supernet = wrap(model, space, input_size=size, inherit=False)
    table = tabulate(supernet, Memory())
    assert table.total == activations(model, size).peak
    for seed in range(4):
        pick = random.Random(seed)
        ops = selection_ops(supernet)
        architecture = Architecture({name: pick.choice(op.candidates) for name, op in ops.items()})
        network, _ = discretise(supernet, architecture)
        assert table.of(architecture) == activations(network, size).peak


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_operators_without_weights_are_counted_in_the_type_of_the_network(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)).to(dtype)
    supernet = wrap(model, SearchSpace([{"op": "max_pool"}]), input_size=(3, 16, 16), inherit=False)
    table = tabulate(supernet, Memory())
    network, architecture = discretise(supernet)
    assert table.of(architecture) == activations(network, (3, 16, 16)).peak


def test_a_skip_takes_no_more_than_the_table_says() -> None:
    space = SearchSpace([{"op": "original"}, {"op": "skip"}])
    supernet = wrap(Backbone("cifar_resnet8", 10, 3).create(), space, input_size=(3, 16, 16))
    table = tabulate(supernet, Memory())
    skips = Architecture({name: op.candidates[-1] for name, op in selection_ops(supernet).items()})
    assert activations(discretise(supernet, skips)[0], (3, 16, 16)).peak <= table.of(skips)


def test_the_expected_peak_is_that_of_the_largest_site_and_can_be_learned() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=4, padding=1))
    space = SearchSpace([{"op": "original"}, {"op": "ghost"}, {"op": "separable_norm"}], stem=True, costlier=True)
    supernet = wrap(model, space, input_size=(3, 16, 16))
    table = tabulate(supernet, Memory())
    for index in range(3):
        ops = selection_ops(supernet)
        architecture = Architecture({n: op.candidates[min(index, len(op.candidates) - 1)] for n, op in ops.items()})
        point_at(supernet, architecture)
        share = table.of(architecture) / table.total
        expected = expected_cost(supernet, table)
        assert float(expected.detach()) == pytest.approx(share)
    for gate in gates(supernet):
        with torch.no_grad():
            gate.logits.zero_()
    expected_cost(supernet, table).backward()
    assert any(float(gate.logits.grad.abs().max()) > 1e-3 for gate in gates(supernet) if gate.logits.grad is not None)


@functools.cache
def eight_sites() -> nn.Module:
    model = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(8))).double()
    space = SearchSpace([{"op": "original"}, {"op": "low_rank", "ratio": 0.5}], stem=True, costlier=True)
    return wrap(model, space, gate=Softmax, input_size=(4, 2, 2), inherit=False)


@given(
    peaks=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=8, max_size=8),
    logits=st.lists(st.floats(-4, 4), min_size=8, max_size=8),
    rest=st.integers(0, 1000),
    site=st.integers(0, 7),
)
def test_what_makes_a_site_cheaper_never_raises_the_expected_peak(
    peaks: list[tuple[int, int]], logits: list[float], rest: int, site: int
) -> None:
    ops = selection_ops(eight_sites())
    costs = {name: dict(zip(op.labels, pair, strict=True)) for (name, op), pair in zip(ops.items(), peaks, strict=True)}
    table = CostTable("memory", "B", costs, dict.fromkeys(ops, 1000), {name: name for name in ops}, rest, peak=True)
    for op, logit in zip(ops.values(), logits, strict=True):
        op.gate.logits.data.copy_(torch.tensor([logit, 0.0]))
    moved, (first, second) = ops[str(site)].gate, peaks[site]
    before = expected_cost(eight_sites(), table)
    (slope,) = torch.autograd.grad(before, moved.logits)
    assert float(slope[0]) * (first - second) >= 0
    with torch.no_grad():
        moved.logits[0] += 0.5 if first <= second else -0.5
        assert float(expected_cost(eight_sites(), table)) <= float(before) + 1e-12
