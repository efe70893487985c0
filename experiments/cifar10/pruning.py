"""Torch-Pruning as a contender: its group-norm pruner on the networks of lwdc, down to a number of MACs."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import torch
from shortcuts import Select, with_selecting_shortcuts
from torch import Tensor, nn

from lwdc.counting import count_macs
from lwdc.errors import LwdcError
from lwdc.tracing import Shape
from lwdc.training.fit import Plain

# The settings with which Torch-Pruning's authors made their figures for ResNet-56 on CIFAR-10.
STEPS = 400
REGULARISER = 5e-4
SPARSE_LR = 0.01


def version() -> str | None:
    """Of Torch-Pruning, where it is installed."""
    try:
        return importlib.metadata.version("torch-pruning")
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_pruning() -> Any:
    """The package. Raises ``LwdcError`` where it is missing."""
    try:
        import torch_pruning
    except ImportError as error:
        raise LwdcError(
            "Torch-Pruning is not installed here; `make peers` makes .venv-peers, run this with its python."
        ) from error
    return torch_pruning


class SparseLesson(Plain):
    """Adds the gradient of the pruner's group regulariser, as its sparse learning does."""

    def __init__(self, network: nn.Module, pruner: Any) -> None:
        self.network, self.pruner = network, pruner

    def after_backward(self) -> None:
        self.pruner.regularize(self.network)


def make_pruner(
    network: nn.Module, classifier: nn.Module, input_size: Shape, *, sparse: bool = False, everywhere: bool = True
) -> Any:
    """The group-norm pruner of ``network``, whose option-A shortcuts are replaced in place.

    The outputs of ``classifier`` stay. With ``everywhere`` all groups are ranked together, else every group
    loses the same share of its channels. ``sparse`` as the authors' runs with sparse learning: scores over the
    largest of their group instead of over their mean.
    """
    package = torch_pruning()
    with_selecting_shortcuts(network)
    device = next(network.parameters()).device
    return package.pruner.GroupNormPruner(
        network,
        torch.zeros(1, *input_size, device=device),
        importance=package.importance.GroupMagnitudeImportance(p=2, normalizer="max" if sparse else "mean"),
        reg=REGULARISER,
        global_pruning=everywhere,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[classifier],
        customized_pruners={Select: _select_pruner(package)},
    )


def prune_to(network: nn.Module, pruner: Any, macs: int, input_size: Shape) -> None:
    """Take channels away in small steps, in place, until at most ``macs`` are left."""
    network.eval()  # the pruner ranks weights alone; nothing is trained here
    while count_macs(network, [input_size]) > macs:
        if pruner.current_step == STEPS:
            raise LwdcError(f"Torch-Pruning stopped at {count_macs(network, [input_size]):,} MACs, above {macs:,}.")
        pruner.step()


def shaped_like(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a pruned network's ``state`` into the unpruned ``network``, in place, narrowing its layers."""
    with_selecting_shortcuts(network)
    for name, module in network.named_modules():
        own = {key: state[f"{name}.{key}"] for key in module.state_dict() if f"{name}.{key}" in state}
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = own["weight"].shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = own["weight"].shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(own["weight"])
        elif isinstance(module, Select):
            module.source = own["source"].clone()
            module.in_channels = len(state[f"{name.rpartition('.')[0]}.conv1.weight"][0])
            continue
        else:
            continue
        for key, value in own.items():
            getattr(module, key).data = value.clone()
    return network


def _select_pruner(package: Any) -> Any:
    """What Torch-Pruning must know of ``Select``: inputs and outputs are removed independently of each other."""

    class SelectPruner(package.BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: Select, idxs: list[int]) -> Select:
            layer.drop_outputs(list(idxs))
            return layer

        def prune_in_channels(self, layer: Select, idxs: list[int]) -> Select:
            layer.drop_inputs(list(idxs))
            return layer

        def get_out_channels(self, layer: Select) -> int:
            return layer.out_channels

        def get_in_channels(self, layer: Select) -> int:
            return layer.in_channels

    return SelectPruner()
