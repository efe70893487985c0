"""Telling: which of a run's processes speaks, what it says of an error, and the exit status that this means."""

import os
import sys

from lwdc.errors import DataError, Elsewhere, Interrupted, LwdcError, Told

_LAUNCHERS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "JSM_NAMESPACE_RANK")  # by which they tell a process its rank


def rank_here() -> int:
    """Of this process among those of its run, as whoever started it says."""
    if "lightning_fabric" not in sys.modules and not any(name in os.environ for name in _LAUNCHERS):
        return 0
    from lightning_fabric.utilities import rank_zero_only  # slow to import

    return int(getattr(rank_zero_only, "rank", 0))


def tell(error: LwdcError) -> int:
    """Say on one line what went wrong, if that is for this process to say; returns the exit status."""
    if os.environ.get("LWDC_DEBUG") == "1":
        raise error
    if isinstance(error, Elsewhere):
        return 0 if rank_here() else 2
    if isinstance(error, Told):
        return 128 + error.signal_number
    # Errors are every rank's and told by the first, whose code is the run's; those of data may be one machine's alone.
    if rank_here() and not isinstance(error, DataError):
        return 0
    said = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))  # of names in a stranger's file
    print(f"error: {said}", file=sys.stderr)
    return 128 + error.signal_number if isinstance(error, Interrupted) else 2
