"""experiments/classify_onnx: an ONNX file can be used with neither PyTorch nor lwdc."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor, nn

from lwdc.data import ImageFolder
from lwdc.export import Deployment, to_onnx

SCRIPT = Path(__file__).parents[2] / "experiments" / "classify_onnx" / "classify.py"

WITHOUT_TORCH = (
    "import runpy, sys\n"
    "sys.modules['torch'] = sys.modules['lwdc'] = None\n"  # so that importing them fails
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def classify(model: Path, image: Path) -> tuple[str, Tensor]:
    """What the script prints: the class, and the logits."""
    command = [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT), str(model), str(image)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    name, _, logits = run.stdout.partition(" [")
    return name, torch.tensor(json.loads(f"[{logits}"))


def test_a_handwritten_digit(compressed: Any, exported: Any, tmp_path: Path) -> None:
    pixels = load_digits().images[42].astype(np.uint8)  # 0 to 16
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    images = compressed.preprocessing.normalise(torch.from_numpy(pixels)[None, None])
    expected = compressed.network(images)[0]
    name, logits = classify(exported[0] / "model.onnx", tmp_path / "digit.png")
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert name == compressed.class_names[int(expected.argmax())]


def test_a_photograph_is_resized_and_cropped_as_in_training(tmp_path: Path) -> None:
    data = ImageFolder(tmp_path, image_size=32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)).eval()
    deployment = Deployment((3, 32, 32), data.preprocessing, ("temple", "flower", "sea"))
    to_onnx(network, tmp_path / "model.onnx", (3, 32, 32), deployment=deployment)
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    photograph.save(tmp_path / "photograph.png")
    expected = network(data.transform(photograph)[None])[0]
    name, logits = classify(tmp_path / "model.onnx", tmp_path / "photograph.png")
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert name == ("temple", "flower", "sea")[int(expected.argmax())]
