"""Images: the figures of a page as SVG and PNG files, for papers."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lwdc.errors import LwdcError
from lwdc.files import replacing
from lwdc.report import prints
from lwdc.report.runs import ReadRun

SCALES = {"svg": 1.0, "png": 300 / 96}  # of the pixels of a figure: PNG files have 300 to the inch


def write_images(runs: Sequence[ReadRun], folder: Path) -> list[Path]:
    """Write every figure of the runs' page into ``folder``, as SVG and as PNG; returns the files.

    Each is written whole or not at all, once all are drawn. Nothing is fetched from anywhere. Raises
    ``LwdcError`` where kaleido or a browser is missing, or does not work.
    """
    found = prints.of_runs(runs)
    written = []
    with tempfile.TemporaryDirectory() as drawn:
        jobs = [
            {"fig": figure, "path": Path(drawn) / f"{name}.{kind}", "opts": {"format": kind, "scale": scale}}
            for name, figure in found.items()
            for kind, scale in SCALES.items()
        ]
        if jobs:
            _draw(jobs)
        for job in jobs:
            path = folder / job["path"].name
            with replacing(path) as temporary:
                temporary.write_bytes(job["path"].read_bytes())
            written.append(path)
    return written


def _draw(jobs: Sequence[dict[str, Any]]) -> None:
    """All by one browser. Its sandbox stays off, as kaleido has it: the page is ours, and root may not use one."""
    try:
        import kaleido
        from kaleido import errors
    except ImportError as error:
        raise LwdcError(
            "figures as files need kaleido 1 or newer, which is not installed: pip install 'lwdc[figures]'."
        ) from error
    try:
        # MathJax would be fetched from the net.
        kaleido.write_fig_from_object_sync(list(jobs), kopts={"mathjax": False}, cancel_on_error=True)
    except errors.ChromeNotFoundError as error:
        raise LwdcError(
            "figures as files need Chrome or Chromium, and none was found: install it (apt install chromium, or "
            "kaleido_get_chrome for one of kaleido's own), or name its program in the variable BROWSER_PATH."
        ) from error
    except (errors.BrowserFailedError, errors.BrowserClosedError, OSError) as error:
        raise LwdcError(
            f"the browser that draws the figures does not work ({_said(error)}): see that `chromium --version` does, "
            "or name another by the variable BROWSER_PATH."
        ) from error
    except (errors.KaleidoError, errors.JavascriptError) as error:
        raise LwdcError(
            f"the figures could not be drawn ({_said(error)}): upgrade kaleido and plotly together."
        ) from error


def _said(error: Exception) -> str:
    """Its first sentence: what kaleido raises may have several, as a tuple."""
    several = len(error.args) > 1 and not isinstance(error, OSError)
    return str(error.args[0] if several else error).rstrip(".")
