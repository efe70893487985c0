"""Errors that people read: what was found, what is accepted, what to do."""

import difflib
from collections.abc import Iterable


class LwdcError(ValueError):
    """Base of every error that lwdc raises about its input; the command line prints it as one line."""


class SpaceError(LwdcError):
    """A search space, candidate or gate that cannot be used as asked."""


class ArchitectureError(LwdcError):
    """An architecture that does not fit the network it is replayed on."""


class BackboneError(LwdcError):
    """An unknown network, or weights that do not fit it."""


class DataError(LwdcError):
    """A data set that is missing, truncated or of the wrong shape."""


class CostError(LwdcError):
    """A cost, budget or factor that is malformed, or a budget that cannot be reached."""


class TrainingError(LwdcError):
    """Training that cannot go on, such as a loss that is not finite."""


class CheckpointError(LwdcError):
    """A checkpoint that is corrupted, foreign, or of another configuration."""


class ExportError(LwdcError):
    """An artefact that could not be written or does not compute what the network does."""


class WriteError(LwdcError):
    """A file that the file system refuses, as a full disk does."""


class Interrupted(LwdcError):
    """A run that was asked to stop and did, with everything saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Told(Interrupted):
    """An interruption of which the processes of the run have told."""


class Elsewhere(LwdcError):
    """An error of the first rank, which tells of it, on the other ones."""


class Refused(BaseException):
    """Carries one of our errors past a library that would print a traceback, or go on as if nothing had happened."""

    def __init__(self, error: LwdcError) -> None:
        super().__init__(str(error))
        self.error = error


OF_ONES_OWN = (  # what is registered by name: operators, networks of timm
    "One of your own is registered when its module is imported: by trust=my_package.module on the command line, or "
    "import it first."
)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line saying that ``name`` is no known ``kind``, with the nearest valid names first."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    listed = ", ".join(names) if len(names) <= 40 else f"{len(names)} names"
    return f"unknown {kind} {name!r}.{hint} Known: {listed}."
