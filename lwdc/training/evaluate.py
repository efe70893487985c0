"""Evaluation: accuracy, and batch-norm statistics re-estimated."""

from collections.abc import Iterable
from itertools import islice

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from lwdc.data import Batch
from lwdc.training.execution import AS_IT_STANDS, Execution
from lwdc.training.ranks import total


def accuracy(
    model: nn.Module, batches: Iterable[Batch], fabric: Fabric | None = None, execution: Execution = AS_IT_STANDS
) -> float:
    """Top-1 accuracy in [0, 1], of all ranks' examples; the model is left in evaluation mode.

    It is taken to run by ``execution`` already.
    """
    fabric = fabric or _plain()
    model.eval()
    right = torch.zeros((), dtype=torch.int64)
    seen = 0
    with torch.no_grad(), fabric.autocast():
        for images, labels in batches:
            right = right.to(labels.device) + (model(execution.laid_out(images)).argmax(dim=1) == labels).sum()
            seen += len(labels)
    counts = total(torch.stack([right, torch.tensor(seen, device=right.device)]), fabric).tolist()
    return float(counts[0] / max(counts[1], 1))


def recalibrate(model: nn.Module, batches: Iterable[Batch], most: int, fabric: Fabric | None = None) -> None:
    """Re-estimate every batch norm's statistics from up to ``most`` batches, in place.

    The statistics of a network change when its operators do. The model is left in evaluation mode.
    """
    fabric = fabric or _plain()
    model.eval()
    if most == 0:
        return  # update_bn would forget the statistics and learn none
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    with torch.no_grad(), fabric.autocast():
        update_bn((images for images, _ in islice(batches, most)), model)
        for norm, kept in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:  # it has seen nothing: it was not called, or is never in training mode
                for buffer, value in zip(norm.buffers(), kept, strict=True):
                    buffer.copy_(value)
    model.eval()


def _plain() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)
