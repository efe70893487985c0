"""Loading the weights of a file into a network: all of them, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from lwdc.errors import BackboneError
from lwdc.tensors import load_torch

# Where training scripts keep the state dict in a checkpoint; averaged weights first, being meant for use.
CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
)

# What wrappers put before every key: DataParallel and DDP, torch.compile, Lightning modules.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.")

State = dict[str, Tensor]


def load_weights(model: nn.Module, path: Path | str) -> list[str]:
    """Loads a state dict in place; returns notes on what it did not fill or had to choose.

    The file is safetensors, or a torch file of tensors, possibly inside a checkpoint and with the usual
    prefixes. A classifier (as the model's ``pretrained_cfg`` names it) for another number of classes is left
    as it is, with a note. Any other difference in keys or shapes is a ``BackboneError`` and changes nothing.
    """
    path = Path(path)
    found, notes = _unwrap(_read(path), path)
    own = model.state_dict()
    found = _strip_prefixes(found, own)
    for classifier in _classifiers(model):
        if classes := _other_classes(found, own, classifier):
            found |= {key: own[key] for key in own if key.startswith(f"{classifier}.")}
            notes.append(
                f"{path.name} has {classes[0]} classes, the network {classes[1]}: "
                f"its classifier {classifier!r} starts from fresh weights."
            )
    # Files older than this counter lack it, and nothing at inference depends on it.
    found = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | found
    if problems := _differences(found, own):
        raise BackboneError(
            f"{path} does not fit this network: {'; '.join(problems)}. "
            "Choose the backbone, options and input channels that the file was made with."
        )
    model.load_state_dict(found)
    return notes


def _read(path: Path) -> Any:
    if not path.is_file():
        raise BackboneError(f"no weights at {path}; give a safetensors or torch file.")
    if path.suffix != ".safetensors":
        try:
            return load_torch(path)
        except (OSError, ValueError) as error:
            raise BackboneError(
                f"{path} is not a plain file of tensors ({error}): it is damaged, or a pickle, which may run code when "
                "loaded and is refused. Convert it to safetensors where it came from, with "
                "safetensors.torch.save_file(model.state_dict(), FILE)."
            ) from error
    try:
        return safetensors.torch.load_file(path)
    # safetensors raises whatever a header that lies makes it stumble over.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"{path} cannot be read ({reason}); it may be truncated: fetch it again.") from error


def _unwrap(content: Any, path: Path) -> tuple[State, list[str]]:
    notes = []
    while isinstance(content, Mapping):
        inside = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
        if not inside:
            break
        if len(inside) > 1:
            notes.append(f"{path.name} holds {' and '.join(inside)}: {inside[0]!r} is used.")
        content = content[inside[0]]
    if not isinstance(content, Mapping) or not content:
        raise BackboneError(f"{path} holds {type(content).__name__}, not a state dict (names to tensors).")
    strangers = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise BackboneError(
            f"{path} holds entries that are no tensors ({_few(strangers)}); save the state dict alone, "
            f"or under one of {', '.join(CONTAINERS)}."
        )
    return {str(key): value for key, value in content.items()}, notes


def _strip_prefixes(found: State, own: State) -> State:
    # A compiled submodule puts torch.compile's prefix in the middle of a key.
    found = {key.replace("_orig_mod.", ""): value for key, value in found.items()}
    if "n_averaged" not in own:
        found.pop("n_averaged", None)  # the counter of torch's AveragedModel
    while not found.keys() & own.keys():
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _other_classes(found: State, own: State, classifier: str) -> tuple[int, int] | None:
    """Classes in the file and in the network, if they differ and nothing else about the classifier does."""
    keys = [f"{classifier}.{name}" for name in ("weight", "bias") if f"{classifier}.{name}" in own]
    if not keys or any(key not in found or found[key].shape[1:] != own[key].shape[1:] for key in keys):
        return None
    counts = {(found[key].shape[0], own[key].shape[0]) for key in keys}
    theirs, ours = counts.pop()
    return (theirs, ours) if not counts and theirs != ours else None


def _differences(found: State, own: State) -> list[str]:
    missing = [key for key in own if key not in found]
    unexpected = [key for key in found if key not in own]
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in found and found[key].shape != own[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [f"{len(keys)} {kind} ({_few(keys)})" for kind, keys in kinds.items() if keys]


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
