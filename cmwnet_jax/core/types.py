"""The objects that every part of the package exchanges, and the glossary of names and shapes.

| name | shape, dtype | meaning |
|---|---|---|
| `n`, `m` | int | examples in a training batch and in a meta batch |
| `N`, `C`, `K` | int | training examples, classes, meta-classes |
| `batch`, `meta_batch` | any pytree | what the caller's `objective` and `meta_loss` read |
| `losses` | [n] float | per-example losses that the weight net sees, without gradient |
| `terms` | [n] float | per-example terms that the sample weights multiply |
| `weights` | [n] float | sample weights, before they are normalised |
| `meta_class` | [n] int | index in [0, K) of the cluster of class sizes an example's class is in |
| `params` | pytree | the classifier's parameters, the paper's w |
| `virtual_params` | pytree | `params` after the virtual SGD step, the paper's w-hat |
| `model_state` | pytree | what a forward pass changes besides: BatchNorm's running statistics |
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

    `total(params, weights) = base(params) + sum_i weights_i * terms_i(params)`

    Attributes:
        terms: [n] float. What the weights multiply. CMW-Net: the per-example losses.
        losses: [n] float. What the weight net sees; no gradient flows through it.
        meta_class: [n] int32, the meta-class of each example's class, in [0, K).
        base: scalar float, *a mean over the batch* where it is reduced over examples, so that
            batches that are split over devices give what one device gives. CMW-Net: 0.
        aux: anything else of this forward pass that the caller wants, e.g. pseudo-labels [n, C]; it
            comes back as `metrics["aux"]`, without gradient and each device's own.
    """

    terms: jax.Array
    losses: jax.Array
    meta_class: jax.Array
    base: jax.Array | float = 0.0
    aux: PyTree = ()


class Metrics(TypedDict, total=False):
    """What a step reports; scalars are over the whole batch, on every device the same.

    Attributes:
        loss: scalar, mean of `losses`.
        objective: scalar, `base + sum_i normalised_weights_i * terms_i` with the new weights.
        grad_norm: scalar, global norm of the classifier's gradient (Eq. 9).
        losses: [n], the losses that the weight net saw.
        weights: [n], the new weights, before they are normalised.
        meta_loss: scalar, after the virtual step (meta steps only).
        meta_grad_norm: scalar, global norm of the meta-gradient (meta steps only).
        aux: the objective's, where it has one.
    """

    loss: jax.Array
    objective: jax.Array
    grad_norm: jax.Array
    losses: jax.Array
    weights: jax.Array
    meta_loss: jax.Array
    meta_grad_norm: jax.Array
    aux: PyTree


@struct.dataclass
class MetaState:
    """Everything that a step reads and changes: arrays only, the same structure out as in.

    Attributes:
        step: scalar int32, steps taken so far.
        params: the classifier's parameters.
        model_state: BatchNorm's running statistics and the like; `{}` where there are none.
        opt_state: state of the classifier's optimiser.
        weight_params: the weight net's parameters; `()` where there is no weight net.
        weight_opt_state: state of the weight net's optimiser.
        rng: base random key; steps fold their number into it and never change it.
        teacher: the averaged classifier of soft labels; `()` where there is none.
        memory: what an objective remembers of each example, a `Table`; `()` where it remembers nothing.
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

        Its arrays are copies, each of its own, so that a step may be compiled with `donate_argnums=0` whatever
        they were made of: a teacher starts as the classifier, and optimisers keep parameters. NumPy arrays
        stay on the host.

        Args:
            params: the classifier's parameters, a pytree of float arrays.
            optimizer: the classifier's optax optimiser, the one that the step was made with.
            rng: a random key, `jax.random.key(seed)`.
            model_state: initial running statistics; None means there are none.
            weight_params: what the step's `weight_fn` takes first; `()` where it takes none.
            weight_optimizer: the weight net's optax optimiser; None where it is not trained.
            teacher: `soft_labels.Teacher(params, model_state)`, for steps that are `averaging`.
            memory: a `memory.Table`, for steps that are `remembering`.
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


def entry(batch: Mapping[str, jax.Array], name: str, of: str = "batch") -> jax.Array:
    """An entry of a batch, or a UsageError that says which ones there are.

    Args:
        batch: by name.
        name: the entry's.
        of: what the batch is called.
    """
    if not isinstance(batch, Mapping):
        raise UsageError(f"{of} is a {type(batch).__name__}, expected a dictionary with the entry {name!r}")
    if name not in batch:
        raise UsageError(f"{of} has the entries {', '.join(map(str, batch)) or 'none'}, expected {name!r}, too")
    return batch[name]


ObjectiveFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[Objective, PyTree]]
"""(params, model_state, batch, rng) -> (Objective, new model_state)."""

MetaLossFn = Callable[[PyTree, PyTree, PyTree, jax.Array], jax.Array]
"""(params, model_state, meta_batch, rng) -> scalar."""

WeightFn = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
"""(weight_params, losses [n], meta_class [n]) -> weights [n]."""

VirtualFilter = Callable[[PyTree], PyTree]
"""params -> bools, of the structure of params or of its upper levels."""

StepFn = Callable[..., tuple[MetaState, Metrics]]
"""(state, batch, ...) -> (new state, metrics); pure, not jitted."""
