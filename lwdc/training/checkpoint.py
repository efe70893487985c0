"""Checkpoints: the state of a run in one file that holds data and no code."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from lwdc.errors import CheckpointError
from lwdc.files import check_regular, replacing
from lwdc.tensors import load_torch

FORMAT = "lwdc-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, text, lists and dicts of them), whole or not at all."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, onto the CPU. Raises ``CheckpointError`` for anything else."""
    try:
        state = load_torch(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}; nothing can be resumed there.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of lwdc ({error}). Delete it to start this run anew."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version of lwdc (expected {FORMAT!r}).")
    return state


def load_tensors(module: nn.Module, path: Path) -> None:
    """Load the weights that a phase of a run left, safetensors, in place. Raises ``CheckpointError``."""
    try:
        check_regular(path)
        module.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:  # damaged bytes may surface as anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} does not hold the weights of this run ({reason}): it is damaged or another's."
        ) from error
