"""How far work is that takes a while, on stderr: a bar with the time left; a line a minute where it is no terminal."""

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from lwdc.text import duration

T = TypeVar("T")

_EVERY = 60.0  # seconds between lines


def tracked(items: Sequence[T], what: str) -> Generator[T]:
    """The items one by one, while a bar shows how many are done; it vanishes at the end, or by ``close``."""
    console = Console(stderr=True)
    shown: Iterable[T]
    if console.is_terminal:
        shown = track(items, what, console=console, transient=True)
    else:
        shown = _in_lines(items, what, console)
    yield from shown


def _in_lines(items: Sequence[T], what: str, console: Console) -> Generator[T]:
    start = said = console.get_time()
    for done, item in enumerate(items):
        now = console.get_time()
        if now - said >= _EVERY:
            said = now
            left = (now - start) / done * (len(items) - done)
            console.print(f"{what}: {done} of {len(items)}, {duration(left)} left", highlight=False, soft_wrap=True)
        yield item
