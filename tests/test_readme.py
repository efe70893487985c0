"""README.md: its Python works as it stands."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import lwdc
from lwdc.backbones import Backbone
from lwdc.data import Digits
from lwdc.export import Deployment, export_all, to_onnx

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text()


def block(containing: str, page: str = PAGE) -> str:
    """The Python block of the page that holds a word."""
    found = [text for text in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if containing in text]
    assert len(found) == 1
    return found[0]


def test_the_training_loop_leaves_a_package_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = block("lwdc.wrap").replace("224", "32")
    model = timm.create_model("test_resnet", num_classes=10)
    loader = [(torch.randn(4, 3, 32, 32), torch.randint(10, (4,))) for _ in range(3)]
    scope = {"torch": torch, "model": model, "loader": loader, "criterion": nn.CrossEntropyLoss()}
    exec(code, scope)
    images = torch.randn(2, 3, 32, 32)
    network = scope["network"].eval()
    torch.testing.assert_close(lwdc.load("small", model=model)(images), network(images))


def test_the_loop_under_a_budget_leaves_a_network_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = block("Holding", (ROOT / "docs" / "loop.md").read_text()).replace("224", "8")
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 16, 3), nn.Conv2d(16, 16, 3, padding=1),
        nn.Flatten(), nn.Linear(256, 3),
    )  # fmt: skip
    loader = [(torch.randn(8, 3, 8, 8), torch.randint(3, (8,))) for _ in range(10)]
    scope: dict[str, Any] = {"torch": torch, "model": model, "loader": loader, "criterion": nn.CrossEntropyLoss()}
    exec(code, scope)
    assert scope["table"].of(scope["architecture"]) <= scope["bound"]
    assert [record.file for record in scope["files"]] == ["model.safetensors", "model.pt2", "model.onnx"]
    images, network = torch.randn(2, 3, 8, 8), scope["network"].eval()
    torch.testing.assert_close(lwdc.load("small", model=model)(images), network(images))


def test_the_onnx_snippet_names_the_class_that_the_network_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Digits()
    data.prepare(torch.device("cpu"))
    backbone = Backbone("cifar_resnet8", 10, 1)
    network = backbone.create().eval()
    export_all(
        tmp_path, network, lwdc.Architecture({}), formats=("onnx",), backbone=backbone,
        preprocessing=data.preprocessing, class_names=data.class_names, input_size=data.input_size,
    )  # fmt: skip
    images, _ = next(iter(data.batches("test", 1)))
    facts = data.preprocessing
    pixels = images[0, 0] * facts.std[0] + facts.mean[0]
    Image.fromarray(np.round(pixels.numpy() / facts.scale).astype(np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    exec(block("onnxruntime"), {})
    assert capsys.readouterr().out.strip() == data.class_names[int(network(images).argmax())]


def test_an_ordinary_picture_of_a_digit_is_classified_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "take `1 / 255` in place of `scale`" in PAGE
    data = Digits()
    data.prepare(torch.device("cpu"))
    network = Backbone("cifar_resnet8", 10, 1).create().eval()
    deployment = Deployment((1, 8, 8), data.preprocessing, data.class_names)
    to_onnx(network, tmp_path / "model.onnx", (1, 8, 8), deployment=deployment)
    images, _ = next(iter(data.batches("test", 1)))
    pixels = images[0, 0] * data.preprocessing.std[0] + data.preprocessing.mean[0]
    Image.fromarray(np.round(pixels.numpy() * 255).astype(np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, np.ndarray] = {}
    exec(block("onnxruntime").replace("pixels * scale", "pixels * (1 / 255)"), scope)
    torch.testing.assert_close(torch.from_numpy(scope["logits"]), network(images)[0], rtol=0, atol=0.05)


def test_the_folders_that_the_page_names_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert link.startswith("http") or (ROOT / link).exists(), link
