"""A small sweep to report on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwdc.files import locked

SETTINGS = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "compute=cpu", "compute.threads=1",
    "train.epochs=1", "strategy.epochs=2", "finetune.epochs=1", "export.formats=[safetensors]", "latency_batches=[1]",
    "cost.budget=0.6,0.8,0.001",
]  # fmt: skip


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that end, and one that is refused. Tests leave it unchanged."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sweep"
    done = folder.with_name("sweep.done")
    with locked(done):  # once for all processes that test
        if not done.exists():
            command = [sys.executable, "-m", "lwdc.cli", "compress", "-m", *SETTINGS, f"hydra.sweep.dir={folder}"]
            assert subprocess.run(command, capture_output=True, timeout=280, check=False).returncode == 2
            done.touch()
    return folder
