"""The whole line on real spoken digits: what a run leaves is true of sound, down to a wav file and NumPy."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch

from lwdc.costs import Macs
from lwdc.data import Fsdd
from lwdc.export import load, read_description, run_onnx, run_torch_export
from lwdc.pipeline import BackboneSettings, CostSettings, Settings, compress
from lwdc.training import Recipe

SCRIPT = Path(__file__).parents[2] / "experiments" / "classify_onnx" / "classify_clip.py"


@pytest.mark.needs("FSDD/recordings")
def test_spoken_digits_are_compressed_exported_and_classified_from_a_file(
    settings: Callable[..., Settings], data_root: Path, tmp_path: Path
) -> None:
    data = Fsdd(data_root, length=4000, shift=400, gain_db=3.0, limit_train=64)
    recipe = Recipe(1, 32, functools.partial(torch.optim.SGD, lr=0.05))
    given = settings(
        backbone=BackboneSettings("soundnet8", {"width": 0.5}), data=data, cost=CostSettings(Macs(), budget=0.6),
        train=recipe, search=recipe, finetune=recipe, formats=("safetensors", "torch_export", "onnx"),
    )  # fmt: skip
    result = compress(given, tmp_path, {})
    assert result is not None and result.after.macs <= 0.6 * result.before.macs
    assert [record.top1_agrees for record in result.exports] == [True] * 3

    description = read_description(tmp_path)
    assert description.deployment.preprocessing == data.preprocessing
    assert description.deployment.layout == "NCL" and description.deployment.input_size == (1, 4000)
    facts = json.loads((tmp_path / "model.json").read_text())["preprocessing"]
    assert facts["sample_rate"] == 8000 and facts["fit"] == "centre" and "interpolation" not in facts

    clips, labels = next(data.batches("test", 50))
    network = load(tmp_path)
    with torch.no_grad():
        expected = network(clips)
    for run in (run_onnx(tmp_path / "model.onnx"), run_torch_export(tmp_path / "model.pt2")):
        torch.testing.assert_close(run(clips), expected, rtol=0, atol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(end.name, end.shape) for end in session.get_inputs()] == [("signal", ["batch", 1, 4000])]
    program = torch.export.load(tmp_path / "model.pt2")
    assert program.graph_signature.user_inputs == ("signal",)

    # The first test clips are george's zeros: one shorter than the network's clips, one longer.
    for index in (0, 2):
        file = data_root / "FSDD" / "recordings" / f"{int(labels[index])}_george_{index}.wav"
        command = [sys.executable, str(SCRIPT), str(tmp_path / "model.onnx"), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        name, _, logits = done.stdout.partition(" [")
        torch.testing.assert_close(torch.tensor(json.loads(f"[{logits}")), expected[index], rtol=0, atol=1e-4)
        assert name == data.class_names[int(expected[index].argmax())]
