"""PyTorch's loop does what a launched epoch does; and the numbers that the benchmark makes of both."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments import torch_peers  # noqa: E402
from experiments.benchmark_epoch import OURS, THEIRS, summary  # noqa: E402
from experiments.torch_epoch import Loop  # noqa: E402


def tensors(seed, count):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.arange(count) % 3)
    return torch.from_numpy(rng.normal(size=(count, 1, 2, 2)).astype(np.float32)), labels


@pytest.mark.parametrize("rank_by", ["history", "now"])
def test_an_epoch_of_pytorchs(rank_by):
    torch.manual_seed(0)
    trainer = torch_peers.Trainer(
        torch_peers.mlp(3, 4, (8,)), torch_peers.WeightNet(2), torch.tensor([0, 1, 1]), learning_rate=0.1
    )
    train, test = tensors(0, 24), tensors(1, 9)
    loop = Loop(trainer, train, test, batch_size=4, per_class=2, rank_by=rank_by)
    taken, step = [], trainer.second_order

    def second_order(batch, meta_batch):
        taken.append((batch, meta_batch, step(batch, meta_batch)))
        return taken[-1][-1]

    trainer.second_order = second_order
    for epoch in range(2):
        trainer.model.eval()
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(trainer.model(train[0]), train[1], reduction="none")
        if epoch and rank_by == "history":
            seen = torch.cat([images for (images, _), _, _ in taken]).flatten(1)
            order = [(seen == image.flatten()).all(dim=1).nonzero().item() for image in train[0]]
            losses = torch.cat([losses for _, _, losses in taken])[order]
        trainer.model.train()
        taken.clear()
        accuracy = loop.epoch()
        rows = [
            row for c in range(3) for row in sorted(np.flatnonzero(train[1] == c), key=lambda i: losses[i])[:2]
        ]
        assert len(taken) == 6
        for _, (images, labels), _ in taken:
            assert torch.equal(images, train[0][sorted(rows)]) and torch.equal(labels, train[1][sorted(rows)])
        trainer.model.eval()
        with torch.no_grad():
            right = trainer.model(test[0]).argmax(dim=1) == test[1]
        assert accuracy == pytest.approx(100 * right.double().mean().item())


def test_the_first_epoch_of_a_round_does_not_count():
    ours = {"seconds": [50.0, 2.0, 3.0], "accuracy_percent": [1, 2, 80.0]}
    ours |= {"seconds_ready": 9.0, "seconds_compile": 4.0}
    theirs = {"seconds": [50.0, 9.0, 11.0], "accuracy_percent": [1, 2, 81.0]}
    assert summary({OURS: [ours], THEIRS: [theirs]}) == {
        "epoch_seconds": {OURS: 2.5, THEIRS: 10},
        "ratio": 0.25,
        "accuracy_percent_last": {OURS: 80, THEIRS: 81},
        "seconds_ready": 9,
        "seconds_compile": 4,
    }
