"""A torch.export program runs without the network's code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwdc.errors import ExportError
from lwdc.export import Deployment, run_torch_export, to_torch_export


class Branching(nn.Module):
    """Looks at values, so that no one program describes it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)


@pytest.fixture
def file(exported: Any) -> Path:
    """The exported network."""
    return exported[0] / "model.pt2"


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_it_computes_what_the_network_does_at_any_batch_size(compressed: Any, file: Path, batch_size: int) -> None:
    images = torch.randn(batch_size, 1, 8, 8)
    torch.testing.assert_close(run_torch_export(file)(images), compressed.network(images), rtol=0, atol=1e-5)


def test_the_input_is_called_image_and_the_batch_may_be_1(file: Path) -> None:
    program = torch.export.load(file)
    assert program.graph_signature.user_inputs == ("image",)
    (bounds,) = program.range_constraints.values()
    assert bounds.lower <= 1 and bounds.upper > 1000


def test_the_file_holds_what_a_deployer_needs(compressed: Any, file: Path) -> None:
    extra = {"deployment.json": ""}
    torch.export.load(file, extra_files=extra)
    deployment = Deployment.from_dict(json.loads(extra["deployment.json"]))
    assert deployment.preprocessing == compressed.preprocessing
    assert deployment.class_names == compressed.class_names


def test_the_file_does_not_tell_where_it_was_made(file: Path) -> None:
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()


def test_training_mode_and_precision_of_the_network_are_left_alone(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    to_torch_export(network, tmp_path / "model.pt2", (2, 2, 2))
    assert network.training and network[2].weight.dtype == torch.float64
    images = torch.randn(3, 2, 2, 2)
    expected = network.eval()(images.double()).float()
    torch.testing.assert_close(run_torch_export(tmp_path / "model.pt2")(images), expected)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching(), "Branching"),
        (Pair(), "returns a tuple instead of one tensor"),
        (FixedBatch(), "FixedBatch"),
    ],
)
def test_what_cannot_be_traced_is_refused_and_leaves_no_file(tmp_path: Path, network: nn.Module, reason: str) -> None:
    with pytest.raises(ExportError, match=rf"torch\.export cannot trace .*{reason}.* out of export\.formats"):
        to_torch_export(network, tmp_path / "model.pt2", (1, 2, 2))
    assert not list(tmp_path.iterdir())
