"""The demo keeps what the README promises: accuracy within a point of the baselines, at a third of the MACs."""

import csv
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = (0, 1, 2)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_demo_keeps_its_accuracy_over_three_seeds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lwdc.cli", "compress", "-m", f"seed={','.join(map(str, SEEDS))}"]
    done = subprocess.run([*command, "hydra.sweep.dir=demo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "demo" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["seed"]), row["status"]) for row in rows] == [(seed, "done") for seed in SEEDS]
    baseline, finetuned = (
        statistics.mean(float(row[f"test_{name}"]) for row in rows) for name in ("baseline", "finetuned")
    )
    assert finetuned >= baseline - 0.01
    for row in rows:
        assert int(row["macs_after"]) <= 0.33 * int(row["macs_before"])
        names = {path.name for path in Path(row["folder"]).iterdir()}
        assert names >= {"model.safetensors", "model.json", "model.pt2", "model.onnx", "summary.json"}
