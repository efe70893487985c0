"""lwdc: layer-wise differentiable compression of PyTorch vision models."""

from lwdc.architecture import Architecture
from lwdc.surgery import discretise, rebuild, wrap

__version__ = "0.1.0"
__all__ = ["Architecture", "discretise", "rebuild", "wrap"]
