"""A learned weight net with what is needed to use it elsewhere."""

import dataclasses
import math
from typing import Any

import numpy as np

from cmwnet_jax.errors import UsageError
from cmwnet_jax.types import PyTree
from cmwnet_jax.weight_net import WeightNet, weighting_functions


@dataclasses.dataclass(frozen=True, eq=False)
class SavedWeightNet:
    """A learned weight net and where it comes from.

    Attributes:
        weight_params: parameters of `WeightNet`, numpy arrays.
        centers: [K] float64, the class sizes that its heads stand for, ascending; NaN where nobody said.
        loss_range: the lowest and the highest loss that it learned from; beyond them it extrapolates.
        provenance: what it was learned on, as JSON: data set, bias, method, seed, `normalize` (what its
            weights were divided by, Q1) and the like.
    """

    weight_params: PyTree
    centers: np.ndarray
    loss_range: tuple[float, float]
    provenance: dict[str, Any]

    @property
    def num_meta_classes(self) -> int:
        """K."""
        return len(self.centers)

    @property
    def hidden(self) -> int:
        """Units of the shared layer."""
        return self.weight_params["params"]["heads"]["kernel"].shape[0]

    @property
    def weight_net(self) -> WeightNet:
        """The module whose parameters these are: `weight_net.apply(weight_params, losses, meta_class)`."""
        dtype = self.weight_params["params"]["heads"]["kernel"].dtype
        return WeightNet(self.num_meta_classes, hidden=self.hidden, param_dtype=dtype)

    def functions(self, losses: np.ndarray) -> np.ndarray:
        """Each meta-class's weights of these losses.

        Args:
            losses: [g] float.

        Returns:
            [K, g] float.
        """
        losses = np.asarray(losses, np.float32)
        return np.asarray(
            weighting_functions(self.weight_net.apply, self.weight_params, losses, self.num_meta_classes)
        )

    def about(self) -> dict[str, Any]:
        """All but the parameters, as JSON has it: null for a centre that is not known."""
        return {
            "num_meta_classes": self.num_meta_classes,
            "centers": [None if math.isnan(center) else center for center in self.centers.tolist()],
            "loss_range": list(self.loss_range),
            "provenance": self.provenance,
        }

    @classmethod
    def of(cls, weight_params: PyTree, about: dict[str, Any]) -> "SavedWeightNet":
        """A weight net of its parameters and what `about` gave.

        Args:
            weight_params: numpy arrays.
            about: JSON.

        Raises:
            UsageError: they do not fit each other.
        """
        centers = np.array(about["centers"], np.float64)
        low, high = about["loss_range"]
        saved = cls(weight_params, centers, (float(low), float(high)), about["provenance"])
        saved.check()
        return saved

    def check(self) -> None:
        """Checks that the parts fit each other.

        Raises:
            UsageError: says which does not.
        """
        try:
            heads = np.shape(self.weight_params["params"]["heads"]["bias"])
        except (KeyError, TypeError, IndexError):
            raise UsageError(
                "weight_params are not a WeightNet's: pass what WeightNet(...).init gave and the steps have "
                "trained"
            ) from None
        if self.centers.ndim != 1 or heads != self.centers.shape or np.any(np.diff(self.centers) < 0):
            raise UsageError(
                f"centers is {self.centers.tolist()}, expected {heads[0]} in ascending order, one for each "
                f"head of the weight net: pass MetaClasses.centers"
            )
        low, high = self.loss_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UsageError(f"loss_range is {self.loss_range}, expected two finite numbers, the lower first")
