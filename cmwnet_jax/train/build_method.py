"""The methods by name: which step each trains with after the warm-up, and what that step learns."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cmwnet_jax import free_weights, losses, mixing, objectives, soft_labels
from cmwnet_jax.applications import partial_labels
from cmwnet_jax.class_sizes import class_balanced_weights, for_labels
from cmwnet_jax.data.streams import Purpose, stream
from cmwnet_jax.errors import UsageError, about
from cmwnet_jax.low_memory import make_low_memory_step
from cmwnet_jax.memory import Table, remembering
from cmwnet_jax.meta_classes import MetaClasses
from cmwnet_jax.meta_step import make_meta_step
from cmwnet_jax.train import parallel
from cmwnet_jax.train.method_parts import Method, Parts, choose_loss
from cmwnet_jax.train.programs import InPasses, Switched, each
from cmwnet_jax.transfer import SavedWeightNet, load_weight_net
from cmwnet_jax.types import ObjectiveFn, StepFn
from cmwnet_jax.weight_net import WeightNet


def _plain(parts: Parts, loss: str = "") -> Method:
    """Plain training, with the config's loss where the name of the method is not that of a loss."""
    warmup = parts.plain_step(parts.objective())
    return Method(warmup, parts.plain_step(parts.objective(choose_loss(parts, loss or parts.config.loss.name))))


def _class_balanced(parts: Parts) -> Method:
    """Examples weighted by the effective number of their class (Cui et al. 2019), the weights by their sum."""
    return Method(parts.plain_step(parts.objective()), _by_class(parts, losses.cross_entropy))


def _ldam(parts: Parts) -> Method:
    """LDAM; from a share of the run on, examples are weighted by class (DRW, Cao et al. 2019; Q9)."""
    loss = choose_loss(parts, "ldam")
    before, after = parts.plain_step(parts.objective(loss)), _by_class(parts, loss)
    first = parts.at_step(parts.config.loss.reweight_at_percent)
    main = before if first >= parts.num_steps else Switched(lambda step: step >= first, after, before)
    return Method(parts.plain_step(parts.objective()), main)


def _by_class(parts: Parts, loss: losses.LossFn) -> StepFn:
    """Plain training with class-balanced weights, divided by their sum: the step stays as long as it was."""
    weights = _class_weights(parts)
    return parts.weighted_step(
        objective=_each_class_for_itself(parts, loss),
        weight_fn=lambda params, losses, label: for_labels(jnp.asarray(weights, losses.dtype), label),
        optimizer=parts.optimizer,
        axis_name=parallel.axis_name(),
    )


def _class_weights(parts: Parts) -> np.ndarray:
    return class_balanced_weights(parts.data.biased.class_counts, beta=parts.config.loss.class_balanced_beta)


def _each_class_for_itself(parts: Parts, loss: losses.LossFn = losses.cross_entropy) -> ObjectiveFn:
    """The classification objective whose meta-classes are the classes."""
    counts = parts.data.biased.class_counts.astype(np.float64)
    classes = MetaClasses(centers=counts, of_class=np.arange(parts.num_classes, dtype=np.int32))
    return objectives.classification_objective(parts.model.apply, classes, loss)


def _mixup(parts: Parts) -> Method:
    mixed = mixing.mixed(parts.objective(), num_classes=parts.num_classes, alpha=parts.config.mixup_alpha)
    return Method(parts.plain_step(parts.objective()), parts.plain_step(mixed))


def _elr(parts: Parts) -> Method:
    fields = parts.config.elr
    objective = objectives.elr_objective(parts.model.apply, strength=fields.strength, momentum=fields.momentum)
    main = remembering(parts.plain_step(objective), parallel.axis_name())
    return Method(parts.plain_step(parts.objective()), main, memory=_empty_table(parts, jnp.float32))


def _proden(parts: Parts) -> Method:
    """PRODEN, from the first step on: the given label of a candidate set says nothing to warm up on."""
    objective = partial_labels.proden_objective(parts.model.apply, parts.data.meta_classes)
    step = remembering(parts.plain_step(objective), parallel.axis_name())
    confidences = partial_labels.uniform_confidences(parts.data.biased.candidates)
    return Method(step, step, memory=Table.full(np.asarray(confidences)))


def _reweighted(parts: Parts) -> Method:
    """MW-Net and CMW-Net."""
    objective = parts.objective(choose_loss(parts, parts.config.loss.name))
    if parts.config.weight_net.class_feature == "shuffled":
        objective = objectives.with_meta_class(objective, _shuffled_meta_classes(parts))
    main = _weighted(parts, objective, parts.config.weight_net.normalize)
    return _with_weight_net(parts, parts.plain_step(parts.objective()), main)


def _soft_labels(parts: Parts) -> Method:
    """CMW-Net-SL: the teacher follows from the first step on, its labels count after the warm-up (Q13)."""
    fields = parts.config.soft_labels
    objective = soft_labels.soft_label_objective(
        parts.model.apply,
        parts.data.meta_classes,
        momentum=fields.momentum,
        mixup_alpha=parts.config.mixup_alpha,
        second_loss=fields.second_loss,
    )
    axis_name = parallel.axis_name()
    kept, frozen_from = fields.teacher_momentum, parts.at_step(fields.freeze_teacher_at_percent)

    def momentum(step):
        return jnp.where(step < frozen_from, kept, 1.0)

    def with_teacher(step):
        step = soft_labels.teaching(soft_labels.reporting_own_labels(step), _predict(parts), axis_name)
        return soft_labels.averaging(remembering(step, axis_name), momentum)

    table = _empty_table(parts, jnp.dtype(fields.dtype))
    if fields.start_from == "given":
        given = np.eye(parts.num_classes, dtype=np.float32)[parts.data.biased.given]
        table = Table.full(given.astype(table.values.dtype))
    warmup = soft_labels.averaging(parts.plain_step(parts.objective()), momentum)
    main = each(with_teacher, _weighted(parts, objective, "mean"))  # Q2
    method = _with_weight_net(parts, warmup, main)
    return dataclasses.replace(method, memory=table)


def _l2rw(parts: Parts) -> Method:
    weight_fn = free_weights.free_weight_fn(parallel.axis_name())
    return _free_weights(parts, parts.objective(), weight_fn, free_weights.reweighting_optimizer(), "sum")


def _mcw(parts: Parts) -> Method:
    weight_fn = free_weights.class_and_free_weight_fn(_class_weights(parts), parallel.axis_name())
    rate = parts.config.loss.mcw_learning_rate
    return _free_weights(parts, _each_class_for_itself(parts), weight_fn, optax.sgd(rate), "mean")


def _weight_net(parts: Parts) -> WeightNet:
    return WeightNet(parts.data.meta_classes.num_meta_classes, parts.config.weight_net.hidden)


def _weight_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_net.weight_decay), optax.adam(config.weight_net.learning_rate)
    )


def _learned_elsewhere(parts: Parts) -> SavedWeightNet | None:
    """The weight net to start from, where the config names one."""
    fields = parts.config.weight_net
    if not fields.init:
        return None
    with about("weight_net.init"):
        saved = load_weight_net(fields.init)
    wanted = {"num_meta_classes": parts.data.meta_classes.num_meta_classes, "hidden": fields.hidden}
    for name, value in wanted.items():
        if getattr(saved, name) != value:
            raise UsageError(
                f"weight_net.init is {fields.init!r}, whose {name} is {getattr(saved, name)}, expected "
                f"{value}, as {parts.config.method} has here: set weight_net.{name}, or take another method "
                f"or weight net"
            )
    return saved


def _weighted(parts: Parts, objective: ObjectiveFn, normalize: str) -> StepFn | InPasses:
    """Meta steps, with weighted steps between where the config says so; a frozen net's are all weighted."""
    shared = {
        "objective": objective,
        "weight_fn": _weight_net(parts).apply,
        "optimizer": parts.optimizer,
        "normalize": normalize,
        "axis_name": parallel.axis_name(),
    }
    if parts.config.weight_net.frozen:
        return parts.weighted_step(**shared)
    learned = {
        "meta_loss": _meta_loss(parts),
        "weight_optimizer": _weight_optimizer(parts.config),
        "virtual_lr": parts.learning_rate,
    }
    if parts.config.low_memory:
        passes = {"micro_batches": parts.config.micro_batches, "compile": parallel.pmap, "donate": True}
        meta_step = InPasses(make_low_memory_step(**shared, **learned, **passes))
    else:
        meta_step = make_meta_step(**shared, **learned)
    every = parts.config.meta_every_steps
    if every == 1:
        return meta_step
    return Switched(lambda step: step % every == 0, meta_step, parts.weighted_step(**shared))


def _with_weight_net(parts: Parts, warmup: StepFn, main: StepFn) -> Method:
    net, learned = _weight_net(parts), _learned_elsewhere(parts)

    def init_weights(key):
        if learned is not None:
            return jax.tree.map(jnp.asarray, learned.weight_params)
        return net.init(key, jnp.zeros(1), jnp.zeros(1, jnp.int32))

    return Method(
        warmup=warmup,
        main=main,
        weight_optimizer=None if parts.config.weight_net.frozen else _weight_optimizer(parts.config),
        weight_net=net,
        init_weights=init_weights,
        learned_elsewhere=learned,
    )


def _free_weights(parts, objective, weight_fn, weight_optimizer, normalize) -> Method:
    """A method with a free weight an example of the batch, which starts afresh at every step."""
    meta_step = make_meta_step(
        objective=objective,
        meta_loss=_meta_loss(parts),
        weight_fn=weight_fn,
        optimizer=parts.optimizer,
        weight_optimizer=weight_optimizer,
        virtual_lr=parts.learning_rate,
        normalize=normalize,
        axis_name=parallel.axis_name(),
    )
    return Method(
        warmup=parts.plain_step(parts.objective()),
        main=free_weights.afresh(meta_step),
        weight_optimizer=weight_optimizer,
        init_weights=lambda key: jnp.zeros(parts.config.batch_size),
    )


def _meta_loss(parts: Parts):
    """The mean cross-entropy on the meta batch, mixed with Beta(1, 1) where the config says so (Sec. 4.2)."""
    plain = objectives.classification_meta_loss(parts.model.apply)
    return mixing.mixed(plain, num_classes=parts.num_classes) if parts.config.meta_set.mixup else plain


def _predict(parts: Parts):
    """The teacher's logits: with its running statistics, or in train mode as published (Q16)."""
    if parts.config.soft_labels.teacher_statistics == "batch":
        forward = objectives.train_mode(parts.model.apply)
        return lambda teacher, batch, key: forward(teacher.params, teacher.model_state, batch["image"], key)[0]

    def predict(teacher, batch, key):
        del key
        return parts.model.apply({"params": teacher.params, **teacher.model_state}, batch["image"], train=False)

    return predict


def _empty_table(parts: Parts, dtype: jnp.dtype) -> Table:
    # On the host, until `parallel.replicate` shares it out: it may fit no single device.
    return Table.full(np.zeros((len(parts.data.biased.ids), parts.num_classes), dtype))


def _shuffled_meta_classes(parts: Parts) -> np.ndarray:
    """[N] int32, the examples' meta-classes dealt out anew: as many of each, and of no meaning."""
    of_row = parts.data.meta_classes.of_class[parts.data.biased.given]
    return stream(parts.config.seed, Purpose.SHUFFLED_META_CLASSES).permutation(of_row).astype(np.int32)


MAKERS: dict[str, Callable[[Parts], Method]] = {
    "erm": _plain,
    "focal": partial(_plain, loss="focal"),
    "class_balanced": _class_balanced,
    "gce": partial(_plain, loss="gce"),
    "forward": partial(_plain, loss="forward"),
    "ldam": _ldam,
    "mixup": _mixup,
    "elr": _elr,
    "proden": _proden,
    "l2rw": _l2rw,
    "mcw": _mcw,
    "mwnet": _reweighted,
    "cmwnet": _reweighted,
    "cmwnet_sl": _soft_labels,
}
"""What builds each method of `methods.METHODS`."""
