"""Small compressed networks to be exported."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.data import Digits, Preprocessing
from lwdc.export import export_all
from lwdc.records import ExportRecord
from lwdc.surgery import rebuild

CHOICES = {
    "layer1.0.conv1": {"op": "grouped", "groups": 4},
    "layer2.0.conv1": {"op": "separable"},
    "layer2.0.conv2": {"op": "skip"},
    "layer3.0.conv1": {"op": "original"},
    "layer3.0.conv2": {"op": "low_rank", "ratio": 0.25},
}


@dataclasses.dataclass(frozen=True)
class Compressed:
    """What a run hands over to the export; tests leave it unchanged."""

    network: nn.Module
    architecture: Architecture
    backbone: Backbone
    preprocessing: Preprocessing
    class_names: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """The keyword arguments of ``save`` and ``export_all``."""
        return {
            "backbone": self.backbone,
            "preprocessing": self.preprocessing,
            "class_names": self.class_names,
        }


@pytest.fixture(scope="session")
def compressed() -> Compressed:
    """A CIFAR ResNet-8 for grey digits, with batch-norm statistics and logits of a usual size."""
    backbone = Backbone("cifar_resnet8", num_classes=10, in_chans=1)
    architecture = Architecture(CHOICES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = rebuild(backbone.create(), architecture, (1, 8, 8))
        _settle(network, (1, 8, 8))
    return Compressed(network, architecture, backbone, Digits().preprocessing, Digits.class_names)


@pytest.fixture(scope="session")
def exported(compressed: Compressed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[ExportRecord, ...]]:
    """A folder with ``compressed`` in every format, and the records of it."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    return folder, export_all(folder, compressed.network, compressed.architecture, **compressed.facts)


@pytest.fixture
def settle() -> Callable[[nn.Module, tuple[int, ...]], None]:
    """``_settle``, for networks of a test's own."""
    return _settle


def _settle(network: nn.Module, input_size: tuple[int, ...]) -> None:
    """Give batch norms statistics, and logits a deviation of 1, in place; leaves evaluation mode."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, *input_size))
        network.eval()
        classifier = network.get_classifier()  # type: ignore[operator]
        classifier.weight /= network(torch.randn(64, *input_size)).std()
