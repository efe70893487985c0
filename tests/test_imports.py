"""Imports: which way they run, and what `import lwdc` leaves alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, run in the repository."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_imports_run_downwards_and_only_cli_and_tracking_know_hydra_and_wandb() -> None:
    done = python("-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_lwdc_needs_neither_hydra_nor_wandb() -> None:
    # None makes an import fail. They are not merely looked for afterwards, since timm loads wandb if it can.
    hide = "import sys; sys.modules.update(dict.fromkeys(['hydra', 'omegaconf', 'wandb']))"
    done = python("-c", f"{hide}; import lwdc, lwdc.tracking")
    assert done.returncode == 0, done.stderr
