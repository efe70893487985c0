"""A bar with the time left, for work that takes a while; on stderr, and only where that is a terminal."""

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def tracked(items: Sequence[T], what: str) -> Generator[T]:
    """The items one by one, while a bar shows how many are done; it vanishes at the end, or by ``close``."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    shown: Iterable[T] = track(items, what, console=console, transient=True)
    yield from shown
