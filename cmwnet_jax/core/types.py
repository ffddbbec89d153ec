"""Types that the package's parts exchange, with a glossary of names and shapes.

| name | shape, dtype | meaning |
|---|---|---|
| `n`, `m` | int | examples in a training batch and in a meta batch |
| `N`, `C`, `K` | int | training examples, classes, meta-classes |
| `batch`, `meta_batch` | any pytree | what the caller's `objective` and `meta_loss` read |
| `losses` | [n] float | per-example losses, the weight net's input, without gradient |
| `terms` | [n] float | per-example terms that the sample weights multiply |
| `weights` | [n] float | sample weights before normalisation |
| `meta_class` | [n] int | index in [0, K) of the cluster of class sizes that the example's class is in |
| `params` | pytree | the classifier's parameters, the paper's w |
| `virtual_params` | pytree | `params` after the virtual SGD step, the paper's w-hat |
| `model_state` | pytree | other state that a forward pass changes: BatchNorm's running statistics |
| `weight_params` | pytree | the weight net's parameters, the paper's Theta |
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cmwnet_jax.errors import UsageError

PyTree = Any


class Objective(NamedTuple):
    """A training objective that is affine in the sample weights (Eq. 6, 14).

    `total(params, weights) = base(params) + sum_i weights_i * terms_i(params)`, where the step has divided the
    weights as its `normalize` says.

    Attributes:
        terms: [n] float, multiplied by the weights. CMW-Net: the per-example losses.
        losses: [n] float, the weight net's input, without gradient.
        meta_class: [n] int32, the meta-class of each example's class, in [0, K).
        base: scalar float. CMW-Net: 0. Steps average it over devices, so *a mean over the batch* gives on
            several devices what it gives on one. For any other function of a mean, e.g.
            `max(0, target - coverage)**2`, take that mean by `objectives.mean_over_axis(values, axis_name)`
            with the step's `axis_name`, which covers the examples of all devices.
        aux: any other output of this forward pass, e.g. pseudo-labels [n, C]. It is returned as
            `metrics["aux"]`, without gradient, and may differ by device.
    """

    terms: jax.Array
    losses: jax.Array
    meta_class: jax.Array
    base: jax.Array | float = 0.0
    aux: PyTree = ()


class Metrics(TypedDict, total=False):
    """Results that a step reports; scalars are over the whole batch and equal on every device.

    Attributes:
        loss: scalar, mean of `losses`.
        objective: scalar, `base + sum_i normalised_weights_i * terms_i` with the new weights.
        grad_norm: scalar, global norm of the classifier's gradient (Eq. 9).
        losses: [n], the weight net's inputs.
        weights: [n], the new weights before normalisation.
        meta_loss: scalar, after the virtual step (meta steps only).
        meta_grad_norm: scalar, global norm of the meta-gradient (meta steps only).
        aux: the objective's `aux`, if it has one.
        labels: [n] int32, the pseudo-labels of `reporting_labels`.
    """

    loss: jax.Array
    objective: jax.Array
    grad_norm: jax.Array
    losses: jax.Array
    weights: jax.Array
    meta_loss: jax.Array
    meta_grad_norm: jax.Array
    aux: PyTree
    labels: jax.Array


@struct.dataclass
class MetaState:
    """State that a step reads and updates: arrays only, with the same structure before and after.

    Attributes:
        step: scalar int32, number of steps taken.
        params: the classifier's parameters.
        model_state: BatchNorm's running statistics and the like; `{}` if there are none.
        opt_state: state of the classifier's optimiser.
        weight_params: the weight net's parameters; `()` if there is no weight net.
        weight_opt_state: state of the weight net's optimiser.
        rng: base random key; steps fold their number into it and never change it.
        teacher: the averaged classifier; `()` if there is none.
        memory: memory of the objective: a `Table` of the examples, or arrays that are equal on all devices
            (`ClassSizes`); `()` if there is none.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    weight_params: PyTree
    weight_opt_state: optax.OptState
    rng: jax.Array
    teacher: PyTree = ()
    memory: PyTree = ()

    @classmethod
    def create(
        cls,
        *,
        params: PyTree,
        optimizer: optax.GradientTransformation,
        rng: jax.Array,
        model_state: PyTree = None,
        weight_params: PyTree = (),
        weight_optimizer: optax.GradientTransformation | None = None,
        teacher: PyTree = (),
        memory: PyTree = (),
    ) -> "MetaState":
        """The state before the first step, with both optimisers initialised.

        All arrays are separate copies, so that a step can be compiled with `donate_argnums=0` even though a
        teacher starts as the classifier and some optimisers keep the parameters. NumPy arrays stay on the host.

        Args:
            params: the classifier's parameters, a pytree of arrays of any float dtype.
            optimizer: the classifier's optax optimiser, the same as in the step.
            rng: a random key, `jax.random.key(seed)`.
            model_state: initial running statistics; None if there are none.
            weight_params: the first argument of the step's `weight_fn`; `()` if it takes none.
            weight_optimizer: the weight net's optax optimiser; None if it is not trained.
            teacher: `soft_labels.Teacher(params, model_state)`, for steps with `averaging`.
            memory: a `table.Table`, for steps with `remembering`, or a `semi_supervised.ClassSizes`, for
                steps with `counting`.

        Returns:
            A MetaState with step 0.
        """
        state = cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={} if model_state is None else model_state,
            opt_state=optimizer.init(params),
            weight_params=weight_params,
            weight_opt_state=() if weight_optimizer is None else weight_optimizer.init(weight_params),
            rng=rng,
            teacher=teacher,
            memory=memory,
        )
        return jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, state)


def entry(batch: Mapping[str, PyTree], name: str, of: str = "batch", *, nested: bool = True) -> PyTree:
    """An entry of a batch; the error for a missing entry lists those that exist.

    Args:
        batch: the batch, a dictionary.
        name: name of the entry.
        of: name of the batch in the error.
        nested: whether the entry may be a dictionary of arrays, for a model of several inputs.

    Raises:
        UsageError: the batch is no dictionary, has no such entry, or the entry is neither an array nor, if
            `nested`, a dictionary of arrays.
    """
    if not isinstance(batch, Mapping):
        raise UsageError(
            f"{of} is a {type(batch).__name__}, expected a dictionary with the entry {name!r}: give its parts "
            f"names, e.g. {{{name!r}: ...}}"
        )
    if name not in batch:
        raise UsageError(f"{of} has the entries {', '.join(map(str, batch)) or 'none'}, expected {name!r}, too")
    found, parts = batch[name], {repr(name): batch[name]}
    if isinstance(found, Mapping) and nested:
        parts = {f"{name!r}][{part!r}": value for part, value in found.items()} or parts
    for part, value in parts.items():
        if isinstance(value, list | tuple | int | float | str | Mapping):
            remedy = (
                "pass np.asarray of it" if isinstance(value, list | int | float) else "give each array a name"
            )
            raise UsageError(f"{of}[{part}] is a {type(value).__name__}, expected an array: {remedy}")
    return found


ObjectiveFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[Objective, PyTree]]
"""(params, model_state, batch, rng) -> (Objective, new model_state)."""


def with_attributes_of(objective: ObjectiveFn) -> Callable[[ObjectiveFn], ObjectiveFn]:
    """Decorator for a wrapped objective: gives it the attributes of the inner one that steps and wrappers read.

    These are `num_meta_classes`, K, and `terms_per_example`, the number of terms of each example.
    """

    def give(wrapped: ObjectiveFn) -> ObjectiveFn:
        for name in ("num_meta_classes", "terms_per_example"):
            if hasattr(objective, name):
                setattr(wrapped, name, getattr(objective, name))
        return wrapped

    return give


MetaLossFn = Callable[[PyTree, PyTree, PyTree, jax.Array], jax.Array]
"""(params, model_state, meta_batch, rng) -> scalar."""

WeightFn = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
"""(weight_params, losses [n], meta_class [n]) -> weights [n]."""

VirtualFilter = Callable[[PyTree], PyTree]
"""params -> bools, with the structure of params or of its upper levels."""

StepFn = Callable[..., tuple[MetaState, Metrics]]
"""(state, batch, ...) -> (new state, metrics); pure, not jitted."""
