"""Objectives and meta losses for classification, from a Linen-style `apply`."""

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from cmwnet_jax.core.lookup import looked_up
from cmwnet_jax.core.losses import LossFn, cross_entropy, elr_regularizer, elr_targets
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.step_parts import pmean
from cmwnet_jax.core.types import MetaLossFn, Objective, ObjectiveFn, PyTree, entry
from cmwnet_jax.errors import UsageError

TRAIN_SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "enable_dropout": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
"""Names of arguments or fields that switch between training and evaluation, with the value for training."""

_LIKE_A_SWITCH = re.compile(
    r"(^|_)(train|training|eval|evaluate|evaluation|inference|test|testing|dropout_on|(enable|use)_dropout)(_|$)"
    r"|^mode$"
)


def classification_objective(
    apply_fn: Callable,
    meta_classes: MetaClasses,
    loss: LossFn = cross_entropy,
    train_kwargs: Mapping[str, Any] | None = None,
    *,
    inputs: str = "image",
    label: str = "label",
) -> ObjectiveFn:
    """CMW-Net's objective (Eq. 6): both terms and losses are the per-example losses, and base is 0.

    Args:
        apply_fn: `model.apply` of a Linen module, or a function `(variables, inputs)` that returns logits
            [n, C]. It gets `mutable` and `rngs={"dropout": key}`, with Linen's meaning, if it accepts them;
            with `mutable` it returns (logits, new model_state).
        meta_classes: the meta-class of each of the C classes.
        loss: (logits [n, C], labels [n] or [n, C]) -> [n].
        train_kwargs: arguments that put the model into train mode, e.g. `{"is_teaching": True}`. None passes
            those `TRAIN_SWITCHES` that are arguments of the model or of `apply_fn`, except those that
            `functools.partial` has already set; a warning says if `**` hides the arguments.
        inputs: name of the batch's entry that the model gets, an array [n, ...] or a dictionary of arrays.
        label: name of the batch's entry of labels, [n] int in [0, C), or [n, C] float, whose most likely class
            determines the meta-class.

    Returns:
        An `objective` for `make_meta_step`, for batches that are dictionaries with these two entries.
        The objective knows its K, so a step refuses a weight net with another K.

    Raises:
        UsageError: a field of the model selects evaluation, or its only switch seems to have another name; on
            the first call, if an entry of the batch is missing, or labels, logits and `meta_classes` differ in
            the number of classes.
    """
    forward = train_mode(apply_fn, train_kwargs)

    def objective(params, model_state, batch, rng):
        labels = entry(batch, label, nested=False)
        logits, new_model_state = forward(params, model_state, entry(batch, inputs), rng)
        losses = loss(logits, labels)
        meta_class = meta_class_of(meta_classes, labels, logits.shape[-1])
        return Objective(terms=losses, losses=losses, meta_class=meta_class), new_model_state

    objective.num_meta_classes = meta_classes.num_meta_classes
    return objective


def elr_objective(apply_fn: Callable, *, strength: float, momentum: float) -> ObjectiveFn:
    """Cross-entropy with early-learning regularisation (Liu et al. 2020; ELR of Table 6).

    Args:
        apply_fn: as in `classification_objective`.
        strength: lambda, the factor of the regulariser.
        momentum: momentum of the targets, in [0, 1).

    Returns:
        An `objective` with one meta-class, for batches with `image`, `label` [n] int and `memory` [n, C] (see
        `table.remembering`). Its `aux` is the new targets [n, C].
    """
    forward = train_mode(apply_fn)

    def objective(params, model_state, batch, rng):
        label, memory = entry(batch, "label"), entry(batch, "memory")
        logits, model_state = forward(params, model_state, entry(batch, "image"), rng)
        targets = elr_targets(memory.astype(logits.dtype), logits, momentum=momentum)
        losses = cross_entropy(logits, label)
        terms = losses + strength * elr_regularizer(logits, targets)
        return Objective(terms, losses, jnp.zeros_like(label), aux=targets), model_state

    objective.num_meta_classes = 1
    return objective


def mean_over_axis(values: jax.Array, axis_name: str | tuple[str, ...] | None) -> jax.Array:
    """The mean over a batch that may be split over devices: on each device the mean over all examples.

    For an `Objective.base` that is no mean itself, but made of one, as SelectiveNet's penalty
    `max(0, target - coverage)**2` (E.3.2) is: averaged over devices, each with its own part's coverage, it
    would be another number with another gradient. With this mean a step's are those of one device. What a
    step takes in micro-batches is coupled within each of them only, as with BatchNorm.

    Args:
        values: [n, ...] float, this device's examples, as many as every other's.
        axis_name: as the step's that the objective is for: of `pmap`, or `shard_map`; None where there is no
            axis (one device, or arrays that `jit` splits).

    Returns:
        [...] of the same dtype.

    Raises:
        UsageError: there is no example to take a mean of, or `values` is one number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def penalty(selected): return jnp.maximum(0, 0.8 - mean_over_axis(selected, None)) ** 2
        >>> float(penalty(jnp.array([1.0, 0.0, 0.2, 0.0])))  # coverage 0.3
        0.25
    """
    values = jnp.asarray(values)
    if not (values.ndim and len(values) and jnp.issubdtype(values.dtype, jnp.floating)):
        raise UsageError(
            f"values has shape {values.shape} and dtype {values.dtype}, expected [n, ...] floats, n at least "
            f"1: give one entry an example, before any mean"
        )
    return pmean(jnp.mean(values, axis=0), axis_name)


def with_meta_class(objective: ObjectiveFn, of_row: ArrayLike) -> ObjectiveFn:
    """Wraps an objective: looks meta-classes up by example instead of by label.

    Args:
        objective: an objective for batches with `row` [n] int32.
        of_row: [N] int32, the meta-class of each training example.

    Returns:
        An `objective`. It does not know its K, so a step cannot compare it with the weight net's. A row outside
        of [0, N) has the meta-class -1, which gives the weight NaN.
    """
    of_row = jnp.asarray(of_row)

    def by_row(params, model_state, batch, rng):
        out, model_state = objective(params, model_state, batch, rng)
        return out._replace(meta_class=looked_up(of_row, entry(batch, "row"), -1)), model_state

    return by_row


def meta_class_of(meta_classes: MetaClasses, label: jax.Array, num_outputs: int | None = None) -> jax.Array:
    """The meta-class [n] int32 of each label; -1, which gives the weight NaN, for a label that is not a class.

    Args:
        meta_classes: meta-classes of C classes.
        label: [n] int, or [n, C] float; the most likely class is used.
        num_outputs: number of logits per example, if known; must be C or 1.

    Raises:
        UsageError: the labels have another shape, or the number of logits is neither C nor 1.
    """
    of_class = meta_classes.of_class
    if num_outputs not in (None, 1, len(of_class)):
        raise UsageError(
            f"meta_classes are of {len(of_class)} classes and the model gives {num_outputs} logits, expected "
            f"as many of both: take MetaClasses.fit(np.bincount(labels, minlength={num_outputs}))"
        )
    is_hard = jnp.issubdtype(label.dtype, jnp.integer)
    if label.ndim != (1 if is_hard else 2) or label.shape[1:] not in ((), (len(of_class),)):
        raise UsageError(
            f"labels have shape {label.shape} and dtype {label.dtype}, expected [n] integers (class indices) "
            f"or [n, {len(of_class)}] floats (distributions): squeeze or convert them"
        )
    hard = label if is_hard else jnp.argmax(label, axis=-1)
    return looked_up(of_class, hard, -1)


def classification_meta_loss(
    apply_fn: Callable,
    loss: LossFn = cross_entropy,
    train_kwargs: Mapping[str, Any] | None = None,
    *,
    inputs: str = "image",
    label: str = "label",
) -> MetaLossFn:
    """Makes the mean loss on a meta batch (Eq. 5), in train mode; running statistics are discarded (Q18).

    Args:
        apply_fn: as in `classification_objective`.
        loss: (logits [m, C], labels [m] or [m, C]) -> [m].
        train_kwargs, inputs, label: as in `classification_objective`.

    Returns:
        A `meta_loss` for `make_meta_step`: (params, model_state, meta_batch, rng) -> scalar float.

    Raises:
        UsageError: as `classification_objective`, except for what is said of `meta_classes`.
    """
    forward = train_mode(apply_fn, train_kwargs)

    def meta_loss(params, model_state, meta_batch, rng):
        labels = entry(meta_batch, label, "meta batch", nested=False)
        shown = entry(meta_batch, inputs, "meta batch")
        logits, _ = forward(params, model_state, shown, rng)
        return jnp.mean(loss(logits, labels))

    return meta_loss


def train_mode(apply_fn: Callable, train_kwargs: Mapping[str, Any] | None = None) -> Callable:
    """(params, model_state, inputs, rng) -> (logits [n, C], new model_state), in train mode.

    Args:
        apply_fn, train_kwargs: as in `classification_objective`.
    """
    outputs_of = outputs_in_train_mode(apply_fn, train_kwargs)

    def forward(params, model_state, inputs, rng):
        logits, model_state = outputs_of(params, model_state, inputs, rng)
        if not getattr(logits, "ndim", 0):
            raise UsageError(
                f"apply_fn gave an output of shape {jax.tree.map(jnp.shape, logits)}, expected logits [n, C], "
                f"or with mutable (logits, new model_state): wrap a model that gives anything else"
            )
        return logits, model_state

    return forward


def outputs_in_train_mode(apply_fn: Callable, train_kwargs: Mapping[str, Any] | None = None) -> Callable:
    """As `train_mode`, for a model whose outputs are any pytree other than a pair.

    Args:
        apply_fn, train_kwargs: as in `classification_objective`.
    """
    inner, fixed = _without_partial(apply_fn)
    names, takes_any = _arguments(apply_fn, inner, fixed.get("method"))
    if train_kwargs is None:
        _check_mode(
            inner, takes_any and names.isdisjoint(TRAIN_SWITCHES) and fixed.keys().isdisjoint(TRAIN_SWITCHES)
        )
        train_kwargs = {name: on for name, on in TRAIN_SWITCHES.items() if name in names - fixed.keys()}
        if names.isdisjoint(TRAIN_SWITCHES):
            _check_switches(names - fixed.keys())

    def forward(params, model_state, inputs, rng):
        linen = {"mutable": list(model_state), "rngs": {"dropout": rng}}
        taken = {name: value for name, value in linen.items() if name in names or takes_any}
        out = apply_fn({"params": params, **model_state}, inputs, **taken, **train_kwargs)
        outputs, new_model_state = out if isinstance(out, tuple) and len(out) == 2 else (out, model_state)
        return outputs, _like(model_state, new_model_state)

    return forward


def _without_partial(apply_fn: Callable) -> tuple[Callable, dict[str, Any]]:
    """Unwraps `functools.partial` and `functools.wraps`; returns the function and the keywords set."""
    fixed = {}
    while True:
        # `apply` itself is wrapped, but what it wraps belongs to no module.
        apply_fn = inspect.unwrap(apply_fn, stop=lambda f: hasattr(f, "__self__"))
        if not isinstance(apply_fn, functools.partial):
            return apply_fn, fixed
        apply_fn, fixed = apply_fn.func, {**apply_fn.keywords, **fixed}


def _module(inner: Callable) -> nn.Module | None:
    """The Linen module of this `apply`; None if it is another function."""
    owner = getattr(inner, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _arguments(apply_fn: Callable, inner: Callable, method: str | Callable | None) -> tuple[set[str], bool]:
    """Names of keyword arguments, and whether `**` accepts any; for Linen's `apply`, those of its module."""
    parameters = dict(inspect.signature(apply_fn).parameters)
    module = _module(inner)
    if module is not None:
        called = getattr(type(module), method) if isinstance(method, str) else method or type(module).__call__
        parameters |= inspect.signature(called).parameters
    takes_any = module is None and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name for name, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY}, takes_any


def _check_switches(names: Iterable[str]) -> None:
    """A UsageError for an argument that sounds like a switch, of which nobody knows what says training."""
    for name in sorted(filter(_LIKE_A_SWITCH.search, names)):
        training = "train" if name == "mode" else "train" in name or "dropout" in name
        raise UsageError(
            f"the model has an argument {name!r}, which may be a switch to train mode, expected one of "
            f"{', '.join(TRAIN_SWITCHES)}: say what it should be, e.g. train_kwargs={{{name!r}: "
            f"{training!r}}}, or {{}} to leave it as it is"
        )


def _check_mode(inner: Callable, is_hidden: bool) -> None:
    """Raises a UsageError if a module's field selects evaluation; warns if its arguments are hidden."""
    module = _module(inner)
    for name, on in TRAIN_SWITCHES.items():
        if module is not None and getattr(module, name, None) is (not on):
            raise UsageError(
                f"{type(module).__name__}.{name} is {not on}, which is evaluation, expected a model in train "
                f"mode: make it with {name}={on}, or pass train_kwargs={{}} to leave it so"
            )
    if is_hidden:
        warnings.warn(
            "apply_fn takes ** arguments, which hide whether it has a switch to train mode: pass train_kwargs, "
            "e.g. {'train': True}, or {} where it has none",
            stacklevel=5,
        )


def _like(model_state: PyTree, new_model_state: PyTree) -> PyTree:
    """The new state with the type of the old; a UsageError if it holds other arrays."""
    if not isinstance(new_model_state, Mapping):
        raise UsageError(
            f"apply_fn gave a pair with a {type(new_model_state).__name__} as its second entry, expected "
            f"(outputs, new model_state): wrap a model that gives another pair, so that it gives logits alone"
        )
    new_model_state = type(model_state)(new_model_state)
    old, new = (
        {
            jax.tree_util.keystr(path): jnp.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (model_state, new_model_state)
    )
    if new != old:
        first = sorted(dict(old.items() ^ new.items()))[0]
        raise UsageError(
            f"model_state{first} has the shape {new.get(first, 'none')} after a forward pass and "
            f"{old.get(first, 'none')} before, expected the same arrays: leave out of model_state what grows, "
            f"as sown intermediates do"
        )
    return new_model_state
