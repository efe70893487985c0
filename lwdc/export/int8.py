"""int8: an ONNX file that computes in whole numbers of eight bits, calibrated on examples."""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lwdc.errors import ExportError
from lwdc.export.reason import reason_of
from lwdc.export.staging import staging
from lwdc.files import replacing

INT8_FILE = "model.int8.onnx"


def to_int8(source: Path, path: Path, batches: Iterable[Tensor]) -> None:
    """Quantise the ONNX file ``source`` by ONNX Runtime: weights per channel, activations by the ranges they take.

    ``batches`` are inputs ``(B, *input_size)``, float32 and normalised: training examples, some hundred in all, all at
    once in memory. Input and output stay float32, the metadata stays as it is. Raises ``ExportError`` if ONNX Runtime
    cannot do it.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    before = onnx.load(source)
    name = before.graph.input[0].name
    with staging(path.parent) as stage, replacing(path) as temporary:
        try:
            with _quiet():
                # Our exports say their shapes; inferring them once more is what older ONNX Runtimes fail at.
                quant_pre_process(str(source), str(stage / "prepared.onnx"), skip_symbolic_shape=True)
                quantize_static(
                    str(stage / "prepared.onnx"),
                    str(stage / "int8.onnx"),
                    _Batches({name: batch.cpu().numpy()} for batch in batches),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,  # with signed weights what x86 multiplies fastest
                    weight_type=QuantType.QInt8,
                )
        # ONNX Runtime raises errors of many kinds.
        except Exception as error:
            raise ExportError(
                f"ONNX Runtime cannot quantise this network: {reason_of(error)}. Leave export.int8 out."
            ) from error
        after = onnx.load(stage / "int8.onnx")
        onnx.helper.set_model_props(after, {entry.key: entry.value for entry in before.metadata_props})
        temporary.write_bytes(after.SerializeToString())


class _Batches:
    """Calibration inputs, as ONNX Runtime asks for them."""

    def __init__(self, inputs: Iterator[dict[str, Any]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice on how to call it, which is not for the user of a network."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
