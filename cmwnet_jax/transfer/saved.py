"""A learned weight net with what is needed to use it elsewhere."""

import dataclasses
import json
import math
import os
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax import array_facts
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.types import PyTree
from cmwnet_jax.weight_net import WeightNet, weighting_functions

_FORMAT = 1
_ABOUT = {"format", "num_meta_classes", "centers", "loss_range", "provenance", "arrays", "checksum"}


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
            "format": _FORMAT,
            "num_meta_classes": self.num_meta_classes,
            "centers": [None if math.isnan(center) else center for center in self.centers.tolist()],
            "loss_range": list(self.loss_range),
            "provenance": self.provenance,
        }

    def sealed(self) -> dict[str, Any]:
        """`about`, with checksums of it and of the arrays, so that a flipped bit in a file is noticed."""
        about = {**self.about(), "arrays": array_facts.facts(self.weight_params)}
        return {**about, "checksum": _checksum(about)}

    @classmethod
    def of(cls, weight_params: PyTree, about: dict[str, Any]) -> "SavedWeightNet":
        """A weight net of its parameters and what `sealed` gave, or `about`, as earlier versions wrote it.

        Args:
            weight_params: numpy arrays; those of half precision become float32.
            about: JSON.

        Raises:
            UsageError: they are damaged, or do not fit each other.
        """
        damage = _damage(about)
        try:
            low, high = map(float, about["loss_range"])
            centers, provenance = np.array(about["centers"], np.float64), dict(about["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            damage = damage or f"what it says of itself: {first_line(error)}"
        if damage:
            raise _damaged(damage)
        saved = cls(jax.tree.map(_at_least_float32, weight_params), centers, (low, high), provenance)
        saved.check()
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.weight_params)):
            raise _damaged("its parameters are not finite")
        if "arrays" in about:
            wrong = array_facts.mismatches(about["arrays"], weight_params)
            wrong = wrong or ", ".join(array_facts.damaged(about["arrays"], weight_params))
            if wrong:
                raise _damaged(wrong)
        return saved

    def check(self) -> None:
        """Checks that the parts fit each other.

        Raises:
            UsageError: says which does not, of the parameters by the array's name.
        """
        heads = _check_arrays(self.weight_params)
        if self.centers.shape != (heads,) or np.any(np.diff(self.centers) < 0):
            raise UsageError(
                f"centers is {self.centers.tolist()}, expected {heads} in ascending order, one for each "
                f"head of the weight net: pass MetaClasses.centers"
            )
        low, high = self.loss_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UsageError(f"loss_range is {self.loss_range}, expected two finite numbers, the lower first")


def check_format(path: str | os.PathLike, about: dict[str, Any]) -> None:
    """Checks that a file can be read as this version writes it, before anything else in it is believed.

    Args:
        path: the file's or folder's.
        about: what `SavedWeightNet.about` gave to whoever wrote it.

    Raises:
        UsageError: it is of another format.
    """
    if about["format"] != _FORMAT:
        raise UsageError(
            f"{os.fspath(path)!r} is a weight net of format {about['format']!r}, expected {_FORMAT}: read it "
            f"with the version of cmwnet_jax that wrote it, or a newer one"
        )


def _damage(about: dict[str, Any]) -> str:
    """Why what a file says of its weight net is not as it was written; empty where nothing tells."""
    unknown = sorted(about.keys() - _ABOUT)
    if unknown:
        return f"it says {', '.join(unknown)} of itself, which weight nets do not"
    rest = {name: value for name, value in about.items() if name != "checksum"}
    if "checksum" in about and about["checksum"] != _checksum(rest):
        return "what it says of itself does not match its checksum"
    return ""


def _damaged(what: str) -> UsageError:
    return UsageError(f"it is a weight net that is damaged ({what}): use another copy")


def _checksum(about: dict[str, Any]) -> int:
    """Of the values, however their JSON is laid out."""
    as_read = json.loads(json.dumps(about))  # keys that are numbers become strings, tuples lists
    return zlib.crc32(json.dumps(as_read, sort_keys=True).encode())


def _at_least_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype in (jnp.bfloat16, np.float16) else array


def _check_arrays(weight_params: PyTree) -> int:
    """K, of parameters of one K and one number of hidden units."""
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
    return heads
