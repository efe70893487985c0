"""Checkpoints: the state of a run in one file that holds data and no code."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from lwdc.errors import CheckpointError
from lwdc.files import replacing

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
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}; nothing can be resumed there.") from error
    except Exception as error:  # damaged bytes may surface as anything
        line = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of lwdc ({line}). Delete it to start this run anew."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version of lwdc (expected {FORMAT!r}).")
    return state


def _check_sums(path: Path) -> None:
    # PyTorch writes checksums but does not look at them: damaged weights would pass.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"wrong checksum of {damaged}")
