"""Determinism: kernels that give the same bits every time, for as long as a run lasts."""

import contextlib
import os
from collections.abc import Iterator

import torch

from lwdc.data.seeding import seeded
from lwdc.errors import TrainingError


@contextlib.contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Only deterministic algorithms, on any device; python's, numpy's and torch's CPU generators start from ``seed``.

    What was set before is put back after. cuBLAS learns of it by a variable of the environment, in time if this process
    has not used it yet. Raises ``TrainingError`` if PyTorch has an operation in no deterministic way.
    """
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    workspace = os.environ.get(_CUBLAS)  # noqa: TID251 - not a setting of ours: cuBLAS has no other
    try:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        os.environ.setdefault(_CUBLAS, ":4096:8")  # noqa: TID251
        with seeded(seed):
            yield
    except RuntimeError as error:
        if "eterministic" not in str(error):
            raise
        raise TrainingError(
            f"deterministic=true cannot be kept: {str(error).split('. ')[0]}. Say deterministic=false, or run on the "
            "CPU (compute=cpu)."
        ) from error
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if workspace is None:
            os.environ.pop(_CUBLAS, None)  # noqa: TID251


_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
