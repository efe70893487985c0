"""Deployment: what whoever runs a network must know of its input and output, as plain data."""

import dataclasses
import json
from typing import Any

import lwdc
from lwdc.data import Preprocessing
from lwdc.errors import ExportError
from lwdc.tracing import Shape

OPSET = 18  # of the ONNX files that lwdc writes: the one that torch's exporter makes without converting


@dataclasses.dataclass(frozen=True)
class Deployment:
    """Shape and preparation of one input, and the names of the logits; None for what is not known."""

    input_size: Shape
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        made = self.preprocessing.input_size if self.preprocessing else self.input_size
        if tuple(made) != tuple(self.input_size):
            raise ExportError(
                f"preprocessing makes inputs of {tuple(made)}, but input_size is {tuple(self.input_size)}; "
                "give the one that the network was trained with."
            )

    @property
    def layout(self) -> str:
        """The order of the axes of a batch."""
        return "NCL" if len(self.input_size) == 2 else "NCHW"

    def to_dict(self) -> dict[str, Any]:
        """Json-ready data."""
        preparation = None
        if self.preprocessing is not None:
            fields = self.preprocessing.to_dict()
            preparation = {name: value for name, value in fields.items() if name != "input_size"}
        return {
            "lwdc_version": lwdc.__version__,
            "opset": OPSET,
            "input_shape": self.input_size,
            "layout": self.layout,
            "preprocessing": preparation,
            "class_names": self.class_names,
        }

    @classmethod
    def from_dict(cls, data: Any) -> "Deployment":
        """The inverse of ``to_dict``. Raises ``KeyError``, ``TypeError``, ``ValueError`` on anything else."""
        input_size = tuple(int(n) for n in data["input_shape"])
        preprocessing = None
        if data["preprocessing"] is not None:
            fields: dict[str, Any] = {k: _tuple(v) for k, v in data["preprocessing"].items()}
            preprocessing = Preprocessing(input_size, **fields)
        names = data["class_names"]
        return cls(input_size, preprocessing, None if names is None else tuple(names))

    def to_text(self) -> dict[str, str]:
        """One text a fact, for ONNX metadata: json, but words without quotes. The unknown is left out."""
        data = self.to_dict()
        preparation = data.pop("preprocessing") or {}
        facts = {name: value for name, value in data.items() if value is not None} | preparation
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def input_name(input_size: Shape) -> str:
    """What exported files call their input: ``image``, or ``signal`` where it has one axis beside channels."""
    return "signal" if len(input_size) == 2 else "image"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
