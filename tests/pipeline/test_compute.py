"""Compute: what cannot be had here is refused, by name, before anything is done."""

from typing import Any

import pytest
import torch
import torch._inductor.exc as cpp_exc
from lightning_fabric.utilities import rank_zero_only

from lwdc.errors import LwdcError
from lwdc.pipeline import Compute
from lwdc.pipeline.ranks import Ranks
from lwdc.training import CAN_COMPILE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 0}, r"compute\.devices is a number from 1 on, found 0"),
        ({"devices": "two"}, r"compute\.devices is a number from 1 on, found 'two'"),
        ({"nodes": -1}, r"compute\.nodes is a number from 1 on, found -1"),
        (
            {"precision": "16-mix"},
            r"unknown precision '16-mix'\. Did you mean '16-mixed'.*Known: 16-mixed, 32-true",
        ),
        ({"strategy": "fsdp"}, r"unknown strategy 'fsdp'\. .*Known: auto, ddp"),
        ({"channels_last": "yes"}, r"compute\.channels_last is true or false, found 'yes'"),
        ({"checkpointing": 1}, r"compute\.checkpointing is true or false, found 1"),
        ({"compile": "inductr"}, r"compile is true, false or a backend .*: unknown backend 'inductr'\. Did you mean"),
        ({"compile": None}, r"compile is true, false or a backend .*'None'.* Known: aot_eager, eager, inductor"),
        ({"compile": True, "checkpointing": True}, r"compile and compute\.checkpointing cannot be had together"),
        ({"timeout_s": 0}, r"compute\.timeout_s is a number of seconds above 0, found 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LwdcError, match=message):
        Compute(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, "'16-mixed' needs a GPU: on the CPU half precision is not faster.* Use bf16-mixed"),
        ({"sync_norms": True}, "sync_norms=true needs GPUs, and this run is on cpu"),
        ({"nodes": 2}, "nodes=2 needs a launcher that starts the processes on every node: torchrun --nnodes 2"),
        ({"accelerator": "quantum"}, "accelerator='quantum' with precision '32-true' .* cannot be had here"),
    ],
)
@pytest.mark.parametrize("devices", [1, 2])
def test_what_the_cpu_lacks_is_refused(settings: dict[str, Any], message: str, devices: int) -> None:
    compute = Compute(**{"accelerator": "cpu", "devices": devices, **settings})
    with pytest.raises(LwdcError, match=message):
        compute.fabric()
    with pytest.raises(LwdcError, match=message):
        compute.needs_launch()


def test_a_mac_runs_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its GPU, MPS, has no float64; Fabric's own auto would take it."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Compute().fabric().device.type == "cpu"
    with pytest.raises(LwdcError, match="float64, which MPS has none of"):
        Compute("mps")._check_device("mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(LwdcError, match=r"accelerator='cuda' with precision '32-true' .* cannot be had here"):
        Compute("cuda", devices=2).fabric()


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LwdcError, match=r"compute\.devices=4, and this machine has 1 device\(s\) of kind cuda"):
        Compute(devices=4)._check_device("cuda")


def test_a_precision_that_the_gpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(LwdcError, match="'bf16-mixed' is not supported by this GPU; use 16-mixed"):
        Compute(precision="bf16-mixed")._check_device("cuda")
    Compute(precision="16-mixed")._check_device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [({"avx2": True, "amx_bf16": False}, True), ({"avx512_bf16": True}, False), ({"bf16": True}, False), (None, False)],
)
def test_bf16_on_a_cpu_that_does_not_multiply_it_is_told_to_be_slow(
    capabilities: dict[str, bool] | None, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if capabilities is None:  # an older PyTorch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    notes = Compute("cpu", precision="bf16-mixed").notes("cpu")
    assert [("no instructions that multiply bf16" in note) for note in notes] == [True] * slow
    assert not Compute("cpu").notes("cpu")
    assert not Compute(precision="bf16-mixed").notes("cuda")


@pytest.mark.skipif(not CAN_COMPILE, reason="this PyTorch does not compile every network for itself")
def test_compiling_is_refused_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise cpp_exc.InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(LwdcError, match=r"compute\.compile=true needs a C\+\+ compiler, such as g\+\+"):
        Compute("cpu", compile=True).fabric()
    Compute("cpu", compile="eager")._check_device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(LwdcError, match=r"compute\.compile=true needs Triton and a GPU that it knows"):
        Compute(compile=True)._check_device("cuda")


def test_compiling_is_refused_where_networks_would_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwdc.pipeline.compute.CAN_COMPILE", False)  # as with PyTorch 2.13
    with pytest.raises(LwdcError, match=r"compile needs a PyTorch that compiles every network for itself, from 2\.15"):
        Compute("cpu", compile="eager")


def test_several_processes_need_a_pytorch_that_can_do_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(LwdcError, match="several processes need a PyTorch that is built with distributed"):
        Compute("cpu", devices=2).needs_launch()


def test_another_number_of_processes_than_torchrun_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name, value in {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LwdcError, match=r"torchrun has started 4 process\(es\), and compute\.devices=1 .* asks for 1"):
        Ranks(Compute("cpu"))


def test_one_process_needs_no_launch_and_several_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Compute("cpu").needs_launch()
    assert not Compute("cpu", strategy="ddp").needs_launch()
    assert Compute("cpu", devices=2).needs_launch()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # which Fabric sets for the whole process
    assert not Compute("cpu", devices=2).needs_launch()


def test_alone_is_one_device_of_the_same_kind() -> None:
    assert Compute("cpu", devices=4, nodes=2, precision="bf16-mixed").alone() == Compute("cpu", precision="bf16-mixed")
