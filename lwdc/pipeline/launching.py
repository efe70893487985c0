"""Launching: the processes of one run on this machine, through PyTorch's own launcher, as torchrun does."""

import logging
import sys
import tempfile
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(processes: int, module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m module`` with the arguments in so many processes that are the ranks of one run.

    Returns the exit code of the first rank, or if it had no error, that of another. If a process fails the others
    are stopped; so are all by a signal to this one, which gives them half a minute to save what they have.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes speak for themselves
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=logs),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except SignalException as stop:
            return 128 + int(stop.sigval)
        except ChildFailedError as error:
            failure = error.failures.get(0) or error.get_first_failure()[1]
            return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    return 0
