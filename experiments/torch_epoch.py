"""An epoch of CMW-Net in PyTorch, as users write it, with DataLoader, for `experiments.benchmark_epoch`."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from cmwnet_jax.data import meta_set
from experiments.torch_peers import Trainer

_CHUNK = 1000  # examples per batch of an evaluation


@dataclasses.dataclass
class Loop:
    """The state of a training loop; `epoch` does what a launched epoch does.

    Attributes:
        trainer: takes the steps, by second-order autograd.
        train: training images [N, channels, height, width], normalised, and given labels [N].
        test: the same of the test split.
        batch_size: training examples per step.
        per_class: meta examples per class; all of them are in each meta batch.
        rank_by: the losses by which they are chosen: `history`, each example's mean over the steps so far, or
            `now`, the classifier's, from a pass over the training set.
    """

    trainer: Trainer
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    batch_size: int
    per_class: int
    rank_by: str

    def __post_init__(self):
        images, labels = self.train
        rows = torch.arange(len(labels))
        batches = BatchSampler(RandomSampler(rows), self.batch_size, drop_last=True)
        # The data set is indexed by whole batches, which is faster than to collate examples.
        self._loader = DataLoader(TensorDataset(images, labels, rows), sampler=batches, batch_size=None)
        self._total, self._count = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels))

    def epoch(self) -> float:
        """Chooses the meta set, takes an epoch's steps and tests; returns the test accuracy in per cent."""
        meta_batch = self._meta_batch()
        for images, labels, rows in self._loader:
            losses = self.trainer.second_order((images, labels), meta_batch)
            self._total[rows] += losses.double()
            self._count[rows] += 1
        logits, labels = self._logits(*self.test), self.test[1]
        return 100 * (logits.argmax(dim=1) == labels).double().mean().item()

    def _meta_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.train
        if self.rank_by == "now" or not self._count.all():
            losses = F.cross_entropy(self._logits(images, labels), labels, reduction="none")
        else:
            losses = self._total / self._count
        num_classes = int(labels.max()) + 1
        rows = meta_set.lowest_loss(losses.numpy(), labels.numpy(), num_classes, self.per_class)
        rows = torch.from_numpy(np.asarray(rows, np.int64))
        return images[rows], labels[rows]

    @torch.no_grad()
    def _logits(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The logits [N, C] with running statistics."""
        model: nn.Module = self.trainer.model
        model.eval()
        batches = DataLoader(
            TensorDataset(images, labels),
            sampler=BatchSampler(range(len(labels)), _CHUNK, drop_last=False),
            batch_size=None,
        )
        logits = torch.cat([model(part) for part, _ in batches])
        model.train()
        return logits
