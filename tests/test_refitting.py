"""Refit: the least squares that it promises, site after site, and nothing else changed."""

import copy
import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lwdc.refitting
from lwdc.architecture import Architecture
from lwdc.errors import ArchitectureError, TrainingError
from lwdc.gates import Softmax
from lwdc.refitting import refit
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, wrap

LOW_RANK = {"op": "low_rank", "ratio": 0.5}


def originals(*names: str) -> Architecture:
    return Architecture({name: {"op": "original"} for name in names})


def same_state(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def disturbed(network: nn.Module, names: Sequence[str]) -> nn.Module:
    changed = copy.deepcopy(network)
    for name in names:
        for parameter in changed.get_submodule(name).parameters():
            nn.init.normal_(parameter)
    return changed


@settings(max_examples=60)
@given(data=st.data())
def test_a_layer_that_can_give_what_the_site_gave_does(data: st.DataObject) -> None:
    """Whatever its weights were: as many outputs as there are, no damping, any geometry."""
    draw = data.draw
    groups, dims = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1](
        4, 8, tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 2)), dilation=draw(st.integers(1, 2)),
        groups=groups, bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"])),
    )  # fmt: skip
    network = nn.Sequential(conv).double().eval()
    images = torch.randn(64, 4, *(9, 8)[:dims], dtype=torch.float64)
    changed = disturbed(network, ["0"])
    remaining = refit(changed, network, originals("0"), images, damping=1e-12)
    assert remaining == {"0": pytest.approx(0.0, abs=1e-12)}
    with torch.no_grad():
        torch.testing.assert_close(changed(images), network(images), rtol=1e-6, atol=1e-6)


def test_a_linear_layer_over_tokens_is_refitted_too() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3, bias=False)).double()
    images = torch.randn(20, 7, 6, dtype=torch.float64)
    changed = disturbed(network, ["0", "2"])
    refit(changed, network, originals("0", "2"), images, damping=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(changed(images), network(images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("candidate", [LOW_RANK, {"op": "factorised", "ratio": 0.5}, {"op": "separable"}])
def test_no_other_last_layer_would_be_nearer(candidate: dict[str, object], bias: bool) -> None:
    """The slope of the error is zero there, and what it returns is that error."""
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=bias)).double()
    supernet = wrap(model, SearchSpace([{"op": "original"}, candidate], stem=True), input_size=(6, 8, 8))
    network, architecture = discretise(supernet, Architecture({"0": candidate}))
    images = torch.randn(30, 6, 8, 8, dtype=torch.float64) + 1
    with torch.no_grad():
        wanted = model(images)
        before = (network(images) - wanted).square().sum()
    (remaining,) = refit(network, model, architecture, images, damping=1e-12).values()
    error = (network(images) - wanted).square().sum()
    error.backward()
    last = list(network.modules())[-1]
    assert all(float(p.grad.abs().max()) < 1e-6 for p in last.parameters() if p.grad is not None)
    assert float(error.detach()) < float(before)
    scale = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum() if bias else wanted.square().sum()
    assert remaining == pytest.approx(float(error.detach() / scale), rel=1e-6)


FOURTHS = {"op": "grouped", "groups": 4}
SUMS = [
    [LOW_RANK, {"op": "separable"}],
    [{"op": "pointwise"}, {"op": "grouped", "groups": 2}],
    [FOURTHS, {"op": "grouped", "groups": 2}, {"op": "factorised", "ratio": 0.5}],
    [{"op": "skip"}, FOURTHS],  # the first one has no weights
    [{"op": "epitome", "ratio": 2, "sampling": "fixed", "indexing": "per_block"}, LOW_RANK],  # nor a plain last layer
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("of", SUMS, ids=lambda of: "+".join(part["op"] for part in of))
def test_no_other_last_layers_of_a_sum_would_be_nearer_together(of: list[dict[str, object]], bias: bool) -> None:
    candidate = {"op": "sum", "of": of}
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=bias)).double()
    supernet = wrap(model, SearchSpace([{"op": "original"}, candidate], stem=True, costlier=True), input_size=(8, 9, 8))
    network, architecture = discretise(supernet, Architecture({"0": candidate}))
    images = torch.randn(30, 8, 9, 8, dtype=torch.float64) + 1
    with torch.no_grad():
        wanted = model(images)
        before = (network(images) - wanted).square().sum()
    start = copy.deepcopy(network)
    (remaining,) = refit(network, model, architecture, images, damping=1e-12).values()
    error = (network(images) - wanted).square().sum()
    error.backward()
    lasts = [list(part.modules())[-1] for part in network.get_submodule("0").parts]  # type: ignore[union-attr]
    plain = [last for last in lasts if type(last) is nn.Conv2d]
    solved = {id(p) for last in plain for p in last.parameters()}
    assert solved
    for (name, parameter), old in zip(network.named_parameters(), start.parameters(), strict=True):
        if id(parameter) in solved:
            assert float(parameter.grad.abs().max()) < 1e-5, name  # type: ignore[union-attr]
        else:
            assert torch.equal(parameter, old), name
    assert float(error.detach()) < float(before)
    centred = any(last.bias is not None for last in plain)  # it may be another part that has the bias
    scale = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum() if centred else wanted.square().sum()
    assert remaining == pytest.approx(float(error.detach() / scale), rel=1e-6)


@settings(max_examples=40)
@given(data=st.data())
def test_a_sum_that_can_give_what_the_site_gave_does(data: st.DataObject) -> None:
    """Whatever its last layers' weights were, for any groups and strides of its parts."""
    draw = data.draw
    some = [LOW_RANK, FOURTHS, {"op": "grouped", "groups": 2}, {"op": "pointwise"}, {"op": "separable"}, {"op": "skip"}]
    stride = draw(st.sampled_from([1, 2]))
    usable = some if stride == 1 else some[:-1]
    of = draw(st.lists(st.sampled_from(usable), min_size=2, max_size=3, unique_by=str))
    candidate = {"op": "sum", "of": of}
    conv = nn.Conv2d(8, 8, 3, padding=1, stride=stride, bias=draw(st.booleans()))
    model = nn.Sequential(conv).double()
    supernet = wrap(model, SearchSpace([{"op": "original"}, candidate], stem=True, costlier=True), input_size=(8, 9, 8))
    network, architecture = discretise(supernet, Architecture({"0": candidate}))
    images = torch.randn(64, 8, 9, 8, dtype=torch.float64)
    changed = copy.deepcopy(network)
    for part in changed.get_submodule("0").parts:  # type: ignore[union-attr]
        last = list(part.modules())[-1]
        for parameter in last.parameters():
            nn.init.normal_(parameter)
    remaining = refit(changed, network, architecture, images, damping=1e-12)
    assert remaining == {"0": pytest.approx(0.0, abs=1e-12)}
    with torch.no_grad():
        torch.testing.assert_close(changed(images), network(images), rtol=1e-5, atol=1e-5)


def test_of_what_a_sum_receives_it_is_what_arrives_there_that_counts() -> None:
    """A sum behind another one is solved for on what that one then gives."""
    torch.manual_seed(0)
    model = Deep()
    candidate = {"op": "sum", "of": [LOW_RANK, FOURTHS]}
    network, architecture = compressed(model, candidate)
    images = torch.randn(64, 8, 8, 8)
    first = copy.deepcopy(network)
    remaining = refit(network, model, architecture, images)
    assert list(remaining) == [f"convs.{i}" for i in range(3)]
    one_by_one = {}
    for name in remaining:
        one_by_one |= refit(first, model, Architecture({name: candidate}), images)
    assert one_by_one == pytest.approx(remaining)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first.parameters(), network.parameters(), strict=True))


def test_where_groups_differ_much_layers_are_solved_for_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly as near as all together, which would take a system for every group."""
    candidate = {"op": "sum", "of": [{"op": "grouped", "groups": "most"}, {"op": "factorised", "ratio": 0.5}]}
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).double()
    supernet = wrap(model, SearchSpace([{"op": "original"}, candidate], stem=True), input_size=(16, 8, 8))
    network, architecture = discretise(supernet, Architecture({"0": candidate}))
    images = torch.randn(40, 16, 8, 8, dtype=torch.float64)

    def refitted() -> tuple[nn.Module, float]:
        found = copy.deepcopy(network)
        (remaining,) = refit(found, model, architecture, images, damping=1e-12).values()
        return found, remaining

    found, in_turns = refitted()
    with torch.no_grad():
        wanted = model(images)
        before = (network(images) - wanted).square().sum()
        after = (found(images) - wanted).square().sum()
    spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
    assert in_turns == pytest.approx(float(after / spread), rel=1e-6)
    monkeypatch.setattr(lwdc.refitting, "_MOST_TIMES", 1000)
    _, together = refitted()
    assert together < in_turns < together + 0.02 * (float(before / spread) - together)


def test_a_layer_that_receives_the_same_everywhere_keeps_its_weight() -> None:
    """Beside a bias nothing can be told of it; what varies is solved for."""
    network = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2))
    for constant in (1e-3, 0.7, 1e3):
        images = torch.randn(8, 2, 6, 6)
        images[:, 1] = constant
        changed = disturbed(network, ["0"])
        before = copy.deepcopy(changed)
        refit(changed, network, originals("0"), images)
        weights = [n.get_parameter("0.weight").detach() for n in (changed, before, network)]
        torch.testing.assert_close(weights[0][1], weights[1][1], rtol=1e-4, atol=0)
        torch.testing.assert_close(weights[0][0], weights[2][0], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(changed(images), network(images), rtol=1e-2, atol=1e-2)


def test_each_layer_of_a_sum_is_pulled_by_the_size_of_its_own_inputs() -> None:
    """Small ones are solved for as well as large ones: how a branch splits its scale between its layers is nothing."""
    candidate = {"op": "sum", "of": [LOW_RANK, FOURTHS]}
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)).double()
    supernet = wrap(model, SearchSpace([{"op": "original"}, candidate], stem=True), input_size=(8, 9, 8))
    network, architecture = discretise(supernet, Architecture({"0": candidate}))
    images = torch.randn(30, 8, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        nn.init.zeros_(network.get_submodule("0").parts[1].weight)  # type: ignore[union-attr]
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        first, last = scaled.get_submodule("0").parts[0]  # type: ignore[union-attr]
        first.weight.mul_(1000)
        last.weight.div_(1000)
    plain, other = (refit(n, model, architecture, images)["0"] for n in (network, scaled))
    assert other == pytest.approx(plain, rel=1e-6)


def test_a_refit_is_exact_whatever_the_precision_around_it() -> None:
    model, images = Deep(), torch.randn(32, 8, 8, 8)
    for candidate in (LOW_RANK, {"op": "sum", "of": [LOW_RANK, FOURTHS]}):
        (one, architecture), (other, _) = compressed(model, candidate), compressed(model, candidate)
        refit(one, model, architecture, images)
        with torch.autocast("cpu", torch.bfloat16):
            refit(other, model, architecture, images)
        assert same_state(one, other)


def test_what_layers_have_received_is_let_go_site_by_site() -> None:
    model, images = Deep(), torch.randn(8, 8, 8, 8)
    network, architecture = compressed(model, LOW_RANK)
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []

    def look(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        del layer
        most.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(args[0]))

    for k in range(3):
        network.get_submodule(f"convs.{k}.1").register_forward_pre_hook(look)
    refit(network, model, architecture, images)
    assert most == [0, 0, 0]


class Deep(nn.Module):
    """Three sites with batch norms, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.drop(norm(conv(x)).relu())
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def compressed(model: nn.Module, candidate: dict[str, object]) -> tuple[nn.Module, Architecture]:
    space = SearchSpace([{"op": "original"}, candidate], stem=True)
    supernet = wrap(model, space, input_size=(8, 8, 8))
    return discretise(supernet, Architecture(dict.fromkeys(selection_ops(supernet), candidate)))


def test_what_goes_before_is_mended_by_what_comes_after() -> None:
    torch.manual_seed(0)
    model = Deep().train()
    images = torch.randn(64, 8, 8, 8)
    model(images)  # statistics of their own for the norms
    network, architecture = compressed(model, LOW_RANK)
    modes = [module.training for module in network.modules()]
    before, reference = copy.deepcopy(network), copy.deepcopy(model)
    remaining = refit(network, model, architecture, images)
    assert list(remaining) == [f"convs.{i}" for i in range(3)]
    # Apart from the layers it solves nothing changes: statistics, modes, the reference, the rest of the stand-ins.
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    assert changed == {f"convs.{i}.1.weight" for i in range(3)}
    assert all(torch.equal(b, before.get_buffer(n)) for n, b in network.named_buffers())
    assert [module.training for module in network.modules()] == modes and same_state(model, reference)

    def last_map(net: nn.Module, *, by_batch: bool) -> Tensor:
        kept: list[Tensor] = []
        handle = net.get_submodule("convs.2").register_forward_hook(lambda m, a, o: kept.append(o))
        net.eval()
        for norm in net.norms:  # type: ignore[union-attr]
            norm.train(by_batch)
        net(images)
        handle.remove()
        return kept[0].detach()

    wanted = last_map(copy.deepcopy(model), by_batch=False)

    def error(net: nn.Module) -> float:
        return float((last_map(copy.deepcopy(net), by_batch=True) - wanted).square().sum())

    # The last site made as near as can be on what it would receive from the original, and on what it does receive.
    alone, mended = copy.deepcopy(model), copy.deepcopy(before)
    last = Architecture({"convs.2": LOW_RANK})
    alone.convs[2] = copy.deepcopy(before.get_submodule("convs.2"))
    refit(alone, model, last, images)
    mended.convs[2] = alone.convs[2]  # type: ignore[index, union-attr]
    summed = error(mended)
    refit(mended, model, last, images)
    assert error(mended) < summed < error(before)


def test_the_mixture_of_a_supernet_is_a_reference_too() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).double()
    space = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 2}, {"op": "pointwise"}], stem=True)
    supernet = wrap(model, space, Softmax, (4, 8, 8)).train()
    (op,) = selection_ops(supernet).values()
    nn.init.normal_(op.gate.logits)
    network, architecture = discretise(supernet, originals("0"))
    refit(network, supernet, architecture, torch.randn(20, 4, 8, 8, dtype=torch.float64), damping=1e-12)
    supernet.eval()
    torch.testing.assert_close(network.get_parameter("0.weight"), op.as_weight(), rtol=1e-8, atol=1e-8)
    assert op.mixture is None


class Reuses(nn.Module):
    """A layer called twice, two that share a weight, and one that is used once."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.one, self.other, self.once = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.once(self.other(self.one(self.twice(self.twice(x).relu()).relu()).relu()).relu())  # type: ignore[no-any-return]


def test_what_serves_twice_stays() -> None:
    network, images = Reuses(), torch.randn(8, 4, 6, 6)
    changed = disturbed(network, ["twice", "one", "once"])
    before = copy.deepcopy(changed)
    assert list(refit(changed, network, originals("twice", "one", "other", "once"), images)) == ["once"]
    for name in ("twice", "one", "other"):
        assert same_state(changed.get_submodule(name), before.get_submodule(name))
    assert not torch.equal(changed.once.weight, before.once.weight)  # type: ignore[union-attr]


def test_what_ends_in_no_plain_layer_stays() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    epitome = {"op": "epitome", "ratio": 2, "sampling": "fixed", "indexing": "per_block"}
    network, architecture = compressed(model, epitome)
    before = copy.deepcopy(network)
    assert refit(network, model, architecture, torch.randn(4, 8, 8, 8)) == {}
    assert same_state(network, before)


def test_where_nothing_arrives_or_too_little_weights_stay() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False))
    changed = disturbed(network, ["0"])
    before = copy.deepcopy(changed)
    refit(changed, network, originals("0"), torch.zeros(8, 4, 6, 6))
    torch.testing.assert_close(changed[0].weight, before[0].weight)  # type: ignore[index]
    images = torch.randn(4, 4, 6, 6)  # 144 outputs, 36 weights a filter
    assert refit(changed, network, originals("0"), images, places=143) == {} and same_state(changed, before)
    assert refit(changed, network, originals("0"), images, places=144)["0"] < 1e-3


def test_damping_pulls_towards_the_present_weights() -> None:
    network, images = nn.Sequential(nn.Conv2d(4, 4, 3)), torch.randn(8, 4, 9, 9)
    before = disturbed(network, ["0"])
    moved = []
    for damping in (1e-12, 1.0, 100.0):
        changed = copy.deepcopy(before)
        refit(changed, network, originals("0"), images, damping=damping)
        moved.append(float((changed.get_parameter("0.weight") - before.get_parameter("0.weight")).detach().norm()))
    assert moved[0] > 1.5 * moved[1] > 1.5 * 20 * moved[2]


def test_the_same_examples_give_the_same_weights() -> None:
    model, images = Deep(), torch.randn(16, 8, 8, 8)
    (one, architecture), (other, _) = compressed(model, LOW_RANK), compressed(model, LOW_RANK)
    refit(one, model, architecture, images, places=100)
    torch.randn(3)  # the global generator has no say
    refit(other, model, architecture, images, places=100)
    assert same_state(one, other)


def test_padding_that_was_set_after_construction_is_the_one_that_counts() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).double()
    network[0].dilation, network[0].padding = (2, 2), (2, 2)
    changed, images = disturbed(network, ["0"]), torch.randn(12, 4, 8, 8, dtype=torch.float64)
    assert refit(changed, network, originals("0"), images, damping=1e-12)["0"] < 1e-10
    with torch.no_grad():
        torch.testing.assert_close(changed(images), network(images), rtol=1e-6, atol=1e-6)


def test_places_are_summed_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Deep().double(), torch.randn(16, 8, 8, 8, dtype=torch.float64)
    whole, architecture = compressed(model, LOW_RANK)
    few = copy.deepcopy(whole)
    errors = refit(whole, model, architecture, images)
    monkeypatch.setattr(lwdc.refitting, "_CHUNK", 100)
    assert refit(few, model, architecture, images) == pytest.approx(errors)
    for parameter, other in zip(few.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)


def test_large_networks_keep_fewer_places(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False)), torch.randn(4, 4, 6, 6)
    monkeypatch.setattr(lwdc.refitting, "_MOST", 4 * 143)  # one place too few for 36 weights a filter
    assert refit(disturbed(network, ["0"]), network, originals("0"), images) == {}
    monkeypatch.setattr(lwdc.refitting, "_MOST", 4 * 144)
    assert refit(disturbed(network, ["0"]), network, originals("0"), images)["0"] < 1e-3


def test_a_shared_bias_stays_and_so_does_what_no_number_comes_to() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    network[1].bias = network[0].bias
    images = torch.randn(8, 4, 6, 6)
    changed = disturbed(network, ["0", "1", "2"])
    assert list(refit(changed, network, originals("0", "1", "2"), images)) == ["2"]
    before = copy.deepcopy(changed)
    images[0, 0, 0, 0] = float("nan")
    assert refit(changed, network, originals("2"), images) == {} and same_state(changed, before)


def test_what_cannot_serve_is_refused() -> None:
    network, images = nn.Sequential(nn.Conv2d(4, 4, 3)), torch.randn(4, 4, 6, 6)
    with pytest.raises(ArchitectureError, match="there is no layer 'body' to refit"):
        refit(network, network, originals("body"), images)
    with pytest.raises(TrainingError, match=r"two examples or more and a damping above 0, found 1 and 0\.001"):
        refit(network, network, originals("0"), images[:1])
    with pytest.raises(TrainingError, match="found 4 and 0"):
        refit(network, network, originals("0"), images, damping=0)
