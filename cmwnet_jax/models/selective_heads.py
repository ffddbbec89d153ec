"""SelectiveNet's three heads for any classifier's features (Geifman and El-Yaniv 2019; E.3)."""

from collections.abc import Callable

import flax.linen as nn
import jax

from cmwnet_jax.core.selective import ThreeHeads


class SelectiveHeads(nn.Module):
    """Two linear classifiers, and a selection head: a layer with ReLU and BatchNorm, then one unit.

    The normalisation's scale starts at 1/10, as in SelectiveNet's code, so that g starts near 1/2 everywhere.

    Attributes:
        num_classes: C.
        kernel_init: initialiser of all kernels.
        norm: `make(...)`, normalisation in the classifier's mode, over its device axis.
        hidden: units of the selection head's hidden layer.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    norm: Callable[..., nn.Module]
    hidden: int = 512

    @nn.compact
    def __call__(self, features: jax.Array) -> ThreeHeads:
        """The heads' outputs for features [n, F]."""
        hidden = nn.relu(nn.Dense(self.hidden, kernel_init=self.kernel_init, name="selection_hidden")(features))
        hidden = self.norm(scale_init=nn.initializers.constant(0.1), name="selection_norm")(hidden)
        return ThreeHeads(
            logits=nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")(features),
            selection=nn.Dense(1, kernel_init=self.kernel_init, name="selection")(hidden)[:, 0],
            auxiliary=nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="auxiliary")(features),
        )


def selective_heads(
    num_classes: int,
    *,
    kernel_init: nn.initializers.Initializer,
    norm: Callable[..., nn.Module],
    name: str | None,
) -> nn.Module:
    """SelectiveNet's three heads, with 512 hidden units in the selection head, as a `Head`.

    Args:
        num_classes: C.
        kernel_init: initialiser of the kernels.
        norm: makes the normalisation.
        name: name of the parameters.
    """
    return SelectiveHeads(num_classes, kernel_init, norm, name=name)
