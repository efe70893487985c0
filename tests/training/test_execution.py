"""Execution: channels_last, compiled or with branches computed again, a network learns what it would have learnt."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lwdc import geometry, selection
from lwdc.costs import Macs, tabulate
from lwdc.data import Digits
from lwdc.errors import TrainingError
from lwdc.gates import GumbelSoftmax
from lwdc.records import EpochRecord
from lwdc.selection import draw, selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import JointLesson, Pressure, search_fit
from lwdc.surgery import wrap
from lwdc.training import CAN_COMPILE, Execution, Recipe

LINEAR: list[Any] = [
    {"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "kernel", "size": 1}, {"op": "separable"},
    {"op": "low_rank", "ratio": 0.25}, {"op": "skip"}, {"op": "epitome", "ratio": 2},
]  # fmt: skip
LOOKS_FOR_GRADIENTS = "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
BRANCHES: list[Any] = [{"op": "original"}, {"op": "separable_norm"}, {"op": "squeezed", "ratio": 0.5}]


def network(channels: int = 1, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def supernet(candidates: list[Any] = LINEAR, channels: int = 1, **options: Any) -> nn.Module:
    return wrap(network(channels), SearchSpace(candidates, stem=True), GumbelSoftmax, (channels, 8, 8), **options)


def step(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of one training step; the gates are drawn outside, as in training."""
    model.train().zero_grad()
    torch.manual_seed(1)
    draw(model)
    outputs = model(images)
    outputs.square().mean().backward()
    found = {f"{name}'s gradient": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"outputs": outputs.detach(), **found, **{name: b.clone() for name, b in model.named_buffers()}}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mixing", ["auto", "branches"])
def test_in_channels_last_a_step_is_what_it_was_to_rounding(channels: int, mixing: str) -> None:
    model = supernet([*LINEAR, *BRANCHES[1:]], channels, mixing=mixing).double()
    images = torch.randn(16, channels, 8, 8, dtype=torch.float64)
    twin, execution = copy.deepcopy(model), Execution(channels_last=True)
    with execution.of(twin):
        found = step(twin, execution.laid_out(images))
    for name, value in step(model, images).items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert all(value.is_contiguous() for value in twin.state_dict().values())


@pytest.mark.parametrize("channels", [1, 3])
def test_what_flows_and_what_it_is_convolved_with_stays_in_channels_last(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels: list[Tensor] = []

    def convolve(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        kernels.append(weight)
        return geometry.convolve(x, weight, *rest)

    monkeypatch.setattr(selection, "convolve", convolve)
    model, execution = supernet(channels=channels), Execution(channels_last=True)
    outputs: list[Tensor] = []
    for op in selection_ops(model).values():
        if op.site.dims == 2:
            op.register_forward_hook(lambda op, args, output: outputs.append(output))
    with execution.of(model):
        model(execution.laid_out(torch.randn(16, channels, 8, 8)))
    assert len(outputs) == len(kernels) == 2
    for tensor in (*outputs, *kernels):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert tensor.shape[1] == 1 or not tensor.is_contiguous()


class Copies(TorchDispatchMode):
    """Counts tensors of four axes that are laid out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default) and found.dim() == 4:
            self.count += 1
        return found


def test_mixing_in_channels_last_copies_no_kernel_that_it_did_not_copy_before() -> None:
    model = supernet([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "kernel", "size": 1}], channels=8)
    images = torch.randn(16, 8, 8, 8)
    counts = []
    for execution in (Execution(), Execution(channels_last=True)):
        with execution.of(model):
            laid_out = execution.laid_out(images)
            with Copies() as copies:
                step(model, laid_out)
        counts.append(copies.count)
    assert counts[1] <= counts[0] + 1  # the maps as they are flattened


def test_sound_cannot_be_in_channels_last() -> None:
    with pytest.raises(TrainingError, match=r"a layout of images .*, and the examples are \(1, 64\): leave it out"):
        Execution(channels_last=True).check((1, 64))
    Execution().check((1, 64))


@pytest.mark.parametrize("mixing", ["auto", "branches"])
def test_branches_computed_again_give_the_same_gradients_and_statistics(mixing: str) -> None:
    """Bit for bit, in float64, with something random in a branch."""
    model = supernet([*BRANCHES, *LINEAR[1:]], channels=8, mixing=mixing).double()
    for op in selection_ops(model).values():
        op.operators[1].register_forward_hook(lambda op, args, output: nn.functional.dropout(output, 0.5))
    images = torch.randn(16, 8, 8, 8, dtype=torch.float64)
    twin = copy.deepcopy(model)
    with Execution(checkpointing=True).of(twin):
        found = step(twin, images)
    wanted = step(model, images)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert not any(op.checkpointing for op in selection_ops(twin).values())
    assert all(m.momentum == 0.1 for m in twin.modules() if isinstance(m, nn.BatchNorm2d))


def test_with_checkpointing_of_all_branches_the_input_alone_is_kept() -> None:
    """Bytes that autograd holds between forward and backward pass, each memory counted once."""

    def kept(execution: Execution) -> int:
        torch.manual_seed(0)
        model = supernet([*BRANCHES, *LINEAR[1:]], channels=8, mixing="branches")
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with execution.of(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = model(torch.randn(64, 8, 8, 8))
            outputs.sum().backward()
        return sum(held.values())

    assert kept(Execution(checkpointing=True)) < 0.4 * kept(Execution())


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    if not CAN_COMPILE:
        pytest.skip("this PyTorch does not compile every network for itself")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Three batches of 64 an epoch, and one for validation."""
    digits = Digits(crop_padding=1, limit_train=192, valid=64)
    digits.prepare(torch.device("cpu"))
    return digits


def search(data: Digits, execution: Execution, candidates: list[Any], **recipe: Any) -> tuple[Any, ...]:
    """A search of four epochs: the supernet, its fit, its records, and how many graphs are compiled after each."""
    torch.manual_seed(0)
    model = wrap(network(dropout=0.2), SearchSpace(candidates, exclude=["8"]), GumbelSoftmax, (1, 8, 8))
    lesson = JointLesson(model, [Pressure(tabulate(model, Macs()), factor=0.1)], functools.partial(torch.optim.Adam))
    optim = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    fabric = Fabric(accelerator="cpu", devices=1)
    fit = search_fit(model, data, Recipe(4, 64, optim, **recipe), lesson, seed=0, fabric=fabric, execution=execution)
    records, graphs = [], []
    for record in fit.run():
        if isinstance(record, EpochRecord):
            records.append((record.loss, record.valid_accuracy))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return model, fit, records, graphs


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings(LOOKS_FOR_GRADIENTS)
@pytest.mark.parametrize(
    ("candidates", "recipe"),
    [
        ([LINEAR[0], BRANCHES[1]], {}),
        pytest.param([*LINEAR, BRANCHES[1]], {}, marks=pytest.mark.long),
        pytest.param([*LINEAR[:2], LINEAR[-1]], {"accumulate": 2}, marks=pytest.mark.long),
    ],
)
def test_a_compiled_search_is_the_search_and_nothing_is_compiled_twice(
    candidates: list[Any], recipe: dict[str, Any], digits: Digits
) -> None:
    """With what is random in the gates and in the network, and starts of epitomes that become whole halfway."""
    plain, _, records, none = search(digits, Execution(), candidates, **recipe)
    compiled, fit, theirs, graphs = search(digits, Execution(compile="eager"), candidates, **recipe)
    state = compiled.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(state[name], value), name
    assert theirs == records
    assert not any("_orig_mod" in name for name in (*state, *fit.state_dict()["model"]))
    assert compiled._compiled_call_impl is None
    assert set(none) == {0}
    assert 0 < graphs[0] == graphs[1]  # nothing is compiled anew by the gates' schedule
    assert graphs[2] == graphs[3]
    if LINEAR[-1] not in candidates:
        assert graphs[3] == graphs[0]  # else once, as starts become whole
    assert "graph_break" not in torch._dynamo.utils.counters


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings(LOOKS_FOR_GRADIENTS)
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning")  # in Inductor's own code
@pytest.mark.long
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_inductor_compiles_is_a_step_to_rounding(channels_last: bool) -> None:
    model = supernet([*LINEAR[:4], BRANCHES[1]], channels=3)
    twin, images = copy.deepcopy(model), torch.randn(16, 3, 8, 8)
    execution = Execution(compile=True, channels_last=channels_last)
    with execution.of(twin):
        found = step(twin, execution.laid_out(images))
    for name, value in step(model, images).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.long
def test_many_networks_of_one_class_are_compiled_each_for_itself() -> None:
    """PyTorch's limit of 8 variants a function would leave the last of them uncompiled."""
    for width in range(2, 12):
        model = nn.Sequential(nn.Linear(width, 1))
        with Execution(compile="eager").of(model):
            model(torch.ones(1, width))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 10
