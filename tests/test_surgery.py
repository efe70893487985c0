"""A network into a supernet, and a supernet into an ordinary network again."""

import copy
import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d
from torch import Tensor, nn

from lwdc import Architecture, discretise, rebuild, save, wrap
from lwdc.candidates import Operator
from lwdc.costs import Macs, Memory, tabulate
from lwdc.counting import count_macs, count_params
from lwdc.errors import ArchitectureError, SpaceError
from lwdc.export import to_onnx, to_torch_export
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, Softmax, TrainableGate
from lwdc.geometry import own_support
from lwdc.selection import SelectionOp, gates, selection_ops
from lwdc.space import Plan, SearchSpace, make_plan
from lwdc.surgery import (
    begin_with_prior,
    chosen_architecture,
    inherit_mixture,
    input_size_of,
    original_network,
    point_at,
)

SIZE = (3, 9, 9)
SPACE = SearchSpace(
    [
        {"op": "original"},
        {"op": "grouped", "groups": 2},
        {"op": "separable"},
        {"op": "separable_norm"},
        {"op": "pointwise"},
        {"op": "kernel", "size": 5},
        {"op": "dilated"},
        {"op": "low_rank", "ratio": 0.5},
        {"op": "skip"},
        {"op": "avg_pool"},
        {"op": "max_pool"},
        {"op": "zero"},
        {"op": "sum", "of": [{"op": "grouped", "groups": 2}, {"op": "kernel", "size": 5}, {"op": "skip"}]},
        {"op": "sum", "of": [{"op": "pointwise"}, {"op": "separable_norm"}]},
    ],
    stem=True,
    shortcuts=True,
    costlier=True,
)
GATES = [Softmax, GumbelSoftmax, OneHot, TrainableGate, ReinMax, Independent]


class Net(nn.Module):
    """One site of every kind: same padding, standardised, grouped, one-dimensional, shared, held twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2dSame(3, 8, 3, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.shared = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.standard = ScaledStdConv2d(8, 8, 3, padding=1)
        self.mirrored = nn.Conv2d(8, 8, (3, 2), padding=(1, 1), padding_mode="reflect", groups=2)
        self.held = nn.Sequential(nn.Conv2d(8, 8, 1))
        self.again = self.held[0]
        self.line = nn.Conv1d(8, 8, 3, padding=2, dilation=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norms[0](self.stem(x)))
        x = torch.relu_(self.shared(x)) + x
        x = self.shared(self.norms[1](self.standard(x)))
        x = torch.relu_(self.mirrored(x))
        x = self.norms[2](self.held(x) + self.again(x))
        x = self.line(x.flatten(2))
        return self.head(x.mean(2))


@pytest.fixture
def model() -> nn.Module:
    net = Net()
    for norm in net.norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return net.double()


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The space laid on the network: plain data, the same for every test."""
    return make_plan(Net(), SPACE, SIZE)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, *SIZE, dtype=torch.float64)


def drawn(supernet: nn.Module, seed: int) -> Architecture:
    """An architecture picked at random."""
    pick = random.Random(seed)
    return Architecture({name: pick.choice(op.candidates) for name, op in selection_ops(supernet).items()})


def test_wrap_leaves_the_network_alone(model: nn.Module, images: Tensor) -> None:
    before = copy.deepcopy(model.state_dict())
    ids = [id(m) for m in model.modules()]
    supernet = wrap(model, SPACE, input_size=SIZE)
    supernet(images).sum().backward()
    assert [id(m) for m in model.modules()] == ids
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not model._forward_hooks and not model._forward_pre_hooks and not hasattr(model, "lwdc_input_size")
    assert not {id(p) for p in supernet.parameters()} & {id(p) for p in model.parameters()}


def test_every_site_becomes_one_selection_operator(model: nn.Module, plan: Plan) -> None:
    supernet = wrap(model, plan=plan)
    assert list(selection_ops(supernet)) == ["stem", "shared", "standard", "mirrored", "held.0", "line"]
    assert supernet.held[0] is supernet.again
    assert input_size_of(supernet) == SIZE


def test_at_the_original_the_supernet_is_the_network(model: nn.Module, plan: Plan, images: Tensor) -> None:
    supernet = wrap(model, plan=plan)
    point_at(supernet, Architecture({name: {"op": "original"} for name in selection_ops(supernet)}))
    for mode in (True, False):
        torch.testing.assert_close(
            copy.deepcopy(supernet).train(mode)(images),
            copy.deepcopy(model).train(mode)(images),
            rtol=1e-10,
            atol=1e-10,
        )


@pytest.mark.parametrize(("gate", "mixing"), [*((gate, "auto") for gate in GATES), (OneHot, "branches")])
def test_at_a_one_hot_gate_the_discretised_network_is_the_supernet(
    gate: Any, mixing: Any, model: nn.Module, plan: Plan, images: Tensor
) -> None:
    supernet = wrap(model, gate=gate, plan=plan, mixing=mixing).eval()
    for module in supernet.modules():  # statistics of the branches' own norms too
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    for seed in range(6):
        architecture = drawn(supernet, seed)
        point_at(supernet, architecture)
        network, found = discretise(supernet)
        assert found == architecture
        torch.testing.assert_close(network(images), supernet(images), rtol=1e-10, atol=1e-10)


def test_random_gates_that_are_pointed_at_a_choice_train_as_its_network_does(
    model: nn.Module, plan: Plan, images: Tensor
) -> None:
    for gate in GATES:
        supernet = wrap(model, gate=gate, plan=plan).train()
        point_at(supernet, drawn(supernet, 1))
        network, _ = discretise(supernet)
        assert network.training
        torch.testing.assert_close(network(images), supernet(images), rtol=1e-10, atol=1e-10)


def test_discretising_leaves_plain_pytorch_and_the_supernet_alone(model: nn.Module, plan: Plan, images: Tensor) -> None:
    supernet = wrap(model, plan=plan).eval()
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    wanted = supernet(images)
    for seed in range(4):
        network, _ = discretise(supernet, drawn(supernet, seed))
        network.train()(images).sum().backward()
        for module in network.modules():
            assert not isinstance(module, (SelectionOp, Gate, Operator))
            assert not module._forward_hooks and not module._forward_pre_hooks
            assert not module._forward_hooks_always_called
        assert not hasattr(network, "lwdc_input_size")
        assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())
    assert all(p.grad is None for p in supernet.parameters())
    assert torch.equal(supernet(images), wanted)


def test_nothing_is_shared_with_the_supernet_and_nothing_more_copied(model: nn.Module, plan: Plan) -> None:
    class Left:
        def __deepcopy__(self, memo: Any) -> None:
            raise AssertionError("an operator that was not chosen is copied")

    supernet = wrap(model, plan=plan)
    architecture = drawn(supernet, 0)
    for name, op in selection_ops(supernet).items():
        chosen = op.candidates.index(architecture.choices[name])
        for index, operator in enumerate(op.operators):
            if index != chosen and op.candidates[index]["op"] != "original":
                operator.left = Left()

    def parts(network: nn.Module) -> set[int]:
        return {*map(id, network.modules())} | {t.data_ptr() for t in network.state_dict().values()}

    for network in (discretise(supernet, architecture)[0], original_network(supernet)):
        assert not parts(network) & parts(supernet)


def test_the_default_choice_is_every_gates_best(model: nn.Module, plan: Plan) -> None:
    supernet = wrap(model, plan=plan)
    for gate in gates(supernet):
        nn.init.normal_(gate.logits)
    _, architecture = discretise(supernet)
    assert architecture == chosen_architecture(supernet)
    for name, op in selection_ops(supernet).items():
        assert architecture.choices[name] == op.candidates[int(op.gate.logits.argmax())]


LINEAR = SearchSpace(
    [c for c in SPACE.candidates if c["op"] in ("original", "grouped", "separable", "low_rank", "skip")]
)


def test_what_is_chosen_inherits_the_mixture(model: nn.Module) -> None:
    supernet = wrap(model, LINEAR, input_size=SIZE).train()
    for op in selection_ops(supernet).values():
        nn.init.normal_(op.gate.logits)
        for operator in op.operators:  # as training would: the parts go ways of their own
            for parameter in operator.parameters():
                nn.init.normal_(parameter)
    for index in range(4):
        chosen = copy.deepcopy(supernet)
        architecture = Architecture(
            {name: op.candidates[min(index, len(op.candidates) - 1)] for name, op in selection_ops(chosen).items()}
        )
        wanted = {name: op.as_weight() for name, op in selection_ops(supernet).items()}
        before = {name: distance(op, architecture, wanted[name]) for name, op in selection_ops(chosen).items()}
        inherit_mixture(chosen, architecture)
        for name, op in selection_ops(chosen).items():
            after = distance(op, architecture, wanted[name])
            if not isinstance(op.conv, ScaledStdConv2d):  # whose own weight cannot be any
                assert after <= before[name] + 1e-9
        assert all(module.training for module in chosen.modules())


def test_a_mixture_of_narrower_kernels_is_inherited_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU()).double()
    space = SearchSpace([{"op": "kernel", "size": 3}, {"op": "pointwise"}])
    supernet = wrap(model, space, input_size=SIZE).eval()
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    wanted = supernet(images)
    inherit_mixture(supernet, Architecture({"1": {"op": "kernel", "size": 3}}))
    point_at(supernet, Architecture({"1": {"op": "kernel", "size": 3}}))
    torch.testing.assert_close(supernet(images), wanted, rtol=1e-10, atol=1e-10)


def test_gates_may_begin_with_what_operators_keep(model: nn.Module, plan: Plan) -> None:
    candidates = [{"op": "original"}, {"op": "low_rank", "ratio": 0.5}, {"op": "skip"}]
    supernet = wrap(model, SearchSpace(candidates, tie=["s[ht]*"]), input_size=SIZE)
    begin_with_prior(supernet, 2.0)
    ops = selection_ops(supernet)

    def prior(site: str, kind: str) -> float:
        return 2 * math.log(max(1 - ops[site].errors[kind] ** 2, 0.1))

    line = [prior("line", kind) for kind in ops["line"].labels]
    assert ops["line"].gate.logits.tolist() == pytest.approx(line, abs=1e-5)
    assert line[0] == 0 and min(line) < -1
    tied = [(prior("shared", kind) + prior("standard", kind)) / 2 for kind in ops["shared"].labels]
    assert ops["shared"].gate.logits.tolist() == pytest.approx(tied, abs=1e-5)
    fresh = wrap(model, plan=plan, inherit=False)
    begin_with_prior(fresh, 2.0)
    assert not any(op.gate.logits.any() for op in selection_ops(fresh).values())


def test_the_original_takes_in_the_whole_mixture(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)).double()
    supernet = wrap(model, dataclasses.replace(LINEAR, stem=True), input_size=SIZE).eval()
    assert len(selection_ops(supernet)) == 2
    for op in selection_ops(supernet).values():
        nn.init.normal_(op.gate.logits)
    wanted = supernet(images)
    original = Architecture({name: {"op": "original"} for name in selection_ops(supernet)})
    inherit_mixture(supernet, original)
    torch.testing.assert_close(discretise(supernet, original)[0](images), wanted, rtol=1e-10, atol=1e-10)


def distance(op: SelectionOp, architecture: Architecture, wanted: Tensor | None) -> float:
    """Of the chosen operator's kernel from what is wanted."""
    operator = op.operators[op.candidates.index(architecture.choices[op.site.name])]
    assert isinstance(operator, Operator) and wanted is not None
    return float((operator.kernel(own_support(op.site)).detach() - wanted).norm())


def test_a_mixture_with_branches_or_wider_operators_is_inherited_by_none(model: nn.Module, plan: Plan) -> None:
    supernet = wrap(model, plan=plan)
    before = copy.deepcopy(supernet.state_dict())
    assert all(op.as_weight() is None for op in selection_ops(supernet).values())
    inherit_mixture(supernet, drawn(supernet, 0))
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())


def test_the_original_network_comes_back(model: nn.Module, plan: Plan, images: Tensor) -> None:
    supernet = wrap(model, plan=plan).eval()
    network = original_network(supernet)
    assert list(network.state_dict()) == list(model.state_dict())
    assert torch.equal(network(images), copy.deepcopy(model).eval()(images))
    assert len(selection_ops(supernet)) == 6


def test_a_rebuilt_network_takes_the_discretised_ones_weights(model: nn.Module, plan: Plan, images: Tensor) -> None:
    supernet = wrap(model, plan=plan).eval()
    before = copy.deepcopy(model.state_dict())
    for seed in range(6):
        network, architecture = discretise(supernet, drawn(supernet, seed))
        fresh = rebuild(model, Architecture.from_dict(architecture.to_dict()), SIZE)
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        assert {key: value.shape for key, value in fresh.state_dict().items()} == shapes
        fresh.load_state_dict(network.state_dict())
        torch.testing.assert_close(fresh.eval()(images), network(images), rtol=0, atol=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_fresh_operators_start_at_the_norm_of_the_weight_that_was_applied(model: nn.Module, plan: Plan) -> None:
    from lwdc.candidates.original import effective_weight

    fresh = rebuild(
        model, Architecture({"standard": {"op": "pointwise"}, "shared": {"op": "grouped", "groups": 4}}), SIZE
    )
    for name in ("standard", "shared"):
        wanted = float(effective_weight(getattr(model, name)).detach().norm())
        assert float(getattr(fresh, name).weight.detach().norm()) == pytest.approx(wanted)
    supernet = wrap(model, plan=plan, inherit=False)
    for op in selection_ops(supernet).values():
        wanted = float(effective_weight(op.conv).detach().norm())
        for entry, operator in zip(op.labels, op.operators, strict=True):
            if entry in ("grouped_2", "separable", "pointwise", "low_rank_0.5", "dilated"):
                assert float(operator.kernel().detach().norm()) == pytest.approx(wanted)
        assert not op.errors


def test_inherited_errors_are_kept_by_label(model: nn.Module, plan: Plan) -> None:
    for op in selection_ops(wrap(model, plan=plan)).values():
        assert tuple(op.errors) == op.labels
        assert op.errors["original"] == 0 and op.errors["zero"] == pytest.approx(1)
        assert 0 < op.errors["grouped_2" if "grouped_2" in op.errors else "low_rank_0.5"] < 1


def test_counted_costs_are_those_of_the_released_network(model: nn.Module, plan: Plan) -> None:
    supernet = wrap(model, plan=plan)
    total_macs, total_params = count_macs(model, [SIZE]), count_params(model)
    for seed in range(6):
        network, architecture = discretise(supernet, drawn(supernet, seed))
        macs, params = total_macs, total_params
        for choice in plan.choices:
            at = choice.candidates.index(architecture.choices[choice.site.name])
            original = choice.candidates.index({"op": "original"})
            macs += choice.macs[at] - choice.macs[original]
            params += choice.params[at] - choice.params[original]
        assert count_macs(network, [SIZE]) == macs
        assert count_params(network) == params


def test_tied_sites_share_one_gate_and_one_choice(model: nn.Module, images: Tensor) -> None:
    candidates = [{"op": "original"}, {"op": "low_rank", "ratio": 0.5}, {"op": "skip"}]
    supernet = wrap(model, SearchSpace(candidates, tie=["s[ht]*"]), OneHot, SIZE).eval()
    ops = selection_ops(supernet)
    assert ops["shared"].gate is ops["standard"].gate is not ops["line"].gate
    twin = copy.deepcopy(supernet)
    assert selection_ops(twin)["shared"].gate is selection_ops(twin)["standard"].gate
    ops["standard"].gate.point_at(2)
    network, architecture = discretise(supernet)
    assert architecture.choices["shared"] == architecture.choices["standard"] == {"op": "skip"}
    torch.testing.assert_close(network(images), supernet(images), rtol=1e-10, atol=1e-10)
    with pytest.raises(
        ArchitectureError, match=r"'standard' .* is tied to another site, and the architecture parts them"
    ):
        point_at(supernet, Architecture({**architecture.choices, "shared": {"op": "original"}}))


def test_an_architecture_of_another_network_is_refused(model: nn.Module, plan: Plan) -> None:
    supernet = wrap(model, plan=plan)
    full = drawn(supernet, 0).choices
    with pytest.raises(ArchitectureError, match=r"replaces \['layer9'\], which this network lacks; it has \['stem', "):
        discretise(supernet, Architecture({**full, "layer9": {"op": "skip"}}))
    with pytest.raises(ArchitectureError, match=r"replaces \['layer9'\], which this network lacks; it has \['stem', "):
        rebuild(model, Architecture({"layer9": {"op": "skip"}}), SIZE)
    with pytest.raises(ArchitectureError, match=r"the architecture says nothing of 'stem' \(3, 9, 9\) -> \(8, 5, 5\)"):
        discretise(supernet, Architecture({name: c for name, c in full.items() if name != "stem"}))
    with pytest.raises(ArchitectureError, match=r"'line' .* has candidates original, .*, not 'grouped_4'"):
        point_at(supernet, Architecture({**full, "line": {"op": "grouped", "groups": 4}}))
    with pytest.raises(ArchitectureError, match=r"'grouped_5' does not fit 'line' .*: groups=5 does not divide 8 -> 8"):
        rebuild(model, Architecture({"line": {"op": "grouped", "groups": 5}}), SIZE)


def test_what_is_frozen_stays_frozen_and_the_rest_trains(model: nn.Module, plan: Plan) -> None:
    def frozen(network: nn.Module) -> set[str]:
        return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}

    model.shared.requires_grad_(False)
    model.stem.bias.requires_grad_(False)
    supernet = wrap(model, gate=OneHot, plan=plan)
    original = Architecture({name: {"op": "original"} for name in selection_ops(supernet)})
    assert frozen(discretise(supernet, original)[0]) == frozen(original_network(supernet)) == frozen(model)
    stand_ins = SearchSpace([{"op": "grouped", "groups": 2}, {"op": "skip"}], stem=True, shortcuts=True)
    supernet = wrap(model, stand_ins, OneHot, SIZE)
    assert frozen(original_network(supernet)) == frozen(model)
    network, chosen = discretise(supernet)
    assert chosen.choices["shared"]["op"] == "grouped" and network.shared.weight.requires_grad


def test_a_supernet_is_not_wrapped_again(model: nn.Module, plan: Plan) -> None:
    with pytest.raises(SpaceError, match="this network is a supernet already: wrap the network that it was made from"):
        wrap(wrap(model, plan=plan), SPACE, input_size=SIZE)


def test_a_network_that_does_not_say_its_input_size_is_asked_for_it(model: nn.Module) -> None:
    with pytest.raises(SpaceError, match="does not say what inputs it takes: give input_size=") as caught:
        wrap(model, SPACE)
    assert "(channels, height, width)" in str(caught.value)
    with pytest.raises(SpaceError, match=r"does not accept an input of shape \(1, 9, 9\)"):
        wrap(model, SPACE, input_size=(1, 9, 9))


@pytest.mark.parametrize(
    "size", [32, "3x9x9", (), (3, 0, 9), (3, 9.0, 9), ((3, 9, 9), (5,)), [[3, 9, 9]], (3, None, 9)]
)
def test_an_input_size_of_a_wrong_kind_is_refused_by_all_that_take_one(
    model: nn.Module, size: Any, tmp_path: Path
) -> None:  # fmt: skip
    calls: list[Callable[[], Any]] = [
        lambda: wrap(model, SPACE, input_size=size),
        lambda: rebuild(model, Architecture({}), size),
        lambda: save(tmp_path, model, Architecture({}), input_size=size),
        lambda: to_onnx(model, tmp_path / "model.onnx", size),
        lambda: to_torch_export(model, tmp_path / "model.pt2", size),
    ]
    for call in calls:
        with pytest.raises(
            SpaceError, match=r"shape of one input, \(channels, height, width\) or .*; found "
        ) as caught:
            call()
        assert str(caught.value).endswith(f"found {size!r}.")
    assert not list(tmp_path.iterdir())


def test_a_network_of_several_inputs_is_told_what_to_do() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return self.head((self.conv(self.stem(x)) + z).mean((2, 3)))

    class Defaulted(Two):
        def forward(self, x: Tensor, z: Any = 0, **further: Any) -> Tensor:
            return super().forward(x, z)

    said = r"takes several inputs \('x', 'z'\): wrap it in a module that takes one, or give the others defaults"
    with pytest.raises(SpaceError, match=said):
        wrap(Two(), input_size=(3, 9, 9))
    assert set(selection_ops(wrap(Defaulted(), input_size=(3, 9, 9)))) == {"conv"}
    with pytest.raises(SpaceError, match="does not accept an input of shape"):
        wrap(Defaulted(), input_size=(1, 9, 9))


def test_a_timm_network_knows_its_input_size() -> None:
    supernet = wrap(timm.create_model("test_resnet"))
    assert input_size_of(supernet) == (3, 160, 160)


def test_a_supernet_serves_other_image_sizes_where_the_network_does(model: nn.Module, plan: Plan) -> None:
    supernet = wrap(model, plan=plan).eval()
    x = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    for seed in range(3):
        point_at(supernet, drawn(supernet, seed))
        torch.testing.assert_close(discretise(supernet)[0](x), supernet(x), rtol=1e-10, atol=1e-10)


def test_one_step_trains_weights_and_logits_together(model: nn.Module, plan: Plan, images: Tensor) -> None:
    supernet = wrap(model, plan=plan).train()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1)
    nn.functional.cross_entropy(supernet(images), torch.tensor([0, 1, 2])).backward()
    assert [name for name, p in supernet.named_parameters() if p.grad is None] == []
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    optimiser.step()
    moved = {name for name, p in supernet.named_parameters() if not torch.equal(p, before[name])}
    assert all(f"{name}.gate.logits" in moved for name in selection_ops(supernet))
    assert bool(supernet(images).isfinite().all())


def test_the_training_mode_of_every_layer_carries_over(model: nn.Module, plan: Plan) -> None:
    model.train()
    model.held.eval()
    supernet = wrap(model, plan=plan)
    ops = selection_ops(supernet)
    assert not ops["held.0"].training and ops["shared"].training
    network, _ = discretise(supernet, drawn(supernet, 3))
    assert not network.held[0].training and network.shared.training
    fresh = rebuild(model, drawn(supernet, 3), SIZE)
    assert not fresh.held[0].training and fresh.shared.training


def test_a_stand_in_has_the_settings_that_the_network_reads() -> None:
    class Padding(nn.Module):  # as DaViT pads by its layers' kernel sizes
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.conv(nn.functional.pad(x, (0, x.shape[-1] % self.conv.kernel_size[1])))

    model, architecture = Padding(), Architecture({"conv": {"op": "separable"}})
    supernet = wrap(model, SearchSpace([{"op": "original"}, {"op": "separable"}]), input_size=SIZE)
    for network in (discretise(supernet, architecture)[0], rebuild(model, architecture, SIZE)):
        assert network(torch.zeros(1, *SIZE)).shape == (1, 4, 3, 4)


class Encoder(nn.Module):
    """A transformer of torch, which in evaluation computes with the weights themselves, without calling its layers."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.masks = masks
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.into, self.encoder, self.head = nn.Linear(8, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.abs().sum(2) == 0 if self.masks else None  # then torch packs what is not masked
        x = self.encoder(self.into(x), src_key_padding_mask=mask)
        return self.head(x[:, 0])


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_the_layers_of_torchs_transformers_are_sites(masks: bool) -> None:
    torch.manual_seed(0)
    model = Encoder(masks).double().eval()
    space = SearchSpace([{"op": "original"}, {"op": "low_rank", "ratio": 0.25}, {"op": "grouped", "groups": 2}])
    supernet = wrap(model, space, input_size=(5, 8)).eval()
    names = [f"encoder.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert list(selection_ops(supernet)) == names
    assert torch.backends.mha.get_fastpath_enabled()
    x = torch.randn(2, 5, 8, dtype=torch.double)
    x[1, 3:] = 0

    def given_by(network: nn.Module) -> Tensor:
        called = network.train()(x)
        network.eval()
        torch.testing.assert_close(network(x), called, rtol=1e-8, atol=1e-8)
        with torch.no_grad():
            torch.testing.assert_close(network(x), called, rtol=1e-8, atol=1e-8)
        return called

    given_by(supernet)
    for i in range(3):
        point_at(supernet, Architecture({name: op.candidates[i] for name, op in selection_ops(supernet).items()}))
        network, architecture = discretise(supernet)
        torch.testing.assert_close(given_by(network), given_by(supernet), rtol=1e-8, atol=1e-8)
        again = rebuild(model, architecture, (5, 8))
        again.load_state_dict(network.state_dict())
        torch.testing.assert_close(given_by(again), given_by(network), rtol=1e-8, atol=1e-8)
        assert _fast_paths(network) == _fast_paths(again) == ([True] * 3 if i == 0 else [False] * 3)
    assert _fast_paths(original_network(supernet)) == _fast_paths(model) == [True] * 3  # as they were
    point_at(supernet, Architecture({name: space.candidates[2 if name == names[0] else 0] for name in names}))
    assert _fast_paths(discretise(supernet)[0]) == [False, False, True]
    given_by(discretise(supernet)[0])


def _fast_paths(network: nn.Module) -> list[bool]:
    encoder = network.encoder
    assert isinstance(encoder, nn.TransformerEncoder)
    return [encoder.use_nested_tensor, *(bool(layer.activation_relu_or_gelu) for layer in encoder.layers)]


@pytest.mark.parametrize("masks", [False, True])
def test_costs_of_torchs_transformers_are_those_of_their_layers(masks: bool) -> None:
    space = SearchSpace([{"op": "original"}, {"op": "low_rank", "ratio": 0.25}])
    supernet = wrap(Encoder(masks), space, input_size=(5, 8))
    table = tabulate(supernet, Macs())
    assert table.rest > 0 and set(table.original.values()) == {5 * 16 * 32}
    network, architecture = discretise(supernet, Architecture(dict.fromkeys(table.sites, space.candidates[1])))
    assert table.of(architecture) == count_macs(network, [(5, 8)])
    assert tabulate(supernet, Memory()).total > 0


def test_an_encoder_that_reads_weights_in_a_forward_of_its_own_keeps_its_layers() -> None:
    class Own(nn.TransformerEncoderLayer):
        def forward(self, src: Tensor, **further: Any) -> Tensor:
            return src + self.linear2(nn.functional.relu(nn.functional.linear(src, self.linear1.weight)))

    model = nn.Sequential(nn.Linear(8, 16), Own(16, 2, 32, batch_first=True), nn.Linear(16, 3))
    supernet = wrap(model, SearchSpace([{"op": "original"}, {"op": "low_rank", "ratio": 0.25}]), input_size=(5, 8))
    assert list(selection_ops(supernet)) == ["1.linear2"]


def test_a_layer_whose_weight_is_computed_with_keeps_its_shape() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.conv(x) + nn.functional.conv2d(x, self.conv.weight)

    space = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 2}, {"op": "epitome", "ratio": 2}])
    with pytest.raises(SpaceError, match="the network reads this layer's weight"):
        wrap(Reading(), space, input_size=(3, 9, 9))
