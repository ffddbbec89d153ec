"""The tasks of `experiments.benchmark_step`: networks and their batches."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cmwnet_jax as cmw
from cmwnet_jax.models import MODELS

META_CLASSES = cmw.MetaClasses.fit([10, 20, 300, *[4000] * 7])
LEARNING_RATE = 0.1
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and its batches; the cheap virtual step changes only `last_layers`."""

    model: str
    batch_size: int
    last_layers: tuple[str, ...]
    image_shape: tuple[int, int, int] = (32, 32, 3)
    fields: Mapping = dataclasses.field(default_factory=dict)
    peer: str = ""
    peer_fields: Mapping = dataclasses.field(default_factory=dict)
    accelerator: bool = False


_HIDDEN = (300, 301, 302, 303)
TASKS = {
    "mlp": Task(
        "mlp",
        128,
        ("Dense_3", "BatchNorm_3", "Dense_4"),
        (28, 28, 1),
        {"hidden": _HIDDEN},
        "mlp",
        {"features": 784, "hidden": _HIDDEN},
    ),
    "small_cnn": Task("small_cnn", 128, ("Conv_5", "BatchNorm_5", "head"), peer="small_cnn"),
    "resnet32": Task("resnet32", 100, ("layer3_4", "head"), peer="resnet_cifar"),
    "preact_resnet18": Task(
        "preact_resnet18", 128, ("layer4_1", "head"), peer="preact_resnet18", accelerator=True
    ),
    "wrn_28_10": Task(
        "wide_resnet28_10", 128, ("layer3_3", "bn1", "head"), peer="wide_resnet", accelerator=True
    ),
}


def recorded(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wraps an optimiser so that its state starts with the last gradient."""
    keep = optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params), update=lambda g, state, params: (g, g)
    )
    return optax.chain(keep, optimizer)


OPTIMIZERS = {
    "optimizer": optax.sgd(LEARNING_RATE, momentum=0.9),
    "weight_optimizer": recorded(optax.adam(1e-3)),
}


def examples(task: Task) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Makes a batch with 30% wrong labels and a clean meta batch: one prototype per class, plus noise."""
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(10, *task.image_shape))

    def draw(wrong):
        size = task.batch_size
        true = np.arange(size) % 10
        image = 0.2 * prototypes[true] + rng.normal(size=(size, *task.image_shape))
        given = np.where(
            rng.uniform(size=task.batch_size) < wrong, rng.integers(10, size=task.batch_size), true
        )
        return {"image": image.astype(np.float32), "label": given.astype(np.int32)}

    return draw(0.3), draw(0.0)


def parts(task: Task, dtype) -> tuple[dict, cmw.MetaState]:
    """Makes (arguments of `make_meta_step`, initial state)."""
    model = MODELS[task.model](num_classes=10, dtype=dtype, **task.fields)
    weight_net, key = cmw.WeightNet(num_meta_classes=3), jax.random.key(0)

    def create(key):
        variables = model.init(key, jnp.zeros((1, *task.image_shape)), train=False)
        return cmw.MetaState.create(
            params=variables["params"],
            model_state={"batch_stats": variables["batch_stats"]},
            weight_params=weight_net.init(key, jnp.ones(1), jnp.zeros(1, jnp.int32)),
            rng=key,
            **OPTIMIZERS,
        )

    arguments = {
        "objective": cmw.classification_objective(model.apply, META_CLASSES),
        "meta_loss": cmw.classification_meta_loss(model.apply),
        "weight_fn": weight_net.apply,
        "virtual_lr": LEARNING_RATE,
        **OPTIMIZERS,
    }
    return arguments, jax.jit(create)(key)
