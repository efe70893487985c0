"""An ONNX file is complete: it runs at any batch size and says what it needs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lwdc
from lwdc.errors import ExportError
from lwdc.export import onnx as module
from lwdc.export import run_onnx, to_onnx, verify


@pytest.fixture
def file(exported: Any) -> Path:
    """The exported network."""
    return exported[0] / "model.onnx"


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_it_computes_what_the_network_does_at_any_batch_size(compressed: Any, file: Path, batch_size: int) -> None:
    images = torch.randn(batch_size, 1, 8, 8)
    torch.testing.assert_close(run_onnx(file)(images), compressed.network(images), rtol=0, atol=1e-4)


def test_input_output_and_batch_axis_are_named(file: Path) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    ends = [(end.name, end.shape, end.type) for end in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [
        ("image", ["batch", 1, 8, 8], "tensor(float)"),
        ("logits", ["batch", 10], "tensor(float)"),
    ]


def test_the_metadata_hold_what_a_deployer_needs(compressed: Any, file: Path) -> None:
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    preprocessing = compressed.preprocessing
    assert json.loads(facts["input_shape"]) == [1, 8, 8] and facts["layout"] == "NCHW"
    assert facts["channel_order"] == "L" and json.loads(facts["scale"]) == 1 / 16
    assert json.loads(facts["mean"]) == list(preprocessing.mean)
    assert json.loads(facts["std"]) == list(preprocessing.std)
    assert facts["resize"] == facts["crop"] == "null" and facts["interpolation"] == "bilinear"
    assert json.loads(facts["class_names"]) == list("0123456789")
    assert facts["lwdc_version"] == lwdc.__version__
    assert int(facts["opset"]) == onnx.load(file).opset_import[0].version


def test_the_file_is_valid_and_stands_alone(file: Path) -> None:
    onnx.checker.check_model(file, full_check=True)
    tensors = onnx.load(file, load_external_data=False).graph.initializer
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in tensors)


def test_the_file_does_not_tell_where_it_was_made(file: Path) -> None:
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3))
    to_onnx(network, tmp_path / "model.onnx", (2, 2, 2))
    run_onnx(tmp_path / "model.onnx")(torch.zeros(1, 2, 2, 2))
    assert capfd.readouterr() == ("", "")
    assert network.training


def test_a_network_that_onnx_cannot_express_is_refused(tmp_path: Path) -> None:
    class Complex(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x[:, 0]).real

    with pytest.raises(ExportError, match=r"torch\.onnx cannot translate this network: .* out of export\.formats"):
        to_onnx(Complex(), tmp_path / "model.onnx", (1, 3, 3))
    assert not list(tmp_path.iterdir())


def test_a_file_that_onnx_runtime_refuses_is_an_error_that_says_why(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    model.graph.node[0].input[0] = "computed_by_nothing"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"refuses model\.onnx: .*computed_by_nothing.* out of export") as caught:
        run_onnx(tmp_path / "model.onnx")
    assert str(tmp_path) not in str(caught.value)


def test_weights_beyond_what_a_file_holds_are_refused(
    compressed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(ExportError, match=r"the weights take \d+ bytes, an ONNX file holds 1000"):
        to_onnx(compressed.network, tmp_path / "model.onnx", (1, 8, 8))


def test_images_go_in_as_numpy_has_them(file: Path) -> None:
    images = torch.randn(8, 8, 1, 2).permute(3, 2, 0, 1)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"image": np.ascontiguousarray(images.numpy())})[0]
    np.testing.assert_allclose(run_onnx(file)(images), expected, rtol=0, atol=1e-6)


class Blocked(nn.Module):
    """Attention within blocks, on five axes, as nest has it."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        keep = torch.ones(4, 4).tril().bool()
        masks = {"bool": keep, "added": torch.where(keep, 0.0, -3.0)}
        self.register_buffer("mask", masks.get(mask))
        self.causal = mask == "causal"

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(x.shape[0], 2, 4, 4, 8)  # (batch, heads, blocks, tokens, channels)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, is_causal=self.causal).flatten(
            1
        )


@pytest.mark.parametrize("mask", ["none", "bool", "added", "causal"])
def test_attention_on_five_axes_is_translated(mask: str, tmp_path: Path) -> None:
    network = Blocked(mask).eval()
    to_onnx(network, tmp_path / "model.onnx", (4, 8, 8))
    comparison = verify(network, run_onnx(tmp_path / "model.onnx"), (4, 8, 8))
    assert comparison.max_difference <= comparison.tolerance


class Clamped(nn.Module):
    """One tensor within three ranges, each held in the weights, as gemma4_vit's projections read theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = nn.ParameterList(torch.tensor(bound) for bound in (0.3, 0.8, 1.3))

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x.flatten(1)
        return torch.cat([x.clamp(-bound, bound) for bound in self.bounds], 1)


def test_constants_called_by_one_name_are_all_kept(tmp_path: Path) -> None:
    network = Clamped().eval()
    to_onnx(network, tmp_path / "model.onnx", (1, 2, 2))
    comparison = verify(network, run_onnx(tmp_path / "model.onnx"), (1, 2, 2))
    assert comparison.max_difference <= comparison.tolerance
