"""PyTorch equivalents for `experiments.benchmark_step`: the same networks and steps, as users write them.

Layers have the same names as in the Linen models, so that parameters can be copied by name (`load_linen`). The
exact meta-gradient uses second-order autograd (`create_graph=True`, `functional_call`); the cheap one uses
finite differences along the meta loss's gradient at the virtual parameters (DARTS).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images [n, channels, height, width] and labels [n]."""


class WeightNet(nn.Module):
    """Equivalent of `cmwnet_jax.WeightNet`, vectorised over examples."""

    def __init__(self, num_meta_classes: int, hidden: int = 100):
        super().__init__()
        self.shared, self.heads = nn.Linear(1, hidden), nn.Linear(hidden, num_meta_classes)

    def forward(self, losses: torch.Tensor, meta_class: torch.Tensor) -> torch.Tensor:
        """Maps losses [n] to weights [n]."""
        logits = self.heads(F.relu(self.shared(losses[:, None])))
        return torch.sigmoid(logits.gather(1, meta_class[:, None])[:, 0])


class Layers(nn.Sequential):
    """A sequence of named layers."""

    def __init__(self, **layers: nn.Module):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class GlobalAveragePool(nn.Module):
    """[n, channels, height, width] to [n, channels]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Averages over height and width."""
        return x.mean((2, 3))


def _conv(channels_in: int, channels: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Equivalent of the block in `models.resnet_cifar`, with zero-padded shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        missing = y.shape[1] - x.shape[1]
        if missing:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return F.relu(x + y)


class PreActBlock(nn.Module):
    """Equivalent of the block in `models.preact_resnet`."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels_in), _conv(channels_in, channels, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), _conv(channels, channels)
        changes = stride > 1 or channels_in != channels
        self.shortcut = _conv(channels_in, channels, stride, size=1) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


def _stages(block: type[nn.Module], channels_in: int, widths: tuple[int, ...], blocks: int) -> dict:
    """Makes the blocks, named as in the Linen models; each stage except the first begins with stride 2."""
    layers = {}
    for stage, channels in enumerate(widths):
        for number in range(blocks):
            stride = 2 if stage > 0 and number == 0 else 1
            layers[f"layer{stage + 1}_{number}"] = block(channels_in, channels, stride)
            channels_in = channels
    return layers


def mlp(num_classes: int, features: int, hidden: tuple[int, ...], batch_norm: bool = True) -> nn.Module:
    """`models.MLP`."""
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for number, (before, width) in enumerate(zip((features, *hidden), hidden, strict=False)):
        layers[f"Dense_{number}"] = nn.Linear(before, width, bias=not batch_norm)
        if batch_norm:
            layers[f"BatchNorm_{number}"] = nn.BatchNorm1d(width)
        layers[f"relu_{number}"] = nn.ReLU()
    return Layers(**layers, **{f"Dense_{len(hidden)}": nn.Linear(hidden[-1], num_classes)})


def small_cnn(num_classes: int) -> nn.Module:
    """`models.SmallCNN`."""
    layers, channels_in = {}, 3
    for number, channels in enumerate((24, 24, 48, 48, 96, 96)):
        layers[f"Conv_{number}"] = _conv(channels_in, channels, stride=2 - number % 2)
        layers[f"BatchNorm_{number}"], layers[f"relu_{number}"] = nn.BatchNorm2d(channels), nn.ReLU()
        channels_in = channels
    return Layers(**layers, pool=GlobalAveragePool(), head=nn.Linear(96, num_classes))


def resnet_cifar(num_classes: int, depth: int = 32) -> nn.Module:
    """`models.ResNetCifar`."""
    stages = _stages(Block, 16, (16, 32, 64), depth // 6)
    stem = {"conv1": _conv(3, 16), "bn1": nn.BatchNorm2d(16), "relu": nn.ReLU()}
    return Layers(**stem, **stages, pool=GlobalAveragePool(), head=nn.Linear(64, num_classes))


def preact_resnet18(num_classes: int) -> nn.Module:
    """`models.PreActResNet18`."""
    stages = _stages(PreActBlock, 64, (64, 128, 256, 512), 2)
    stem = {"conv1": _conv(3, 64), "bn1": nn.BatchNorm2d(64), "relu": nn.ReLU()}
    return Layers(**stem, **stages, pool=GlobalAveragePool(), head=nn.Linear(512, num_classes))


def wide_resnet(num_classes: int, depth: int = 28, widen: int = 10) -> nn.Module:
    """`models.WideResNet`."""
    widths = (16 * widen, 32 * widen, 64 * widen)
    stages = _stages(PreActBlock, 16, widths, depth // 6)
    top = {"bn1": nn.BatchNorm2d(widths[-1]), "relu": nn.ReLU(), "pool": GlobalAveragePool()}
    return Layers(conv1=_conv(3, 16), **stages, **top, head=nn.Linear(widths[-1], num_classes))


def load_linen(module: nn.Module, params: Mapping) -> nn.Module:
    """Copies a Linen model's parameters by name, kernels transposed to PyTorch's order.

    Args:
        module: a model of this file, already in its final dtype.
        params: nested dict of arrays, `variables["params"]`.

    Raises:
        ValueError: the names differ.
    """
    state = {}
    for name, leaf in _leaves(params):
        layer, _, kind = name.rpartition(".")
        order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(leaf.ndim, (0,))
        state[f"{layer}.{'bias' if kind == 'bias' else 'weight'}"] = torch.tensor(leaf.transpose(order))
    own = dict(module.named_parameters())
    if own.keys() != state.keys():
        raise ValueError(f"the models' parameters differ: {sorted(own.keys() ^ state.keys())}")
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return module


def _leaves(params: Mapping, before: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield before + name, np.asarray(value)


class Trainer:
    """Trains a classifier and a weight net; each method is one kind of step on the same batches.

    Args:
        model: the classifier, in train mode.
        weight_net: a `WeightNet` of this file.
        of_class: [C], the meta-class of each class.
        learning_rate: learning rate of the classifier and of the virtual step.
        autocast: makes the context of a forward pass, e.g. for bfloat16.
    """

    def __init__(
        self,
        model: nn.Module,
        weight_net: WeightNet,
        of_class: torch.Tensor,
        learning_rate: float,
        autocast: Callable = contextlib.nullcontext,
    ):
        self.model, self.weight_net, self.of_class = model, weight_net, of_class
        self.learning_rate, self.autocast = learning_rate, autocast
        self.optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
        self.weight_optimizer = torch.optim.Adam(weight_net.parameters(), 1e-3)

    def erm(self, batch: Batch) -> None:
        """Takes a step of plain training."""
        self._update_classifier(self._losses(self._params(), batch).mean())

    def second_order(self, batch: Batch, meta_batch: Batch) -> torch.Tensor:
        """Algorithm 1 as published: `backward` of the meta loss through the virtual step, to all leaves.

        Returns:
            The batch's losses [n] before the step, without gradient.
        """
        self.weight_optimizer.zero_grad()
        self._virtual_meta_loss(batch, meta_batch).backward()
        self.weight_optimizer.step()
        return self._weighted_step(batch)

    def pruned_second_order(self, batch: Batch, meta_batch: Batch) -> None:
        """As `second_order`, but only with the weight net's gradient, so that autograd skips the rest."""
        meta_loss = self._virtual_meta_loss(batch, meta_batch)
        self._update_weight_net(torch.autograd.grad(meta_loss, list(self.weight_net.parameters())))
        self._weighted_step(batch)

    def finite_difference(self, batch: Batch, meta_batch: Batch, distance: float = 0.01) -> None:
        """Algorithm 1 with a central difference along the meta loss's gradient, with DARTS's step size."""
        params, meta_class = self._params(), self.of_class[batch[1]]
        losses = self._losses(params, batch)
        seen = losses.detach()
        with torch.no_grad():
            weights = self.weight_net(seen, meta_class)
        grads = torch.autograd.grad((weights / weights.sum() * losses).sum(), list(params.values()))
        virtual = _moved(params, grads, -self.learning_rate)
        virtual = {name: p.detach().requires_grad_() for name, p in virtual.items()}
        direction = torch.autograd.grad(self._losses(virtual, meta_batch).mean(), list(virtual.values()))
        with torch.no_grad():
            epsilon = distance / torch.sqrt(sum((v * v).sum() for v in direction))
            ahead, behind = (self._losses(_moved(params, direction, by), batch) for by in (epsilon, -epsilon))
            slopes = (ahead - behind) / (2 * epsilon)
        first_order = -self.learning_rate * self._weighted(slopes, seen, meta_class)
        self._update_weight_net(torch.autograd.grad(first_order, list(self.weight_net.parameters())))
        self._weighted_step(batch)

    def meta_gradient(self) -> dict | None:
        """The last meta-gradient, with names and shapes as in the Linen weight net; None before the first."""
        layers = {"heads": self.weight_net.heads, "shared": self.weight_net.shared}
        if self.weight_net.shared.weight.grad is None:
            return None
        return {
            name: {"bias": layer.bias.grad.cpu().numpy(), "kernel": layer.weight.grad.cpu().numpy().T}
            for name, layer in layers.items()
        }

    def _params(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())

    def _losses(self, params: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        with self.autocast():
            logits = functional_call(self.model, params, (batch[0],))
        return F.cross_entropy(logits.to(self.dtype), batch[1], reduction="none")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters and losses."""
        return next(self.weight_net.parameters()).dtype

    def _virtual_meta_loss(self, batch: Batch, meta_batch: Batch) -> torch.Tensor:
        """The meta loss at the virtual parameters, which stay attached to the autograd graph."""
        params = self._params()
        losses = self._losses(params, batch)
        weighted = self._weighted(losses, losses.detach(), self.of_class[batch[1]])
        grads = torch.autograd.grad(weighted, list(params.values()), create_graph=True)
        return self._losses(_moved(params, grads, -self.learning_rate), meta_batch).mean()

    def _weighted(self, terms, losses, meta_class) -> torch.Tensor:
        """sum_i weights_i * terms_i; the weights of `losses` are divided by their detached sum (Q1)."""
        weights = self.weight_net(losses, meta_class)
        return (weights / weights.sum().detach() * terms).sum()

    def _update_weight_net(self, grads) -> None:
        for p, g in zip(self.weight_net.parameters(), grads, strict=True):
            p.grad = g
        self.weight_optimizer.step()

    def _weighted_step(self, batch: Batch) -> torch.Tensor:
        """Eq. 9 after a second forward pass, as published; returns its losses."""
        losses = self._losses(self._params(), batch)
        with torch.no_grad():
            weights = self.weight_net(losses, self.of_class[batch[1]])
        self._update_classifier((weights / weights.sum() * losses).sum())
        return losses.detach()

    def _update_classifier(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _moved(params: dict[str, torch.Tensor], direction, by) -> dict[str, torch.Tensor]:
    return {name: p + by * d for (name, p), d in zip(params.items(), direction, strict=True)}
