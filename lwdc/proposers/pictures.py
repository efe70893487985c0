"""Pictures: what a search has learned of its space, drawn in the plane of most variance."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lwdc.proposers.history import Trial
from lwdc.records import EmbeddingRecord


def picture_of(trials: Sequence[Trial], points: Tensor, path: Tensor | None = None) -> EmbeddingRecord:
    """Of trials that succeeded, at ``points`` ``(trials, n)``, two at least, with a ``path`` ``(steps, n)``."""
    from sklearn.decomposition import PCA  # here: it takes a second to import

    plane = PCA(2, svd_solver="full").fit(points.double().numpy())

    def shown(points: Tensor) -> tuple[tuple[float, float], ...]:
        placed: np.ndarray = plane.transform(points.double().numpy())
        return tuple((float(x), float(y)) for x, y in placed)

    return EmbeddingRecord(
        points=shown(points),
        accuracies=tuple(trial.accuracy for trial in trials if trial.accuracy is not None),
        shares=tuple(trial.share for trial in trials),
        path=shown(path) if path is not None and len(path) else (),
        explained=float(plane.explained_variance_ratio_.sum()),
    )
