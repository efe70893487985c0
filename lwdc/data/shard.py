"""Shards: which examples of every batch one of several processes works on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shard:
    """Of every batch the examples ``index``, ``index + count``, ``index + 2 * count`` and so on.

    Shards of one batch differ by at most one example, and together they are the batch.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.index < self.count

    @property
    def slice(self) -> slice:
        """Takes the shard out of a batch."""
        return slice(self.index, None, self.count)


WHOLE = Shard()
