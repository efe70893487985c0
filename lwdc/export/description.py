"""Description: what a package says of a network beside its weights, as plain data."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

import lwdc
from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.candidates import candidate_names, check, origin, parts
from lwdc.data import Preprocessing
from lwdc.errors import ExportError
from lwdc.export.deployment import Deployment
from lwdc.surgery import default_input_size
from lwdc.tracing import Shape, check_shape

FORMAT = 1

# Options of timm.create_model that fetch weights or run a pickle; a package brings its own weights.
_WEIGHT_SOURCES = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")


@dataclasses.dataclass(frozen=True)
class Description:
    """The network before compression, what replaced its layers, and how to use the result."""

    architecture: Architecture
    deployment: Deployment
    backbone: Backbone | None = None  # None: a network that timm does not know

    def to_dict(self) -> dict[str, Any]:
        """Json-ready data. Raises ``SpaceError`` for an unknown operator."""
        for candidate in self.architecture.choices.values():
            check(candidate)
        used = [used for candidate in self.architecture.choices.values() for used in (candidate, *parts(candidate))]
        operators = sorted({candidate["op"] for candidate in used})
        return {
            "format": FORMAT,
            "backbone": _backbone_data(self.backbone) if self.backbone else None,
            "backbone_module": self.backbone.origin() if self.backbone else None,  # which registers it
            **self.deployment.to_dict(),
            "architecture": self.architecture.to_dict(),
            "operators": {name: origin(name) for name in operators},  # and the module that registers it
        }

    @classmethod
    def from_dict(cls, data: Any) -> "Description":
        """The inverse of ``to_dict``. Raises ``ExportError``, with the reason, on anything else."""
        if not isinstance(data, dict) or "format" not in data:
            raise ExportError("it does not describe a package; export the network again.")
        if data["format"] != FORMAT:
            raise ExportError(
                f"it is in format {data['format']!r}, written by lwdc {data.get('lwdc_version', 'unknown')}; "
                f"this is lwdc {lwdc.__version__}, which reads format {FORMAT}. Use the version that wrote "
                "it, or export the network again."
            )
        try:
            backbone = None if data["backbone"] is None else _backbone(data["backbone"])
            if not all(isinstance(module, str) for module in (*data["operators"].values(), _backbone_module(data))):
                raise TypeError("modules are named by text")
            _check_registered(data["operators"], backbone, data.get("backbone_module"))
            return cls(Architecture.from_dict(data["architecture"]), Deployment.from_dict(data), backbone)
        except ExportError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ExportError(f"it is damaged ({reason}); export the network again.") from error


def describe(
    network: nn.Module,
    architecture: Architecture,
    *,
    backbone: Backbone | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    input_size: Shape | None = None,
) -> Description:
    """The description of ``network``, checked for contradictions, which are an ``ExportError``.

    ``input_size`` is ``(channels, height, width)`` or ``(channels, length)``; the default is the
    preprocessing's, else what a timm network was made for.
    """
    size = input_size
    if size is None:
        size = preprocessing.input_size if preprocessing else default_input_size(network)
    check_shape(size)
    names = None if class_names is None else tuple(str(name) for name in class_names)
    description = Description(architecture, Deployment(tuple(size), preprocessing, names), backbone)
    if backbone is None:
        return description
    if size[0] != backbone.in_chans:
        raise ExportError(f"inputs have {size[0]} channel(s), the backbone takes in_chans={backbone.in_chans}.")
    if names is not None and len(names) != backbone.num_classes:
        raise ExportError(
            f"there are {len(names)} class names for num_classes={backbone.num_classes}; give one a class."
        )
    try:
        json.dumps(_backbone_data(backbone))
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"the backbone's options {backbone.options} cannot be written to a package ({error}); use "
            "numbers, text and lists, or leave backbone out and give lwdc.load the fresh network."
        ) from error
    return description


def _backbone_data(backbone: Backbone) -> dict[str, Any]:
    options = {name: value for name, value in backbone.options.items() if name not in _WEIGHT_SOURCES}
    return dataclasses.asdict(dataclasses.replace(backbone, options=options))


def _backbone(data: dict[str, Any]) -> Backbone:
    backbone = Backbone(**data)
    if not isinstance(backbone.reparameterise, bool):
        raise TypeError(f"reparameterise is {backbone.reparameterise!r}")
    if sources := sorted(set(backbone.options) & set(_WEIGHT_SOURCES)):
        raise ExportError(
            f"its backbone has the options {sources}, which lwdc never writes, because they load other weights; "
            "do not trust it."
        )
    return backbone


def own_modules(data: Any) -> list[str]:
    """Of a description: the modules outside of lwdc and timm that have to be imported before the network is loaded."""
    named = {*data["operators"].values(), _backbone_module(data)}
    return sorted(module for module in named if _OWN.fullmatch(module))


def _backbone_module(data: Any) -> Any:
    """What registers the backbone; lwdc, where there is none to import."""
    return data.get("backbone_module") or lwdc.__name__


_OWN = re.compile(r"(?!(lwdc|timm)(\.|$)|__main__$)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def _check_registered(operators: dict[str, str], backbone: Backbone | None, module: str | None) -> None:
    """Raises ``ExportError`` for what no module has registered here, with all that is missing."""
    missing = {f"operator {name!r}": module for name, module in operators.items() if name not in candidate_names()}
    # Of a network that should come with timm, and of older packages, the error of its name says what there is.
    if backbone is not None and module is not None and module.partition(".")[0] != "timm" and not backbone.origin():
        missing[f"backbone {backbone.name!r}"] = module
    if not missing:
        return
    cures = []
    if any(module.partition(".")[0] == lwdc.__name__ for module in missing.values()):
        cures.append(f"a newer lwdc than this {lwdc.__version__} wrote it: update lwdc")
    if "__main__" in missing.values():
        cures.append("the script that saved the package registers it: do the same before loading")
    others = {module for module in missing.values() if module.partition(".")[0] not in (lwdc.__name__, "__main__")}
    if others:
        named = sorted(others)
        cures.append(
            f"import {' and '.join(named)} before loading, to register what is in there; on the command line by "
            f"trust={','.join(named)}"
        )
    are = "which is" if len(missing) == 1 else "which are"
    raise ExportError(f"the network uses {', '.join(missing)}, {are} unknown here; {'; '.join(cures)}.")
