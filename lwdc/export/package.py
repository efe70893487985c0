"""The package: weights in safetensors beside a json description, loaded with no pickle."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.data import Preprocessing
from lwdc.errors import ArchitectureError, BackboneError, ExportError, SpaceError
from lwdc.export.description import Description, describe, own_modules
from lwdc.export.portable import refuse_supernet
from lwdc.files import check_regular, read_bytes, read_json, replacing
from lwdc.surgery import check_names, rebuild
from lwdc.tensors import AtMost, untied
from lwdc.tracing import Shape, uncompiled

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_MOST = 16 << 20  # bytes of a description


def save(
    folder: Path | str,
    network: nn.Module,
    architecture: Architecture,
    *,
    backbone: Backbone | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    input_size: Shape | None = None,
) -> list[Path]:
    """Write ``model.safetensors`` and ``model.json``, from which ``load`` makes the network again.

    ``network`` is what ``discretise`` gave, trained or not, with its ``architecture``. Without a
    ``backbone``, ``load`` needs the network that was wrapped, with any weights. ``input_size`` is
    ``(channels, height, width)``, by default the preprocessing's or a timm network's own. Returns the
    files. Raises ``ExportError`` if the package could not be loaded again, ``ArchitectureError`` for sites that the
    network lacks, and then writes nothing.
    """
    network = uncompiled(network)
    refuse_supernet(network)
    check_names(architecture, dict(network.named_modules(remove_duplicate=False)))
    description = describe(
        network,
        architecture,
        backbone=backbone,
        preprocessing=preprocessing,
        class_names=class_names,
        input_size=input_size,
    )
    data = json.loads(json.dumps(description.to_dict()))  # what a reader will see: lists for tuples
    state = _tensors(network)
    if backbone is not None:
        _check_rebuilds(Description.from_dict(data), state)
    kept, tied = untied(state)
    weights_path, path = Path(folder) / WEIGHTS, Path(folder) / DESCRIPTION
    content = safetensors.torch.save(kept, metadata={"format": "pt"})
    with replacing(weights_path) as temporary:
        temporary.write_bytes(content)
    data["weights"] = {"file": WEIGHTS, "bytes": len(content), "sha256": _digest(content), "tied": tied}
    with replacing(path) as temporary:  # last: it holds the digest of the weights, so no other pair is a package
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return [weights_path, path]


def load(folder: Path | str, model: nn.Module | None = None) -> nn.Module:
    """The network of a package in evaluation mode, on the CPU or where ``model`` is.

    It computes bitwise what the saved one did, if that one's weights were contiguous. ``model`` is the
    network before compression, with any weights, for packages that name no timm network; it is not
    changed, nor is the random state. Raises ``ExportError`` for files that are missing, damaged or no
    pair, for an operator that is not registered, and for a ``model`` with other layers.
    """
    path = Path(folder) / DESCRIPTION
    data = _read(path)
    description = _parse(path, data)
    state = _read_weights(Path(folder) / WEIGHTS, data.get("weights"))
    # A description of a few bytes may name a network of any size; one that was compressed is in proportion.
    memory = (4 << 30) + 64 * sum(tensor.nbytes for tensor in state.values())
    try:
        with AtMost(memory):
            network = _rebuild(description, model)
    except ExportError:
        raise
    except Exception as error:  # a damaged description may fail anywhere
        raise ExportError(f"the network of {folder} cannot be built: {error}") from error
    if problems := _differences(state, network.state_dict()):
        given = "the model given" if model is not None else f"backbone {description.backbone}"
        raise ExportError(
            f"the weights in {folder} do not fit {given}: {problems}. Give the network that was compressed."
        )
    _take_dtypes(network, state)
    network.load_state_dict(state)
    return network.eval()


def read_description(folder: Path | str) -> Description:
    """What the package says of its network. Raises ``ExportError`` as ``load`` does; weights are not read."""
    path = Path(folder) / DESCRIPTION
    return _parse(path, _read(path))


def imports_of(folder: Path | str) -> str:
    """The lines of Python that import what registers a package's operators and backbone, if lwdc and timm do not."""
    path = Path(folder) / DESCRIPTION
    data = _read(path)
    _parse(path, data)
    return "".join(f"import {module}  # registers what the network is made of\n" for module in own_modules(data))


def _rebuild(description: Description, model: nn.Module | None) -> nn.Module:
    if model is None and description.backbone is None:
        raise ExportError(
            "the package names no timm network: give the one that was compressed, with any weights, "
            "as lwdc.load(folder, model=...)."
        )
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn only to be replaced
        if model is None:
            assert description.backbone is not None
            model = description.backbone.create()
        return rebuild(model, description.architecture, description.deployment.input_size)


def _check_rebuilds(description: Description, state: Mapping[str, Tensor]) -> None:
    try:
        network = _rebuild(description, None)
    except (ArchitectureError, BackboneError, SpaceError) as error:
        raise ExportError(f"the package could not be loaded again: {error}") from error
    if problems := _differences(state, network.state_dict()):
        raise ExportError(
            f"the package could not be loaded again: {description.backbone} with this architecture makes "
            f"another network ({problems}). Give the backbone and architecture that belong to this network."
        )


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ExportError(
                f"the network's state holds {name!r}, a {type(value).__name__}; a package takes tensors only."
            )
    return state


def _read(path: Path) -> Any:
    try:
        return read_json(path, _MOST)
    except FileNotFoundError as error:
        raise ExportError(
            f"{path} is missing; a package is a folder with {DESCRIPTION} and {WEIGHTS}, from lwdc.save."
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read ({error}); export the network again.") from error


def _parse(path: Path, data: Any) -> Description:
    try:
        return Description.from_dict(data)
    except ExportError as error:
        raise ExportError(f"{path} cannot be used: {error}") from error


def _read_weights(path: Path, expected: Any) -> dict[str, Tensor]:
    """The state dict. One read serves digest and tensors, so that no other file slips in between."""
    try:
        digest, size, tied = str(expected["sha256"]), int(expected["bytes"]), dict(expected["tied"])
        content = read_bytes(path, most=size) if check_regular(path) == size else b""
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExportError(f"{path.with_name(DESCRIPTION)} does not say what its weights are; export again.") from error
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read ({error.strerror}); a package has {DESCRIPTION} and {WEIGHTS}: copy both."
        ) from error
    if _digest(content) != digest:
        raise ExportError(
            f"{path} ({path.stat().st_size} bytes) is not the file that {DESCRIPTION} belongs to ({size} bytes, "
            f"sha256 {digest}): one is damaged or from another export. Copy both again, or export again."
        )
    try:
        state = safetensors.torch.load(content)
        return state | {name: state[kept] for name, kept in tied.items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path} cannot be read ({error}); export the network again.") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _take_dtypes(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Cast in place what was stored in another precision than the network is built in."""
    own = itertools.chain(
        network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    )
    for name, value in own:
        if name in state:
            value.data = value.data.to(state[name].dtype)


def _differences(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    kinds = {
        "missing": [name for name in own if name not in found],
        "left over": [name for name in found if name not in own],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in found and found[name].shape != own[name].shape
        ],
    }
    return "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in kinds.items() if names)


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
