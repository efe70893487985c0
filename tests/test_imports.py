"""Imports: which way they run, and what `import lwdc` leaves alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import lwdc

ROOT = Path(__file__).parents[1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, run in the repository."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_imports_run_downwards_and_only_cli_and_tracking_know_hydra_and_wandb() -> None:
    done = python("-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


# None makes an import fail. They are not merely looked for afterwards, since timm loads wandb if it can.
FRESH = """
import sys
sys.modules.update(dict.fromkeys(["hydra", "omegaconf", "wandb"]))
import lwdc
assert "torch" not in sys.modules
assert callable(lwdc.gates.OneHot)
assert set(lwdc.__all__) <= set(dir(lwdc))
lwdc.wrap, lwdc.strategies.Holding
print("when they are asked for")
from lwdc import *
import lwdc.tracking
print("without hydra and wandb")
"""


@pytest.fixture(scope="module")
def fresh() -> subprocess.CompletedProcess[str]:
    """One interpreter for several claims: it takes seconds to import PyTorch."""
    return python("-c", FRESH)


def test_importing_lwdc_needs_neither_hydra_nor_wandb(fresh: subprocess.CompletedProcess[str]) -> None:
    assert fresh.returncode == 0 and "without hydra and wandb" in fresh.stdout, fresh.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--version"], 0),
        (["compress", "--help"], 0),
        (["compess"], 2),
        (["compress", "gate=one_hut"], 2),
        (["compress", "trian.epochs=3"], 1),
        (["compress", "experiment=cifar10_resnet20", "--cfg", "job"], 0),
    ],
)
def test_what_needs_no_network_is_answered_without_pytorch(arguments: list[str], code: int) -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(['torch', 'timm']))"
    done = python("-c", f"{hide}; sys.argv[0] = 'lwdc'; from lwdc.cli import main; main()", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_public_names_and_modules_are_loaded_when_they_are_asked_for(fresh: subprocess.CompletedProcess[str]) -> None:
    assert "when they are asked for" in fresh.stdout, fresh.stderr
    for name in lwdc.__all__:
        found = getattr(lwdc, name)
        assert found.__name__ == name and found is getattr(sys.modules[found.__module__], name)
    for name in ("wrapp", "_secret", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'lwdc' has no attribute '{name}'"):
            getattr(lwdc, name)
