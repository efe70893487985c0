"""Export: a network as files, each compared with the network before it counts."""

from lwdc.export.card import write_card
from lwdc.export.deployment import Deployment
from lwdc.export.description import Description, describe
from lwdc.export.formats import FORMATS, check_formats, export_all
from lwdc.export.hub import gather, push
from lwdc.export.int8 import INT8_FILE, to_int8
from lwdc.export.onnx import run_onnx, to_onnx
from lwdc.export.package import load, read_description, save
from lwdc.export.torch_export import run_torch_export, to_torch_export
from lwdc.export.verify import Comparison, verify

__all__ = [
    "FORMATS",
    "INT8_FILE",
    "Comparison",
    "Deployment",
    "Description",
    "check_formats",
    "describe",
    "export_all",
    "gather",
    "load",
    "push",
    "read_description",
    "run_onnx",
    "run_torch_export",
    "save",
    "to_int8",
    "to_onnx",
    "to_torch_export",
    "verify",
    "write_card",
]
