"""A small float64 problem whose examples are coupled, and the paper's equations written out by hand.

The classifier is plain functions. Its batch normalisation couples the examples of a batch, so that
each per-example loss depends on every example: a step that treated examples apart would be wrong.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import cmwnet_jax as cmw
from cmwnet_jax.core.table import Table, blocks

N, M, FEATURES, HIDDEN, CLASSES, K = 12, 7, 5, 6, 4, 3
ALPHA = 0.3
CLASS_COUNTS = (10, 12, 90, 400)  # meta-classes 0, 0, 1, 2


def apply(variables, inputs, *, mutable, rngs, axis_name=None):
    """A two-layer network with batch normalisation, in the form of a Linen `apply`."""
    del mutable, rngs
    params = variables["params"]
    hidden = inputs @ params["w1"]
    mean, square = jnp.mean(hidden, axis=0), jnp.mean(hidden**2, axis=0)
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
    hidden = (hidden - mean[None]) / jnp.sqrt(square - mean**2 + 1e-5)[None] * params["scale"][None]
    running = 0.9 * variables["batch_stats"]["mean"] + 0.1 * mean
    return jnp.tanh(hidden) @ params["w2"] + params["b2"][None], {"batch_stats": {"mean": running}}


@jax.jit
def init_params(key):
    """The classifier's parameters."""
    first, second = jax.random.split(key)
    return {
        "w1": jax.random.normal(first, (FEATURES, HIDDEN)),
        "scale": jnp.linspace(0.5, 1.5, HIDDEN),
        "w2": jax.random.normal(second, (HIDDEN, CLASSES)),
        "b2": jnp.zeros(CLASSES),
    }


def init_model_state():
    """The classifier's running statistics."""
    return {"batch_stats": {"mean": jnp.zeros(HIDDEN)}}


@functools.cache
def meta_classes():
    """Three meta-classes of the four classes."""
    return cmw.MetaClasses.fit(CLASS_COUNTS, K)


def batch(seed, size, classes=range(CLASSES)):
    """Random inputs, labels that run through the classes."""
    rng = np.random.default_rng(seed)
    labels = np.resize(np.array(classes), size)
    return {"image": jnp.asarray(rng.normal(size=(size, FEATURES))), "label": jnp.asarray(labels, jnp.int32)}


def weight_net():
    """A small float64 weight net and its parameters."""
    return _NET, _init_weights(jax.random.key(5), jnp.ones(1), jnp.zeros(1, jnp.int32))


_NET = cmw.WeightNet(num_meta_classes=K, hidden=8, param_dtype=jnp.float64)
_init_weights = jax.jit(_NET.init)


@jax.jit
def per_example_losses(params, examples):
    """[n] cross-entropies, by the formula."""
    logits, _ = apply({"params": params, **init_model_state()}, examples["image"], mutable=(), rngs={})
    picked = jnp.take_along_axis(logits, examples["label"][:, None], axis=1)[:, 0]
    return jax.scipy.special.logsumexp(logits, axis=1) - picked


def divisor(weights, normalize):
    """What the weights are divided by."""
    return {"sum": np.sum(weights), "mean": len(weights), "none": 1.0}[normalize]


def weight_and_derivative(weight_params, loss, meta_class):
    """One example's weight and its derivative by every parameter, by hand (Eq. 4)."""
    shared, heads = weight_params["params"]["shared"], weight_params["params"]["heads"]
    before = loss * np.asarray(shared["kernel"])[0] + np.asarray(shared["bias"])
    hidden = np.maximum(before, 0)
    head = np.asarray(heads["kernel"])[:, meta_class]
    weight = 1 / (1 + np.exp(-(hidden @ head + np.asarray(heads["bias"])[meta_class])))
    slope = weight * (1 - weight)
    to_hidden = slope * head * (before > 0)
    d_heads = np.zeros_like(np.asarray(heads["kernel"]))
    d_heads[:, meta_class] = slope * hidden
    d_bias = np.zeros_like(np.asarray(heads["bias"]))
    d_bias[meta_class] = slope
    return weight, {
        "shared": {"kernel": (loss * to_hidden)[None], "bias": to_hidden},
        "heads": {"kernel": d_heads, "bias": d_bias},
    }


def flat(tree):
    """All leaves as one float64 vector."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def gradients(params, examples):
    """[n, parameters]: row j is the gradient of example j's loss."""
    leaves = jax.tree.leaves(_jacobian(params, examples))
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in leaves], axis=1)


_jacobian = jax.jit(jax.jacrev(per_example_losses))


def closed_form(params, weight_params, examples, meta_examples, normalize):
    """(meta-gradient of Eq. 10, function from weights to Eq. 9's gradient), by explicit dot products."""
    losses = np.asarray(per_example_losses(params, examples))
    of_class = meta_classes().of_class[np.asarray(examples["label"])]
    jacobian = gradients(params, examples)
    pairs = [weight_and_derivative(weight_params, *pair) for pair in zip(losses, of_class, strict=True)]
    weights = np.array([weight for weight, _ in pairs])
    scale = divisor(weights, normalize)
    virtual = flat(params) - ALPHA * (weights / scale) @ jacobian
    _, unflatten = jax.flatten_util.ravel_pytree(params)
    meta = gradients(unflatten(virtual), meta_examples)
    similarity = meta @ jacobian.T  # G_ij
    coefficient = similarity.mean(axis=0) / scale
    gradient = -ALPHA * sum(c * flat(derivative) for c, (_, derivative) in zip(coefficient, pairs, strict=True))
    return gradient, lambda new: (new / divisor(new, normalize)) @ jacobian


def on_one_and_on_four_devices(make, batches):
    """(state, metrics) after one step a batch, on one device and on four, whose leaves have a devices' axis.

    Args:
        make: axis name or None -> (step, state).
        batches: tuples of what the step takes after the state.
    """
    step, one = make(None)
    step = jax.jit(step)
    for arguments in batches:
        one, one_metrics = step(one, *arguments)

    step, many = make("devices")
    step = jax.pmap(step, axis_name="devices")
    table = blocks(many.memory, 4) if isinstance(many.memory, Table) else many.memory
    many = jax.tree.map(lambda x: jnp.stack([x] * 4), many).replace(memory=table)
    for arguments in batches:
        split = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), arguments)
        many, many_metrics = step(many, *split)
    return (one, one_metrics), (many, many_metrics)
