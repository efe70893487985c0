"""Tensors: read from files that torch wrote, as data and never as code, and made in no more memory than allowed."""

import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lwdc.files import check_regular

_MOST_PICKLED = 16 << 20  # bytes that describe the tensors
# What may be called for: tensors and plain containers. Others that ``weights_only`` lets through, such as bytearray,
# take a size from the file and allocate it.
_NAMED = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|(__builtin__|builtins) (set|dict|list|int|float)|_codecs encode"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch (\w+Storage|Size|device|u?int\d+|b?float\w*|double|half|long|short|bool|complex\d+)"
    r"|torch Tensor|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Buffer"
    r"|torch\.storage (Typed|Untyped)Storage|torch\.serialization _get_layout|torch\.nn\.parameter Parameter"
)


def load_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, on the CPU: tensors, numbers, text and containers of them.

    Raises ``FileNotFoundError``, and for anything else than such a file a ``ValueError`` that says why; nothing in it
    is run, and it takes no more memory than it has bytes.
    """
    try:
        size = check_regular(path)
        with path.open("rb") as file:  # told apart as torch does, by the first bytes
            archived = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if not archived:
                _check_pickles(file)
        if archived:
            _check_archive(path, size)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes may surface as anything
        raise ValueError((str(error).strip() or type(error).__name__).splitlines()[0][:200]) from error


def _check_archive(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # PyTorch never compresses, so that no entry is more than its part of the file.
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise ValueError("it is compressed or encrypted, as torch never writes")
        names = {entry.filename.lower() for entry in entries}
        if len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries overlap")
        # PyTorch writes checksums but does not look at them: damaged weights would pass.
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"wrong checksum of {damaged}, or it was written without checksums")
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):  # torch finds them whatever their case
                if entry.file_size > _MOST_PICKLED:
                    raise ValueError(
                        f"{entry.filename} has {entry.file_size:,} bytes, {_MOST_PICKLED:,} at most are read"
                    )
                _check_names(pickletools.genops(archive.read(entry)))


def _check_pickles(file: BinaryIO) -> None:
    """The format before zip archives: five pickles, then the bytes of the tensors."""
    for _ in range(5):
        _check_names(pickletools.genops(file))
        if file.tell() > _MOST_PICKLED:
            raise ValueError(f"it has more than {_MOST_PICKLED:,} bytes before its tensors")


def _check_names(operations: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> None:
    for operation, argument, place in operations:
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"it holds {operation.name} at byte {place}, as torch never writes")
        if operation.name == "GLOBAL" and not _NAMED.fullmatch(argument):
            raise ValueError(f"it asks for {argument.replace(' ', '.')}, which may be code and is refused")


class AtMost(TorchDispatchMode):
    """While it is entered, tensors made on the CPU may have ``most`` bytes in all; beyond that a ``ValueError``.

    Each counts as 64 KiB at least, so that a million small ones are refused, too.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = self.left = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.device.type == "cpu" and not func._schema.returns[0].alias_info:
            self.left -= max(made.nbytes, 1 << 16)  # of a fresh tensor, which the system has not filled yet
            if self.left < 0:
                raise ValueError(f"it would take more than {self.most / 2**30:.1f} GiB of memory")
        return made


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous copies on the CPU, each shared tensor once, and which further names stand for which."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        memory = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and memory in seen:
            tied[name] = seen[memory]
            continue
        seen[memory] = name
        # A copy, because safetensors refuses tensors that are views of one memory.
        kept[name] = value.detach().to("cpu", copy=True).contiguous()
    return kept, tied
