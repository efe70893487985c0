"""int8: nearly the same outputs from a smaller file, with the same metadata, for any batch."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from lwdc.errors import ExportError
from lwdc.export import Deployment, run_onnx, to_int8, to_onnx
from lwdc.export.onnx import run_onnx as run

SIZE = (3, 16, 16)


class Small(nn.Sequential):
    def __init__(self, dims: int) -> None:
        conv, norm, pool = (
            (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d)
            if dims == 2
            else (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d)
        )
        super().__init__(
            conv(3, 16, 3, padding=1), norm(16), nn.ReLU(), conv(16, 32, 3, groups=4, stride=2), norm(32), nn.ReLU(),
            pool(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip


def batches(size: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return iter([torch.randn(32, *size, generator=generator) for _ in range(2)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    torch.manual_seed(0)
    to_onnx(Small(2).eval(), path, SIZE, deployment=Deployment(SIZE, class_names=tuple("abcdefghij")))
    return path


def test_outputs_are_near_those_in_float_for_any_batch(exported: Path, tmp_path: Path) -> None:
    to_int8(exported, tmp_path / "int8.onnx", batches(SIZE))
    before, after = run_onnx(exported), run_onnx(tmp_path / "int8.onnx")
    for batch in (1, 5):
        images = torch.randn(batch, *SIZE)
        wanted, found = before(images), after(images)
        difference = (wanted - found).norm() / wanted.norm()
        assert found.shape == wanted.shape and 0 < float(difference) < 0.05


def test_weights_are_whole_numbers_with_a_scale_a_channel(exported: Path, tmp_path: Path) -> None:
    to_int8(exported, tmp_path / "int8.onnx", batches(SIZE))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    kernels = {tuple(t.dims): t for t in graph.initializer if len(t.dims) == 4}
    assert set(kernels) == {(16, 3, 3, 3), (32, 4, 3, 3)}
    assert all(t.data_type == onnx.TensorProto.INT8 for t in kernels.values())
    scales = {t.name: tuple(t.dims) for t in graph.initializer if t.name.endswith("_scale") and t.dims}
    assert (16,) in scales.values() and (32,) in scales.values()


def test_the_metadata_stays(exported: Path, tmp_path: Path) -> None:
    to_int8(exported, tmp_path / "int8.onnx", batches(SIZE))
    said = [{e.key: e.value for e in onnx.load(p).metadata_props} for p in (exported, tmp_path / "int8.onnx")]
    assert said[0] == said[1] and "class_names" in said[0]


def test_sound_is_quantised_too(tmp_path: Path) -> None:
    to_onnx(Small(1).eval(), tmp_path / "model.onnx", (3, 64))
    to_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", batches((3, 64)))
    inputs = torch.randn(4, 3, 64)
    wanted, found = run(tmp_path / "model.onnx")(inputs), run(tmp_path / "int8.onnx")(inputs)
    assert float((wanted - found).norm() / wanted.norm()) < 0.05


def test_nothing_is_left_behind_where_it_fails(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"cannot quantise this network: .* Leave export\.int8 out"):
        to_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", iter([torch.zeros(2, 1, 4, 4)]))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
