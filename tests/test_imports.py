"""Imports: which way they run, and what `import lwdc` leaves alone."""

import json
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


ANSWERED = [
    ([], 0),
    (["--version"], 0),
    (["compress", "--help"], 0),
    (["compess"], 2),
    (["compress", "gate=one_hut"], 2),
    (["compress", "trian.epochs=3"], 2),
    (["compress", "experiment=cifar10_resnet20", "--cfg", "job"], 0),
]

WITHOUT_PYTORCH = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(["torch", "timm"]))
from hydra.core.global_hydra import GlobalHydra
from lwdc.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lwdc", *arguments]
    GlobalHydra.instance().clear()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, said.getvalue()]))
"""


def test_what_needs_no_network_is_answered_without_pytorch() -> None:
    done = python("-c", WITHOUT_PYTORCH, json.dumps([arguments for arguments, _ in ANSWERED]))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _ in answers] == [code for _, code in ANSWERED], answers
    assert not [said for _, said in answers if "Traceback" in said]


def test_public_names_and_modules_are_loaded_when_they_are_asked_for(fresh: subprocess.CompletedProcess[str]) -> None:
    assert "when they are asked for" in fresh.stdout, fresh.stderr
    for name in lwdc.__all__:
        found = getattr(lwdc, name)
        assert found.__name__ == name and found is getattr(sys.modules[found.__module__], name)
    for name in ("wrapp", "_secret", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'lwdc' has no attribute '{name}'"):
            getattr(lwdc, name)
