"""A small sweep to report on."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from lwdc import cli
from lwdc.files import locked

SETTINGS = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "data.limit_train=320", "compute=cpu",
    "compute.threads=1", "train.epochs=1", "strategy.epochs=2", "finetune.epochs=1", "export.formats=[safetensors]",
    "latency_batches=[1]", "cost.budget=0.6,0.8,0.001",
]  # fmt: skip


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that end, and one that is refused. Tests leave it unchanged."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sweep"
    done = folder.with_name("sweep.done")
    with locked(done):  # once for all processes that test
        if not done.exists():
            _sweep(folder)
            done.touch()
    return folder


def _sweep(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.delenv("LWDC_DEBUG", raising=False)
        patch.setattr(sys, "argv", ["lwdc", "compress", "-m", *SETTINGS, f"hydra.sweep.dir={folder}"])
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
            cli.main()
    GlobalHydra.instance().clear()
    assert end.value.code == 2, said.getvalue()
