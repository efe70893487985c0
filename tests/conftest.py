"""What every test gets: fixed seeds, repeatable examples, and the folder of real data."""

import contextlib
import copy
import dataclasses
import functools
import gc
import io
import multiprocessing
import os
import random
import resource
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from hypothesis import strategies as st
from lightning_fabric.utilities import registry
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d
from torch import nn

from lwdc import cli
from lwdc.candidates.original import trained_weight
from lwdc.sites import Site, find_sites

# Examples are drawn from the test itself, not from the clock or a database of earlier failures.
hypothesis.settings.register_profile("lwdc", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("lwdc")

# Warnings are errors here. PyTorch gives some only once a process, which would fail whichever test ran first.
torch.set_warn_always(True)

# The tensors are small: threads would only wait for each other, four times as long on two busy cores.
torch.set_num_threads(1)

# At its first backward pass PyTorch decides whether processes that are forked later may have one, too. What some tests
# import would let it say no.
torch.zeros(1, requires_grad=True).sum().backward()


def _parsing_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """``yaml.load`` that parses equal files once: Hydra reads thirty for every command, a quarter of composing."""
    parsed: dict[tuple[str, Any], Any] = {}

    def load_once(stream: Any, Loader: type) -> Any:
        text = stream.read() if hasattr(stream, "read") else None
        if text is None:
            return load(stream, Loader)
        if (Loader.__qualname__, text) not in parsed:
            stream.seek(0)  # for an error names the file
            parsed[Loader.__qualname__, text] = load(stream, Loader)
        return copy.deepcopy(parsed[Loader.__qualname__, text])

    return load_once


yaml.load = _parsing_once(yaml.load)


# Every Fabric asks all packages that are installed for callbacks, which none of them has.
registry.entry_points = functools.cache(registry.entry_points)


_frozen = 0  # modules


def pytest_runtest_setup() -> None:
    """What is imported stays: garbage need not be looked for in it, again and again, nor in forked processes."""
    global _frozen
    if len(sys.modules) > _frozen + 200:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_sessionfinish() -> None:
    """Let what was kept from the collector be taken down with the rest: else libraries call it leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def lwdc_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The command, run in an empty folder that knows nothing of this repository: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LWDC_DEBUG", raising=False)
    threads = torch.get_num_threads()

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lwdc", *arguments])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    GlobalHydra.instance().clear()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def in_ranks() -> Callable[..., list[Any]]:
    """``in_ranks(count, work)``: what ``work(rank)`` returns in each of forked processes that are ranks of one run.

    What one of them raises is raised here, if ``failing`` does not ask for it as text; None for one that is killed.
    """

    def run(count: int, work: Callable[[int], Any], *, failing: bool = False, timeout: float = 120) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("fork")  # spares every process five seconds of imports
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which here do not compute
            ranks = []
            for rank in range(count):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_be_rank, args=(rank, count, port, work, theirs))
                process.start()
                theirs.close()
                ranks.append((process, ours))
        found: list[Any] = []
        for process, pipe in ranks:
            answered = pipe.poll(timeout)
            try:
                answer = io.BytesIO(pipe.recv_bytes()) if answered else None
                value, error = torch.load(answer, weights_only=False) if answer else (None, "no answer in time")
            except EOFError:  # killed
                value, error = None, None
            if not answered:
                process.kill()
            process.join(10)
            found.append(error if failing and error is not None else value)
            if error is not None and not failing:
                for other, _ in ranks:
                    other.kill()
                raise AssertionError(error)
        return found

    return run


def _be_rank(rank: int, count: int, port: int, work: Callable[[int], Any], pipe: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    random.seed(rank)
    np.random.seed(rank)
    torch.manual_seed(rank)  # nothing that counts may hang on it
    answer = io.BytesIO()
    try:
        torch.save((work(rank), None), answer)
    except BaseException as error:  # noqa: BLE001
        torch.save((None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"), answer)
    pipe.send_bytes(answer.getvalue())
    pipe.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def full_disk() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """``with full_disk(size):`` no file of this process grows beyond so many bytes: the disk has no room for more."""

    @contextlib.contextmanager
    def full(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    """The folder of real data sets; the test is skipped without it.

    ``@pytest.mark.needs("cifar-10-batches-py")`` names what the test reads there.
    """
    needs = [name for mark in request.node.iter_markers("needs") for name in mark.args]
    wanted = ", ".join(needs) or "real data"
    if not os.environ.get("LWDC_DATA"):
        pytest.skip(f"LWDC_DATA is not set; this test needs {wanted}")
    root = Path(os.environ["LWDC_DATA"])
    missing = [name for name in needs if not (root / name).exists()]
    if missing:
        pytest.skip(f"LWDC_DATA lacks {', '.join(missing)}; this test needs {wanted}")
    return root


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer as the only one of a network, in float64, and a batch of two images for it."""

    conv: nn.Module
    plain: nn.Module  # the same arithmetic without weight standardisation
    site: Site
    x: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        """What stand-ins inherit."""
        return trained_weight(self.site, self.conv, self.x)

    @property
    def bias(self) -> torch.Tensor | None:
        """The layer's own, if it has one."""
        return self.conv._parameters.get("bias")

    def biased(self, y: torch.Tensor) -> torch.Tensor:
        """``y`` plus the layer's bias, if it has one."""
        return y if self.bias is None else y + self.bias.view(-1, *(1,) * self.site.dims)


@pytest.fixture(scope="session")
def place() -> Callable[..., Place]:
    """``place(layer, *sizes)``: the layer as a site on maps of these sizes; of 8 channels, if it pools."""

    def make(conv: nn.Module, *sizes: int, plain: nn.Module | None = None) -> Place:
        conv = conv.double()
        linear = isinstance(conv, nn.Linear)
        shape = (*sizes, conv.in_features) if linear else (getattr(conv, "in_channels", 8), *sizes)
        found = find_sites(nn.Sequential(conv), shape)
        assert len(found.sites) == 1, found.left_alone
        x = torch.randn(2, *shape, dtype=torch.float64)
        return Place(conv, plain.double() if plain is not None else conv, found.sites[0], x)

    return make


@pytest.fixture(scope="session")
def places(place: Callable[..., Place]) -> st.SearchStrategy[Place]:
    """Sites of every kind: no, one or two axes, strides, dilations, groups, paddings, even and uneven kernels."""

    @st.composite
    def any_place(draw: st.DrawFn) -> Place:
        kind = draw(
            st.sampled_from(
                ["conv1d", *["conv2d"] * 4, "same", "same", "std", "scaled_std", "scaled_std_same", "linear", "pool"]
            )
        )
        if kind == "linear":
            inputs, outputs = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 6, 8, 12]))
            torch.manual_seed(draw(st.integers(0, 99)))
            return place(nn.Linear(inputs, outputs, draw(st.booleans())), *draw(st.sampled_from([(), (5,), (2, 3)])))
        if kind == "pool":
            size = draw(st.sampled_from([2, 3]))
            stride, padding = draw(st.sampled_from([1, 2])), draw(st.integers(0, 1))
            pool = draw(st.sampled_from([nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d]))
            return place(pool(size, stride, padding), *((7, 6) if pool.__name__.endswith("2d") else (7,)))
        dims = 1 if kind == "conv1d" else 2
        same = kind in ("same", "scaled_std_same")

        def per_axis(values: st.SearchStrategy[int]) -> tuple[int, ...]:
            return tuple(draw(values) for _ in range(dims))

        kernel, stride = per_axis(st.integers(1, 5)), per_axis(st.integers(1, 3))
        dilation = (draw(st.sampled_from([1, 1, 2])),) * dims
        inputs = draw(st.sampled_from([4, 8]))
        groups = draw(st.sampled_from([1, 1, 1, 2, inputs]))
        if "std" in kind and groups == inputs:
            kernel = (3, 2)  # one number has no variance to standardise
        outputs = draw(
            st.sampled_from([inputs, inputs, 2 * inputs] if groups == inputs else [inputs, inputs, 4, 6, 12])
        )
        mode = "zeros" if dims == 2 and kind != "conv2d" else draw(st.sampled_from(["zeros", *MODES]))
        padding: Any = tuple(draw(st.integers(0, d * (k - 1) // 2 + 1)) for k, d in zip(kernel, dilation, strict=True))
        if kind in ("conv1d", "conv2d") and set(stride) == {1} and draw(st.booleans()):
            padding = "same"
        if same:
            padding = "SAME"
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        sizes = tuple(r + draw(st.integers(1, 4)) for r in reach)  # larger than any padding
        keywords: dict[str, Any] = {
            "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())
        }  # fmt: skip
        torch.manual_seed(draw(st.integers(0, 99)))
        if kind == "conv1d":
            return place(nn.Conv1d(inputs, outputs, kernel, padding_mode=mode, **keywords), *sizes)
        if kind == "conv2d":
            return place(nn.Conv2d(inputs, outputs, kernel, padding_mode=mode, **keywords), *sizes)
        plain_class, plain_padding = (Conv2dSame, 0) if same else (nn.Conv2d, padding)
        plain = plain_class(inputs, outputs, kernel, **{**keywords, "padding": plain_padding})
        if kind == "same":
            return place(plain, *sizes)
        standardising = {
            "std": StdConv2d,
            "scaled_std": ScaledStdConv2d,
            "scaled_std_same": ScaledStdConv2dSame,
        }[kind]
        conv = standardising(inputs, outputs, kernel, **keywords)
        with torch.no_grad():
            plain.bias = conv.bias
        return place(conv, *sizes, plain=plain)

    return any_place()


MODES = ("reflect", "replicate", "circular")
