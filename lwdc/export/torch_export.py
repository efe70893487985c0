"""torch.export: the network as one program, which PyTorch runs without the network's Python code."""

import contextlib
import io
import json
import linecache
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph_module import _loader

from lwdc.candidates.sampling import expand
from lwdc.errors import ExportError
from lwdc.export.deployment import Deployment, input_name
from lwdc.export.portable import portable
from lwdc.export.reason import reason_of
from lwdc.export.verify import Run
from lwdc.files import replacing
from lwdc.tracing import Shape, check_shape

METADATA = "deployment.json"  # the name under which the file holds it, for torch.export.load(extra_files=...)


def to_torch_export(
    network: nn.Module, path: Path | str, input_size: Shape, *, deployment: Deployment | None = None
) -> None:
    """Write a program for inputs ``(batch, *input_size)`` on the CPU in float32, called ``image`` or ``signal``.

    ``network`` is not changed. Raises ``ExportError`` if it cannot be traced, as when it looks at values.
    """
    with forgetting():
        write_program(trace(network, input_size), path, deployment or Deployment(input_size))


def write_program(program: ExportedProgram, path: Path | str, deployment: Deployment) -> None:
    """Write a program that is traced already."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: json.dumps(deployment.to_dict())})
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content.getbuffer())


def run_torch_export(path: Path | str) -> Run:
    """The program in a file, as a function of a batch."""
    return torch.export.load(path).module()


def trace(network: nn.Module, input_size: Shape) -> ExportedProgram:
    """The program of ``network`` in evaluation mode for any batch size. Raises ``ExportError``."""
    check_shape(input_size)
    named = _OfSignals if input_name(input_size) == "signal" else _OfImages
    module = named(expand(portable(network)))
    inputs = torch.zeros(2, *input_size)  # two, because an axis of 1 would be taken for a constant
    try:
        # Before it raises, torch.export prints graphs for its developers.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            program = torch.export.export(module, (inputs,), dynamic_shapes=({0: Dim("batch", min=1)},))
    # torch.export raises errors of many kinds, and whatever the network's own code raises.
    except Exception as error:
        raise ExportError(
            f"torch.export cannot trace this {type(network).__name__}: {reason_of(error)}. Leave "
            "torch_export and onnx out of export.formats; the safetensors package needs no trace."
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    _let_go(program)
    return program


def _let_go(program: ExportedProgram) -> None:
    """Break a circle that the garbage collector cannot see, by which every trace would stay in memory for good.

    The symbol of the batch size knows the input by whose shape it was found, and that shape, which PyTorch keeps
    outside of Python, holds the symbol. The list is read while a network is traced, and not again.
    """
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor) and value.fake_mode.shape_env is not None:
            value.fake_mode.shape_env.tracked_fakes = []


@contextlib.contextmanager
def forgetting() -> Iterator[None]:
    """PyTorch keeps the sources of every graph that it makes and the shapes of every trace, without bound: not here."""
    before = set(_loader.eval_cache)
    try:
        yield
    finally:
        for name in _loader.eval_cache.keys() - before:
            del _loader.eval_cache[name]
            linecache.cache.pop(name, None)
        _forget_shapes()


def _forget_shapes() -> None:
    for method in vars(ShapeEnv).values():
        while method is not None:
            if hasattr(method, "cache_clear"):
                method.cache_clear()
            method = getattr(method, "__wrapped__", None)


class _OfImages(nn.Module):
    """The network with an input called ``image``, whatever its own forward calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        if not isinstance(logits, Tensor):
            raise ExportError(f"it returns a {type(logits).__name__} instead of one tensor of logits")
        return logits


class _OfSignals(_OfImages):
    """The same with an input called ``signal``."""

    def forward(self, signal: Tensor) -> Tensor:
        return super().forward(signal)
