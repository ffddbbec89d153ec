"""`SavedWeightNet`: a learned weight net with the information needed to use it elsewhere."""

import dataclasses
import json
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.core.types import PyTree
from cmwnet_jax.core.weight_net import WeightNet, weighting_functions
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.transfer import array_facts

_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class SavedWeightNet:
    """A learned weight net and its origin.

    Attributes:
        weight_params: parameters of `WeightNet`, numpy arrays.
        centers: [K] float64, ascending, the class sizes of its heads; NaN if unknown.
        loss_range: the lowest and the highest loss that it was trained on; it extrapolates beyond them. Of
            mixed images, the losses with their own labels count.
        provenance: origin as JSON: data set, bias, method, seed, `normalize` (the divisor of the weights, Q1)
            and the like.
    """

    weight_params: PyTree
    centers: np.ndarray
    loss_range: tuple[float, float]
    provenance: dict[str, Any]

    @property
    def num_meta_classes(self) -> int:
        """K, the number of meta-classes."""
        return len(self.centers)

    @property
    def hidden(self) -> int:
        """Number of units in the shared layer."""
        return self.weight_params["params"]["heads"]["kernel"].shape[0]

    @property
    def weight_net(self) -> WeightNet:
        """The module with these parameters: `weight_net.apply(weight_params, losses, meta_class)`."""
        dtype = self.weight_params["params"]["heads"]["kernel"].dtype
        return WeightNet(self.num_meta_classes, hidden=self.hidden, param_dtype=dtype)

    @property
    def has_class(self) -> np.ndarray:
        """[K] bool, whether a class of the source used the head; True where nothing is known of that.

        A source of fewer class sizes than K leaves heads as they were initialised. By `has_class` in the
        provenance, else by `meta_class_of_class` there, else by centres that repeat the one before (see
        `MetaClasses.fit`).
        """
        known = self.provenance.get("has_class")
        if isinstance(known, list) and len(known) == self.num_meta_classes:
            return np.array([bool(one) for one in known])
        of_class = self.provenance.get("meta_class_of_class")
        # Older files do not say what the net that they began as had learned, nor the classes of earlier epochs.
        if self.provenance.get("init") or self.provenance.get("meta_classes"):
            return np.full(self.num_meta_classes, True)
        if isinstance(of_class, list) and of_class and all(isinstance(k, int) for k in of_class):
            return np.isin(np.arange(self.num_meta_classes), of_class)
        return np.append(True, np.diff(self.centers) != 0)  # NaN differs from NaN

    def functions(self, losses: np.ndarray) -> np.ndarray:
        """Each meta-class's weights for these losses.

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
        """Everything except the parameters, as JSON; unknown centres are null."""
        return {
            "format": _FORMAT,
            "num_meta_classes": self.num_meta_classes,
            "centers": [None if math.isnan(center) else center for center in self.centers.tolist()],
            "loss_range": list(self.loss_range),
            "provenance": self.provenance,
        }

    @classmethod
    def of(cls, weight_params: PyTree, about: dict[str, Any]) -> "SavedWeightNet":
        """Makes a weight net from its parameters and the result of `about`.

        Args:
            weight_params: numpy arrays; half precision becomes float32.
            about: JSON.

        Raises:
            UsageError: they do not match each other.
        """
        try:
            centers = np.array(about["centers"], np.float64)
            low, high = map(float, about["loss_range"])
            count, provenance = about["num_meta_classes"], dict(about["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"what it says of itself cannot be read ({error!r}): use another copy") from error
        saved = cls(jax.tree.map(at_least_float32, weight_params), centers, (low, high), provenance)
        saved.check()
        if count != saved.num_meta_classes:
            raise UsageError(
                f"num_meta_classes is {count!r}, but the weight net has {saved.num_meta_classes} heads: use "
                f"another copy"
            )
        return saved

    def check(self) -> None:
        """Checks that the parts match each other.

        Raises:
            UsageError: names the part that does not match; for parameters, the array.
        """
        heads = _check_arrays(self.weight_params)
        known = self.centers[~np.isnan(self.centers)]
        if (
            self.centers.shape != (heads,)
            or len(known) not in (0, heads)
            or not np.all(np.isfinite(known) & (known >= 0))
            or np.any(np.diff(known) < 0)
        ):
            raise UsageError(
                f"centers is {self.centers.tolist()}, expected {heads} in ascending order, one class size for "
                f"each head of the weight net, or NaN for all: pass MetaClasses.centers"
            )
        try:
            if not isinstance(self.provenance, dict):
                raise TypeError("no dictionary")
            json.dumps(self.provenance)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"provenance is {self.provenance!r}, expected what JSON can hold ({first_line(error)}): give "
                f"text, numbers and lists"
            ) from None
        low, high = self.loss_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UsageError(f"loss_range is {self.loss_range}, expected two finite numbers, the lower first")


def check_format(path: str | os.PathLike, about: dict[str, Any]) -> None:
    """Checks that this version can read a format, before anything else in the file is used.

    Args:
        path: the file or folder.
        about: result of `SavedWeightNet.about` when the file was written.

    Raises:
        UsageError: the format is unknown.
    """
    if about["format"] != _FORMAT:
        raise UsageError(
            f"{os.fspath(path)!r} is a weight net of format {about['format']!r}, expected {_FORMAT}: read it "
            f"with the version of cmwnet_jax that wrote it, or a newer one"
        )


def at_least_float32(array: np.ndarray) -> np.ndarray:
    """The array, or float32 for half precision, which NumPy and files treat in many ways.

    Args:
        array: a numpy array.
    """
    return array.astype(np.float32) if array.dtype in (jnp.bfloat16, np.float16) else array


def _check_arrays(weight_params: PyTree) -> int:
    """Checks that all parameters have the same K and number of hidden units; returns K."""
    try:
        params = weight_params["params"]
        (hidden,), (heads,) = (np.shape(params[layer]["bias"]) for layer in ("shared", "heads"))
        dtype = params["heads"]["bias"].dtype
        found = array_facts.facts(weight_params)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise UsageError(
            "weight_params are not a WeightNet's: pass what WeightNet(...).init gave and the steps have trained"
        ) from None
    shapes = {
        "shared": {"kernel": (1, hidden), "bias": (hidden,)},
        "heads": {"kernel": (hidden, heads), "bias": (heads,)},
    }
    of_floats = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float32)
    expected = {
        "params": {
            layer: {name: jax.ShapeDtypeStruct(shape, of_floats) for name, shape in own.items()}
            for layer, own in shapes.items()
        }
    }
    different = array_facts.mismatches(found, expected)
    if different:
        raise UsageError(
            f"weight_params do not fit each other, with {heads} heads and {hidden} hidden units by the biases "
            f"({different}): pass what WeightNet(...).init gave and the steps have trained"
        )
    if min(heads, hidden) < 1:
        raise UsageError(
            f"weight_params have {heads} heads and {hidden} hidden units, expected at least one of each"
        )
    wrong = [name for name, array in array_facts.named(weight_params) if not np.all(np.isfinite(array))]
    if wrong:
        raise UsageError(
            f"weight_params have NaN or infinite numbers in {', '.join(wrong)}: take a weight net from before "
            f"its training broke down"
        )
    return heads
