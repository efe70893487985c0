"""Checkpoints: the state of a run in one file that holds data and no code."""

import io
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lwdc.errors import CheckpointError
from lwdc.files import check_regular, replacing
from lwdc.tensors import load_torch

FORMAT = "lwdc-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, text, lists and dicts of them), whole or not at all.

    It is in memory once more meanwhile. Raises ``WriteError`` if the disk is full.
    """
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights that a phase of a run left, safetensors. Raises ``CheckpointError``."""
    try:
        check_regular(path)
        return safetensors.torch.load_file(path)
    except Exception as error:  # damaged bytes may surface as anything
        raise _no_weights_of(path, error) from error


def put_tensors(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into their network, in place. Raises ``CheckpointError`` if they are another's."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _no_weights_of(path, error) from error


def _no_weights_of(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path} does not hold the weights of this run ({reason}): it is damaged or another's.")
