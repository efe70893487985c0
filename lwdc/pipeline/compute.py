"""Compute: the devices, processes and precision of a run, through Lightning Fabric."""

import dataclasses
import datetime
import math
import warnings

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lwdc.errors import LwdcError, unknown_name
from lwdc.training import CAN_COMPILE, Execution
from lwdc.training.ranks import BUFFERS_LEFT

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_STRATEGIES = ("auto", "ddp")
_BACKENDS = ("inductor", "aot_eager", "eager")  # the last two, which compile to no code, are for finding faults


@dataclasses.dataclass(frozen=True)
class Compute:
    """Where and in what precision to run.

    ``devices`` on each of ``nodes`` machines make as many processes, which share every batch; what comes out depends
    on their number by rounding only, and through batch norms unless ``sync_norms``.
    """

    accelerator: str = "auto"  # a CUDA GPU, or the CPU where there is none
    devices: int = 1  # of each node; on the CPU processes
    nodes: int = 1
    strategy: str = "auto"  # or ddp, which is what auto takes for several processes
    precision: str = "32-true"  # or bf16-mixed, 16-mixed
    threads: int | None = None  # CPU threads; None: torch's default
    sync_norms: bool = False  # batch norms see the examples of all devices; GPUs only
    channels_last: bool = False  # images and their convolutions' weights lie in memory by place, not by channel
    compile: bool | str = False  # by torch.compile, while training and for `lwdc evaluate`; or one of its backends
    checkpointing: bool = False  # a search keeps less for the backward pass, and computes branches again
    timeout_s: float = 60.0  # how long a process waits for another one in training before that counts as lost

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise LwdcError(f"compute.{name} is a number from 1 on, found {value!r}.")
        for name, known in (("precision", _PRECISIONS), ("strategy", _STRATEGIES)):
            if getattr(self, name) not in known:
                raise LwdcError(f"compute.{name}: " + unknown_name(name, str(getattr(self, name)), known))
        for name in ("sync_norms", "channels_last", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise LwdcError(f"compute.{name} is true or false, found {getattr(self, name)!r}.")
        if self.threads is not None and self.threads < 1:
            raise LwdcError(f"compute.threads is a number from 1 on, or null for torch's choice; found {self.threads}.")
        self._check_compile()
        if not isinstance(self.timeout_s, (int, float)) or not 0 < self.timeout_s < math.inf:
            raise LwdcError(f"compute.timeout_s is a number of seconds above 0, found {self.timeout_s!r}.")

    def _check_compile(self) -> None:
        if self.compile is False:
            return
        if self.compile is not True and self.compile not in _BACKENDS:
            text = unknown_name("backend", str(self.compile), _BACKENDS)
            raise LwdcError(f"compute.compile is true, false or a backend of torch.compile: {text}")
        if self.checkpointing:
            raise LwdcError(
                "compute.compile and compute.checkpointing cannot be had together: in a compiled network nothing keeps "
                "batch norms from learning once more as branches are computed again. Leave one out."
            )
        if not CAN_COMPILE:
            raise LwdcError(
                f"compute.compile needs a PyTorch that compiles every network for itself, from 2.15 on; this is "
                f"{torch.__version__}."
            )

    @property
    def execution(self) -> Execution:
        """How networks run here."""
        return Execution(self.sync_norms, self.channels_last, self.compile, self.checkpointing)

    @property
    def processes(self) -> int:
        """Of all nodes together."""
        return self.devices * self.nodes

    def alone(self) -> "Compute":
        """The same on one device."""
        return dataclasses.replace(self, devices=1, nodes=1, sync_norms=False)

    def needs_launch(self) -> bool:
        """Whether there are several processes, and nobody has started them. Raises ``LwdcError`` like ``fabric``."""
        fabric = self._fabric()
        if self.processes == 1 or _started_from_outside(fabric):
            return False
        self._check_launch(fabric)
        return True

    def fabric(self) -> Fabric:
        """A launched Fabric, which has started the other processes if nobody else has.

        Raises ``LwdcError`` for what cannot be had here.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        fabric = self._fabric()
        if self.compile:
            # The compiler looks for it at the weights that gates have drawn, which have none.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        if self.processes > 1:
            self._check_launch(fabric)
            # DDP keeps gradients of 1x1 convolutions with other strides than the weights, to no measurable loss.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            fabric.launch()
        return fabric

    def _fabric(self) -> Fabric:
        strategy: str | DDPStrategy = "auto"
        if self.processes > 1:
            # Unused are in some steps starts of epitomes, once they are settled, and biases without a kernel.
            timeout = datetime.timedelta(seconds=self.timeout_s)
            strategy = DDPStrategy(timeout=timeout, find_unused_parameters=True, **BUFFERS_LEFT)
        try:
            kind = self._accelerator
            self._check_device(kind if kind == "cpu" else Fabric(accelerator=kind, devices=1).device.type)
            return Fabric(
                accelerator=self._accelerator, strategy=strategy, devices=self.devices, num_nodes=self.nodes,
                precision=self.precision,  # type: ignore[arg-type]
            )  # fmt: skip
        except LwdcError:
            raise
        except (RuntimeError, ValueError, MisconfigurationException) as error:
            raise LwdcError(
                f"compute.accelerator={self.accelerator!r} with precision {self.precision!r} and strategy "
                f"{self.strategy!r} cannot be had here: {' '.join(str(error).split())}"
            ) from error

    @property
    def _accelerator(self) -> str:
        if self.accelerator != "auto":
            return self.accelerator
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _check_device(self, kind: str) -> None:
        if kind == "mps":
            raise LwdcError(
                "compute.accelerator=mps: losses and costs are summed in float64, which MPS has none of. Leave it out "
                "or take cpu."
            )
        found = {"cuda": torch.cuda.device_count()}.get(kind, self.devices)
        if self.devices > found:
            raise LwdcError(
                f"compute.devices={self.devices}, and this machine has {found} device(s) of kind {kind}: ask for "
                "fewer, or for processes on the CPU by compute.accelerator=cpu."
            )
        if self.precision == "16-mixed" and kind == "cpu":
            raise LwdcError(
                "compute.precision='16-mixed' needs a GPU: on the CPU half precision is not faster and its small "
                "gradients vanish. Use bf16-mixed or 32-true."
            )
        if self.precision == "bf16-mixed" and kind == "cuda" and not torch.cuda.is_bf16_supported():
            raise LwdcError(
                "compute.precision='bf16-mixed' is not supported by this GPU; use 16-mixed, which scales the loss, "
                "or 32-true."
            )
        if self.sync_norms and kind != "cuda":
            raise LwdcError(f"compute.sync_norms=true needs GPUs, and this run is on {kind}: leave it out.")
        if self.compile in (True, "inductor"):
            _check_inductor(kind)
        if self.processes > 1 and not torch.distributed.is_available():
            raise LwdcError("several processes need a PyTorch that is built with distributed; this one is not.")

    def notes(self, kind: str) -> tuple[str, ...]:
        """What is worth knowing, though not refused, on a device of this kind."""
        if self.precision == "bf16-mixed" and kind == "cpu" and not _multiplies_bf16():
            return (
                "compute.precision=bf16-mixed: this CPU has no instructions that multiply bf16, so that training takes "
                "many times as long as with 32-true.",
            )
        return ()

    def check_started(self) -> None:
        """Raise ``LwdcError`` if torchrun has started another number of processes than are asked for."""
        if TorchElasticEnvironment.detect() and (started := TorchElasticEnvironment().world_size()) != self.processes:
            raise LwdcError(
                f"torchrun has started {started} process(es), and compute.devices={self.devices} with "
                f"compute.nodes={self.nodes} asks for {self.processes}: make them the same."
            )

    def _check_launch(self, fabric: Fabric) -> None:
        if self.nodes > 1 and not _started_from_outside(fabric):
            raise LwdcError(
                f"compute.nodes={self.nodes} needs a launcher that starts the processes on every node: torchrun "
                f"--nnodes {self.nodes} --nproc-per-node {self.devices} ... -m lwdc.cli, or srun under Slurm."
            )


def _started_from_outside(fabric: Fabric) -> bool:
    assert isinstance(fabric.strategy, DDPStrategy) and fabric.strategy.cluster_environment is not None
    return fabric.strategy.cluster_environment.creates_processes_externally


def _multiplies_bf16() -> bool:
    """Whether this machine's CPU has instructions for it; True as well where PyTorch cannot tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def _check_inductor(kind: str) -> None:
    # Here, as it takes seconds.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    needs = None
    if kind == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            needs = "a C++ compiler, such as g++"
    elif kind == "cuda" and not has_triton():
        needs = "Triton and a GPU that it knows"
    if needs is not None:
        raise LwdcError(f"compute.compile=true needs {needs}, and there is none here: leave it out.")
