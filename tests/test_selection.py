"""The selection operator: one mixture, whichever way it is computed."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lwdc.candidates import DoesNotFit, build, candidate_names
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.original import Original
from lwdc.errors import LwdcError
from lwdc.gates import Gate, GumbelSoftmax, OneHot, SinglePath, Softmax
from lwdc.geometry import own_support, union
from lwdc.mixing import mix
from lwdc.mixing import place as place_kernel
from lwdc.selection import SelectionOp, advance, gates, selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, wrap

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

LINEAR: list[dict[str, Any]] = [
    {"op": "original"},
    {"op": "grouped", "groups": 2},
    {"op": "grouped", "groups": 4},
    {"op": "shuffled", "groups": 2},
    {"op": "partial", "ratio": 2},
    {"op": "shift"},
    {"op": "separable"},
    {"op": "pointwise"},
    {"op": "kernel", "size": 2},
    {"op": "kernel", "size": 5},
    {"op": "dilated"},
    {"op": "low_rank", "ratio": 0.5},
    {"op": "tucker", "ratio": 0.5},
    {"op": "factorised"},
    {"op": "epitome", "ratio": 2},
    {"op": "wsnet", "ratio": 2},
    {"op": "skip"},
    {"op": "avg_pool"},
    {"op": "zero"},
    {"op": "sum", "of": [{"op": "low_rank", "ratio": 0.25}, {"op": "grouped", "groups": 4}, {"op": "skip"}]},
]
BRANCHES: list[dict[str, Any]] = [
    {"op": "separable_norm"},
    {"op": "separable_norm", "repeats": 2},
    {"op": "squeezed", "ratio": 0.5},
    {"op": "ghost"},
    {"op": "max_pool"},
    {"op": "sum", "of": [{"op": "pointwise"}, {"op": "separable_norm"}]},
]


def fitting(place: Any, candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of ``candidates`` that can stand there."""

    def fits(candidate: dict[str, Any]) -> bool:
        try:
            return bool(build(candidate, place.site))
        except DoesNotFit:
            return False

    return [candidate for candidate in candidates if fits(candidate)]


def mixture(place: Any, candidates: list[dict[str, Any]], **options: Any) -> SelectionOp:
    """A selection operator with those of ``candidates`` that fit, inherited, and drawn logits."""
    kept = fitting(place, candidates)
    weight = place.weight
    operators = [build(candidate, place.site).double() for candidate in kept]
    for operator in operators:
        operator.inherit(weight)
    gate = Softmax(len(kept)).double()
    nn.init.normal_(gate.logits)
    return SelectionOp(place.site, place.conv, tuple(kept), tuple(operators), gate, **options)


def by_definition(op: SelectionOp, x: Tensor, p: Tensor) -> Tensor:
    """``sum_i p_i (operator_i(x) + bias)``, the bias belonging to the linear operators."""
    total = 0
    for i, operator in enumerate(op.operators):
        y = operator(x)
        if operator.support is not None and op.bias is not None:
            y = y + op.bias.view(-1, *(1,) * op.site.dims)
        total = total + p[i] * y
    return total


def test_the_lists_above_hold_every_registered_operator() -> None:
    assert {c["op"] for c in LINEAR + BRANCHES} >= set(candidate_names())


def as_compiled(compiled: bool = True) -> Any:
    """While this lasts kernels are mixed as in what compilers take, whose tensors may lie in memory in any way."""
    return mock.patch("lwdc.mixing.is_compiling", lambda: compiled)


@given(data=st.data())
@settings(max_examples=80)
def test_the_mixture_is_the_weighted_sum_of_its_operators(data: st.DataObject, places: Any) -> None:
    at = data.draw(places)
    listed = data.draw(st.lists(st.sampled_from(LINEAR + BRANCHES), min_size=1, unique_by=str))
    mixing = data.draw(st.sampled_from(["auto", "auto", "branches"]))
    assume({c["op"] for c in fitting(at, listed)} - {"zero"})
    op = mixture(at, listed, mixing=mixing)
    x = at.x.requires_grad_(True)
    op.mixture = torch.softmax(torch.randn(len(op.candidates), dtype=torch.float64), 0).requires_grad_(True)
    # Two draws of the batch statistics would differ in their running buffers only.
    compiled = data.draw(st.booleans())
    with as_compiled(compiled):
        y = op(x)
    wanted = by_definition(op, x, op.mixture)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)

    weights = [p for p in op.parameters() if p.requires_grad]
    probe = torch.randn_like(y)
    with as_compiled(compiled):
        got, want = (
            torch.autograd.grad(
                (value * probe).sum(), [x, *weights, op.mixture], allow_unused=True, materialize_grads=True
            )
            for value in (y, wanted)
        )
    for a, b in zip(got[:-1], want[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    # The bias is common to linear operators: where all are, its share of the weights' gradient is the same for each.
    shift = got[-1] - want[-1]
    if len([o for o in op.operators if o.support is None]):
        torch.testing.assert_close(shift, torch.zeros_like(shift), rtol=0, atol=1e-9)
    else:
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-9)


def test_low_rank_runs_as_kernel_or_branch_by_the_number_of_pixels(place: Any) -> None:
    at = place(nn.Conv2d(8, 32, 3, stride=2, padding=1), 8, 8)  # 16 output pixels an image
    op = mixture(at, [{"op": "original"}, {"op": "low_rank", "ratio": 0.25}])
    runs: list[int] = []
    op.operators[1].register_forward_hook(lambda *_: runs.append(1))
    for batch, as_branch in ((2, True), (3, False)):
        runs.clear()
        x = torch.randn(batch, 8, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(op(x), by_definition(op, x, op.gate()), rtol=1e-10, atol=1e-10)
        assert len(runs) == (2 if as_branch else 1)  # the definition itself runs it once


def test_linear_operators_cost_one_convolution_whatever_their_number(place: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, [c for c in LINEAR if c not in ({"op": "kernel", "size": 5}, {"op": "dilated"})])
    with FlopCounterMode(display=False) as counter:
        op(at.x)
    counts = counter.get_flop_counts()["Global"]
    assert counts[torch.ops.aten.convolution] == 2 * 2 * 64 * 8 * 8 * 9


def test_mixing_by_branches_runs_every_operator(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, LINEAR, mixing="branches")
    runs: list[int] = []
    for operator in op.operators:
        operator.register_forward_hook(lambda *_: runs.append(1))
    op(at.x)
    assert len(runs) == len(LINEAR)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_mixing_function_passes_gradcheck(place: Any, compiled: bool) -> None:
    at = place(nn.Conv2d(4, 4, 3, groups=2, padding=1), 6, 6)
    op = mixture(at, LINEAR)
    shape = (4, 2, *op._support.count)
    kernels = [o.compact_kernel().detach() for o in op.operators]
    kernels = [torch.randn_like(k).requires_grad_(k.numel() > 0) for k in kernels]
    places = [place_kernel(op.site, op._support, o) for o in op.operators]
    weights = torch.rand(len(kernels), dtype=torch.float64, requires_grad=True)
    with as_compiled(compiled):
        assert torch.autograd.gradcheck(lambda w, *ks: mix(w, shape, list(ks), places), (weights, *kernels))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_compiled_mixes_to_the_same_bits(place: Any, layout: torch.memory_format) -> None:
    at = place(nn.Conv2d(8, 8, 3, groups=2, padding=1), 6, 6)
    op = mixture(at, LINEAR).to(memory_format=layout)
    shape = (8, 4, *op._support.count)
    kernels = [o.compact_kernel().detach() for o in op.operators]
    places = [place_kernel(op.site, op._support, o, layout) for o in op.operators]
    weights = torch.rand(len(kernels), dtype=torch.float64)
    probe = torch.randn(shape, dtype=torch.float64)
    found = []
    for compiled in (False, True):
        given = [weights.clone().requires_grad_(), *(k.clone().requires_grad_() for k in kernels)]
        with as_compiled(compiled):
            mixed = mix(given[0], shape, given[1:], places)
            mixed.backward(probe)
        assert mixed.is_contiguous(memory_format=layout)
        found.append([mixed, *(tensor.grad for tensor in given)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_the_mixing_function_does_not_care_about_strides(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6)
    op = mixture(at, LINEAR)
    wanted = op(at.x)
    wanted.square().sum().backward()
    gradients = [p.grad for p in op.parameters()]
    op.zero_grad()
    op.to(memory_format=torch.channels_last)
    y = op(at.x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, wanted)
    y.square().sum().backward()
    for p, gradient in zip(op.parameters(), gradients, strict=True):
        if gradient is not None:
            torch.testing.assert_close(p.grad, gradient)


def test_the_mixing_function_takes_parts_of_other_tensors(place: Any) -> None:
    """Kernels that lie in one stack, and a gradient that comes out of a concatenation."""
    at = place(nn.Conv2d(4, 4, 3, groups=2, padding=1), 6, 6)
    op = mixture(at, LINEAR)
    shape = (4, 2, *op._support.count)
    places = [place_kernel(op.site, op._support, o) for o in op.operators]
    weights = torch.rand(len(places), dtype=torch.float64)
    kernels = [o.compact_kernel().detach() for o in op.operators]
    apart = [k.clone().requires_grad_() for k in kernels]
    parts = [torch.stack([torch.zeros_like(k), k]).unbind()[1].requires_grad_() for k in kernels]
    wanted, found = mix(weights, shape, apart, places), mix(weights, shape, parts, places)
    assert torch.equal(found, wanted)
    back = torch.randn_like(wanted)
    wanted.backward(back)
    torch.cat([torch.zeros_like(found), found]).backward(torch.cat([torch.zeros_like(back), back]))
    for part, kernel in zip(parts, apart, strict=True):
        assert torch.equal(part.grad, kernel.grad)


def test_every_operator_and_every_logit_gets_a_gradient(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, LINEAR + BRANCHES)
    op(at.x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in op.parameters())


def test_without_the_original_only_the_bias_of_its_layer_trains(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, [{"op": "skip"}, {"op": "separable"}])
    assert not op.conv.weight.requires_grad and op.bias.requires_grad
    op(at.x).sum().backward()
    assert op.bias.grad is not None


def test_zero_may_be_all_that_runs() -> None:
    space = SearchSpace([{"op": "zero"}], stem=True)
    net = wrap(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), space, OneHot, (8, 6, 6))
    y = net(torch.randn(2, 8, 6, 6))
    assert torch.equal(y, net[0].bias.view(1, -1, 1, 1).expand_as(y))


def test_attributes_of_the_layer_read_through(place: Any) -> None:
    at = place(Conv2dSame(8, 8, 3, stride=2), 8, 8)
    op = mixture(at, [{"op": "original"}, {"op": "grouped", "groups": 2}, {"op": "skip"}])
    assert (op.in_channels, op.out_channels, op.stride, op.kernel_size, op.groups) == (8, 8, (2, 2), (3, 3), 1)
    assert op.bias is at.conv.bias
    p = op.gate()
    torch.testing.assert_close(op.weight, sum(p[i] * o.kernel() for i, o in enumerate(op.operators)))
    assert not hasattr(op, "nonsense")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = op.nonsense


def test_the_weight_lies_on_the_support_of_all(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, LINEAR)
    assert op.weight.shape == (8, 8, 5, 5)
    assert op._support == union([own_support(at.site), *(o.support for o in op.operators)])


def test_autocast_leaves_the_kernel_in_float32(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, LINEAR + BRANCHES).float()
    x = at.x.float()
    kernel = op.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert op.weight.dtype == torch.float32
        assert torch.equal(op.weight, kernel)
        y = op(x)
    torch.testing.assert_close(y.float(), op(x), rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in op.parameters())


@pytest.mark.parametrize("candidates", [LINEAR, LINEAR + BRANCHES[1:], [BRANCHES[0], {"op": "separable"}]])
def test_autocast_gives_the_precision_that_the_layer_would(candidates: Any, place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 8, 8)
    op = mixture(at, candidates).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert op(at.x.bfloat16()).dtype == op.conv(at.x.bfloat16()).dtype == torch.bfloat16


class Net(nn.Module):
    """A layer used twice (with maps of two sizes), one held under two names, a residual, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.held = nn.Conv2d(8, 8, 1)
        self.again = self.held
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu_(self.norm(self.twice(x))) + x
        x = self.twice(nn.functional.avg_pool2d(x, 2))
        x = self.held(x) * torch.sigmoid(self.again(x))
        return self.head(x.mean((2, 3)))


SPACE = [
    {"op": "original"},
    {"op": "grouped", "groups": 2},
    {"op": "separable"},
    {"op": "low_rank", "ratio": 0.5},
    {"op": "epitome", "ratio": 2},
    {"op": "skip"},
]


@pytest.fixture
def supernet() -> Callable[..., nn.Module]:
    def make(gate: Any = GumbelSoftmax, **space: Any) -> nn.Module:
        return wrap(Net(), SearchSpace(SPACE, **{"stem": False, **space}), gate, (3, 8, 8))

    return make


IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def test_a_gate_is_sampled_once_a_forward_pass_for_all_calls_and_tied_sites(supernet: Any) -> None:
    per_site = {"*": [{"op": "original"}, {"op": "grouped", "groups": 2}, {"op": "skip"}]}
    net = supernet(tie=("[th]*",), per_site=per_site)
    ops = selection_ops(net)
    assert list(ops) == ["twice", "held"]
    assert ops["twice"].gate is ops["held"].gate and len(list(gates(net))) == 1
    samples: list[int] = []
    seen: list[Tensor] = []
    ops["twice"].gate.register_forward_hook(lambda *_: samples.append(1))
    for op in ops.values():
        op.register_forward_hook(lambda module, args, y: seen.append(module.mixture))
    net(IMAGES)
    assert len(samples) == 1
    assert len(seen) == 4 and all(s is seen[0] for s in seen)
    assert all(op.mixture is None for op in ops.values())
    net(IMAGES)
    assert len(samples) == 2 and not torch.equal(seen[0], seen[4])


def test_a_forward_pass_that_fails_forgets_its_sample(supernet: Any) -> None:
    net = supernet()
    with pytest.raises(RuntimeError):
        net(torch.zeros(2, 3, 0, 0))
    with pytest.raises(RuntimeError):
        net(torch.zeros(2, 5, 8, 8))
    assert all(op.mixture is None and op.together is None for op in selection_ops(net).values())


class Checkpointed(Net):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y: Tensor = checkpoint(super().forward, x, use_reentrant=self.reentrant)
        return y


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_networks_own_gradient_checkpointing_is_refused(reentrant: bool) -> None:
    """Run again after the forward pass, it would compute with other weights: of random gates, unnoticed."""
    network = Checkpointed()
    network.reentrant = reentrant
    net = wrap(network, SearchSpace(SPACE, stem=False), GumbelSoftmax, (3, 8, 8))
    loss = net(IMAGES.clone().requires_grad_()).sum()
    with pytest.raises(LwdcError, match="own gradient checkpointing is on"):
        loss.backward()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mixing_function_takes_sites_alike_in_one_go(place: Any, layout: torch.memory_format) -> None:
    at = place(nn.Conv2d(8, 8, 3, groups=2, padding=1), 6, 6)
    op = mixture(at, LINEAR)
    shape = (8, 4, *op._support.count)
    places = [place_kernel(op.site, op._support, o, layout) for o in op.operators]
    weights = torch.rand(3, len(places), dtype=torch.float64).requires_grad_()
    kernels = [
        torch.randn(24, *o.compact_kernel().shape[1:], dtype=torch.float64).requires_grad_() for o in op.operators
    ]
    probe = torch.randn(24, *shape[1:], dtype=torch.float64)
    together = mix(weights, shape, kernels, places)
    apart = [mix(weights[i], shape, [kernel[8 * i : 8 * i + 8] for kernel in kernels], places) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-14)
    assert together.is_contiguous(memory_format=layout)
    given = [weights, *kernels]
    found, wanted = (torch.autograd.grad(mixed, given, probe) for mixed in (together, torch.cat(apart)))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@contextlib.contextmanager
def counting_mixtures() -> Iterator[list[int]]:
    """How many sites each call of the mixing function has mixed while this lasts."""
    sites: list[int] = []

    def counted(weights: Tensor, *rest: Any) -> Tensor:
        sites.append(len(weights) if weights.dim() == 2 else 1)
        return mix(weights, *rest)

    with mock.patch("lwdc.selection.mix", counted):
        yield sites


def gradients(net: nn.Module, images: Tensor) -> list[Tensor | None]:
    torch.manual_seed(0)
    net.zero_grad()
    net(images).square().sum().backward()
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize(
    ("gate", "groups", "progress", "layout"),  # starts of epitomes are whole at 0.5
    [
        (Softmax, 1, 0.4, torch.contiguous_format),
        (Softmax, 2, 0.6, torch.channels_last),
        (GumbelSoftmax, 2, 0.4, torch.contiguous_format),
        (OneHot, 1, 0.6, torch.channels_last),
        (SinglePath, 2, 0.4, torch.contiguous_format),
    ],
)
def test_kernels_of_sites_alike_are_mixed_together_to_the_same_effect(
    gate: Any, groups: int, progress: float, layout: torch.memory_format
) -> None:
    space = [c for c in LINEAR if c["op"] != "skip"] + [{"op": "epitome", "ratio": 4, "indexing": "per_block"}]
    convs = [nn.Conv2d(8, 8, 3, padding=1, stride=stride, groups=groups) for stride in (1, 2, 1, 2)]
    net = wrap(nn.Sequential(*convs, nn.Conv2d(8, 8, 1)), SearchSpace(space, stem=True), gate, (8, 9, 9)).double()
    net.to(memory_format=layout)
    advance(net, progress)
    images = torch.linspace(-1, 1, 4 * 8 * 81, dtype=torch.float64).view(4, 8, 9, 9).to(memory_format=layout)
    with counting_mixtures() as sites:
        together = gradients(net, images)
    assert sum(sites) == 5 and (gate is SinglePath or sorted(sites) == [1, 4])
    assert all(op.together is None for op in selection_ops(net).values())
    with mock.patch("lwdc.selection._put_together", lambda ops: None), counting_mixtures() as sites:
        apart = gradients(net, images)
    assert sites == [1] * 5
    for found, wanted in zip(together, apart, strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_only_sites_that_mix_the_same_are_mixed_together() -> None:
    """All are of one shape; but two have other operators, and one runs low rank as a branch."""
    space = [{"op": "original"}, {"op": "low_rank", "ratio": 0.5}]
    convs = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(6)]
    other = [{"op": "original"}, {"op": "grouped", "groups": 2}]
    layers = nn.Sequential(*convs[:5], nn.AvgPool2d(4), convs[5])
    net = wrap(layers, SearchSpace(space, stem=True, per_site={"[01]": other}), Softmax, (16, 4, 4))
    with counting_mixtures() as sites:
        net(torch.randn(2, 16, 4, 4)).sum().backward()
    assert sites == [1, 1, 4, 1]  # the last one has 2 pixels and asks for the original alone
    assert all(p.grad is not None for p in net.parameters())
    wide = wrap(
        nn.Sequential(*(nn.Conv2d(96, 96, 3) for _ in range(3))), SearchSpace(space, stem=True), Softmax, (96, 9, 9)
    )
    with counting_mixtures() as sites:
        wide(torch.randn(4, 96, 9, 9))
    assert sites == [1, 1, 1]  # large ones gain nothing


def test_pooling_layers_are_no_kernels_to_be_mixed_with_others() -> None:
    space = SearchSpace([{"op": "original"}, {"op": "skip"}, {"op": "avg_pool"}])
    pools = [nn.MaxPool2d(3, 1, 1) for _ in range(3)]
    net = wrap(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), *pools), space, Softmax, (4, 8, 8))
    assert sum(op.site.pools is not None for op in selection_ops(net).values()) >= 3
    net(torch.randn(2, 4, 8, 8)).sum().backward()
    assert all(gate.logits.grad is not None for gate in gates(net))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_block_that_is_compiled_mixes_its_sites_one_by_one() -> None:
    layers = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
    space = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 2}], stem=True)
    net = wrap(nn.Sequential(layers, nn.Conv2d(8, 8, 3, padding=1)), space, Softmax, (8, 6, 6)).double()
    images = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    wanted = net(images)
    net[0].compile(backend="eager")  # type: ignore[operator]
    torch.testing.assert_close(net(images), wanted, rtol=1e-12, atol=1e-12)


def test_chains_with_a_kernel_of_their_own_form_it_each(place: Any) -> None:
    class Halved(Chain):
        def compact_kernel(self) -> Tensor:
            return super().compact_kernel() / 2

    site = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6).site
    layer = Layer(8, 8, 1, (True, True))
    assert Chain(site, [layer]).alike() is not None and Halved(site, [layer]).alike() is None


def test_a_layer_held_under_two_names_is_one_selection_operator(supernet: Any) -> None:
    net = supernet()
    assert net.held is net.again and isinstance(net.held, SelectionOp)
    assert set(selection_ops(net)) == {"twice", "held"}
    assert sum(1 for name, _ in net.named_modules(remove_duplicate=False) if name in ("held", "again")) == 2


def test_copies_can_be_taken_at_any_moment(supernet: Any) -> None:
    net = supernet(Softmax)
    advance(net, 0.6)
    copies: list[nn.Module] = []
    selection_ops(net)["held"].register_forward_hook(lambda *_: copies.append(copy.deepcopy(net)))
    y = net(IMAGES)
    copies.append(copy.deepcopy(net))
    y.sum().backward()
    copies.append(copy.deepcopy(net))
    for twin in copies:
        for op in selection_ops(twin).values():
            op._forward_hooks.clear()
            assert op.mixture is None and op.operators[0]._conv[0] is op.conv
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}
        torch.testing.assert_close(twin.eval()(IMAGES), copies[0].eval()(IMAGES))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_supernet_can_be_saved_whole_also_once_trained(supernet: Any, layout: torch.memory_format) -> None:
    net = supernet(OneHot).to(memory_format=layout)
    images = IMAGES.to(memory_format=layout)
    optimiser = torch.optim.Adam(net.parameters())
    for step in range(2):
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for training in (True, False):
            torch.testing.assert_close(loaded.train(training)(images), net.train(training)(images), rtol=0, atol=0)
        for a, b in zip(discretise(loaded)[0].parameters(), discretise(net)[0].parameters(), strict=True):
            assert torch.equal(a, b)
        advance(net.train(), step / 2)
        net(images).square().sum().backward()
        optimiser.step()


def test_a_supernet_computes_with_tensors_that_stand_in_for_its_parameters() -> None:
    """``torch.func.functional_call``; sites alike mix their kernels together there, too."""
    layers = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
    space = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 2}], stem=True)
    net, images = wrap(layers, space, Softmax, (8, 6, 6)), torch.randn(2, 8, 6, 6)
    net(images).square().sum().backward()
    given = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    with counting_mixtures() as sites:
        torch.func.functional_call(net, given, (images,)).square().sum().backward()
    assert sites == [4]
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(given[name].grad, parameter.grad)


def test_the_state_dict_holds_every_bit_of_the_supernet(supernet: Any) -> None:
    net, other = supernet(OneHot), supernet(OneHot)
    for gate in gates(net):
        nn.init.normal_(gate.logits)
    advance(net, 0.5)
    net(IMAGES)
    advance(net, 0.8)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(gates(net), gates(other), strict=True):
        assert float(a.temperature) == float(b.temperature) != 1
        assert int(a.uniform) == int(b.uniform)
        assert torch.equal(a.average, b.average) and torch.equal(a.scores(), b.scores())
    assert torch.equal(net.eval()(IMAGES), other.eval()(IMAGES))
    assert torch.equal(net.train()(IMAGES), other.train()(IMAGES))


def test_the_warm_ups_position_is_in_the_state_dict(supernet: Any) -> None:
    net, other = supernet(), supernet()
    advance(net, 0.0)
    other.load_state_dict(net.state_dict())
    for gate in gates(other):
        assert torch.equal(gate(), torch.full_like(gate.logits, 1 / gate.logits.numel()))


def test_a_supernet_can_be_averaged(supernet: Any) -> None:
    from timm.utils import ModelEmaV3
    from torch.optim.swa_utils import AveragedModel

    net = supernet(Softmax)
    advance(net, 0.0)
    ema, swa = ModelEmaV3(net, decay=0.9), AveragedModel(net)
    first = [gate.logits.detach().clone() for gate in gates(net)]
    for gate in gates(net):
        nn.init.normal_(gate.logits)
    advance(net, 0.5)
    net(IMAGES).sum().backward()
    ema.update(net)
    swa.update_parameters(net)
    swa.update_parameters(net)
    for averaged in (ema.module, swa.module):
        for gate, live, start in zip(gates(averaged), gates(net), first, strict=True):
            assert isinstance(gate, Gate) and int(gate.uniform) == int(live.uniform) == 0  # no lag
            assert not torch.equal(gate.logits, start) or not bool(live.logits.any())
        assert bool(averaged.eval()(IMAGES).isfinite().all())
    assert selection_ops(ema.module)["held"].operators[0]._conv[0] is ema.module.held.conv


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_supernet_compiles_without_a_graph_break(supernet: Any) -> None:
    net = supernet(Softmax)
    wanted = net(IMAGES)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    y = compiled(IMAGES)
    torch.testing.assert_close(y, wanted)
    y.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert all(op.mixture is None for op in selection_ops(net).values())


def test_two_backward_passes_through_the_same_gates_add_up(supernet: Any) -> None:
    net = supernet(Softmax).eval()
    (net(IMAGES[:1]).sum() + net(IMAGES[1:]).sum()).backward()
    split = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    net(IMAGES).sum().backward()
    whole = [p.grad for p in net.parameters() if p.grad is not None]
    for a, b in zip(split, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_original_lent_to_its_operator_is_registered_once(place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3), 6, 6)
    op = mixture(at, [{"op": "original"}, {"op": "skip"}])
    assert isinstance(op.operators[0], Original)
    assert [name for name, _ in op.named_parameters()] == ["conv.weight", "conv.bias", "gate.logits"]
