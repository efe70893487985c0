"""ONNX: the network as one file that other runtimes execute, with all that a deployer must know in it."""

import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lwdc.errors import ExportError
from lwdc.export.deployment import OPSET, Deployment, input_name
from lwdc.export.reason import reason_of
from lwdc.export.torch_export import forgetting, trace
from lwdc.export.verify import Run
from lwdc.files import replacing
from lwdc.tracing import Shape
from lwdc.translating import translate

# onnx and onnxruntime are imported where they are used: `import lwdc` need not wait for them.
if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx_ir import Graph

MOST_BYTES = 2**31 - 2**20  # of a protobuf message, with some room beside the weights


def to_onnx(network: nn.Module, path: Path | str, input_size: Shape, *, deployment: Deployment | None = None) -> None:
    """Write one ONNX file: input ``image`` or ``signal`` ``(batch, *input_size)``, output ``logits``, both float32.

    Its metadata holds ``deployment`` (``Deployment.to_text``). ``network`` is not changed. Raises
    ``ExportError`` if it cannot be traced or translated.
    """
    with forgetting():
        write_onnx(trace(network, input_size), path, deployment or Deployment(input_size))


def write_onnx(program: ExportedProgram, path: Path | str, deployment: Deployment) -> None:
    """Write a program that is traced already; it is not changed."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size > MOST_BYTES:
        raise ExportError(f"the weights take {size} bytes, an ONNX file holds {MOST_BYTES}; leave out format 'onnx'.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # onnxscript 0.6.0 says which rules it applied
            translated = translate(
                _with_plain_attention(program),
                input_names=[input_name(deployment.input_size)],
                output_names=["logits"],
                opset_version=OPSET,
            )
        _keep_constants(translated.model.graph)
    # The exporter raises errors of many kinds.
    except Exception as error:
        raise ExportError(
            f"torch.onnx cannot translate this network: {reason_of(error)}. Leave onnx out of export.formats."
        ) from error
    model = translated.model_proto
    _drop_exporter_notes(model)
    _name_batch_axis(model)
    _set_metadata(model, deployment)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _with_plain_attention(program: ExportedProgram) -> ExportedProgram:
    """Attention on other than four axes, which torch.onnx does not translate, as the products that it is."""
    fused = torch.ops.aten.scaled_dot_product_attention.default
    uses = [node for node in program.graph.nodes if node.target is fused]
    if all(node.args[0].meta["val"].dim() == 4 for node in uses):
        return program
    return program.run_decompositions({fused: _attention})


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """``torch.nn.functional.scaled_dot_product_attention`` without dropout or shared heads."""
    del dropout_p
    if enable_gqa:
        raise ExportError("attention with shared heads is translated on four axes only")
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def _keep_constants(graph: "Graph") -> None:
    """Register, in place, every constant that nodes read but the graph has lost.

    Two fusions of onnxscript may call what they make by one name, as when two clamps read one tensor, and the graph
    then holds only the later (https://github.com/microsoft/onnxscript/issues/2945); the node keeps the other's values.
    """
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and value.const_value is not None:
                graph.register_initializer(value)


def run_onnx(path: Path | str) -> Run:
    """The network in a file, executed by ONNX Runtime on the CPU, as a function of a batch.

    Raises ``ExportError`` if ONNX Runtime refuses the file: now and then torch.onnx writes what is no valid model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors have no class of their own in common.
    except Exception as error:
        name = Path(path).name
        reason = " ".join(str(error).replace(str(path), name).split()).rstrip(".")
        raise ExportError(f"ONNX Runtime refuses {name}: {reason}. Leave onnx out of export.formats.") from error

    name = session.get_inputs()[0].name

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {name: inputs.numpy()})[0])

    return run


def _drop_exporter_notes(model: "ModelProto") -> None:
    """Remove, in place, the exporter's notes for its developers: large, and naming this machine's folders."""
    graph = model.graph
    held = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    holders: list[Any] = [model, graph, *model.functions, *(item for items in held for item in items)]
    for holder in holders:
        del holder.metadata_props[:]


def _name_batch_axis(model: "ModelProto") -> None:
    """Call the first axis ``batch``, in place, wherever the exporter's own name for it stands."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert symbol, "the trace allows any batch size"
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{symbol}\b", "batch", axis.dim_param)


def _set_metadata(model: "ModelProto", deployment: Deployment) -> None:
    import onnx

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    onnx.helper.set_model_props(model, {**deployment.to_text(), "opset": str(opset)})
