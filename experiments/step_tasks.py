"""The tasks of `experiments.benchmark_step`: networks and their batches."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import cmwnet_jax as cmw
from cmwnet_jax.models import MODELS

META_CLASSES = cmw.MetaClasses.fit([10, 20, 300, *[4000] * 7])
LEARNING_RATE = 0.1
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Transformer(nn.Module):
    """Encoder blocks (LayerNorm before attention and MLP), the mean over positions, and a linear head.

    Attributes:
        num_classes: C.
        vocabulary: number of tokens; 0 for images, of which each patch is embedded linearly, as in a ViT.
        width, depth, heads, patch: units per position, blocks, attention heads, and the side of a patch.
        dtype: dtype of the computation.
    """

    num_classes: int
    vocabulary: int = 0
    width: int = 192
    depth: int = 6
    heads: int = 3
    patch: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of tokens [n, length] int32 or images [n, height, width, channels]."""
        if self.vocabulary:
            x = nn.Embed(self.vocabulary, self.width, dtype=self.dtype)(inputs)
        else:
            n, height, width, channels = inputs.shape
            cut = (n, height // self.patch, self.patch, width // self.patch, self.patch, channels)
            patches = inputs.reshape(cut).swapaxes(2, 3).reshape(n, -1, self.patch**2 * channels)
            x = nn.Dense(self.width, dtype=self.dtype)(patches)
        x += self.param("position", nn.initializers.normal(0.02), x.shape[1:]).astype(self.dtype)[None]
        for _ in range(self.depth):
            normal = nn.LayerNorm(dtype=self.dtype)(x)
            x += nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(normal)
            hidden = nn.gelu(nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x)))
            x += nn.Dense(self.width, dtype=self.dtype)(hidden)
        x = jnp.mean(nn.LayerNorm(dtype=self.dtype)(x), axis=1)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


NETWORKS = {**MODELS, "transformer": Transformer}


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and its batches.

    Attributes:
        model: its name in NETWORKS.
        batch_size: examples in a batch and in a meta batch.
        last_layers: the parameters that the cheap virtual step changes.
        image_shape: the shape of an example; of one axis: so many tokens.
        fields: the network's fields.
        peer, peer_fields: the same network in `torch_peers`; empty if there is none.
        accelerator: whether the network is too large for a CPU.
        independent: whether its examples are independent, i.e. it has no BatchNorm.
    """

    model: str
    batch_size: int
    last_layers: tuple[str, ...]
    image_shape: tuple[int, ...] = (32, 32, 3)
    fields: Mapping = dataclasses.field(default_factory=dict)
    peer: str = ""
    peer_fields: Mapping = dataclasses.field(default_factory=dict)
    accelerator: bool = False
    independent: bool = False


_HIDDEN, _WIDE = (300, 301, 302, 303), (1024, 1024, 1024)
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
    "mlp_1024": Task(
        "mlp",
        256,
        ("Dense_3",),
        (28, 28, 1),
        {"hidden": _WIDE, "batch_norm": False},
        "mlp",
        {"features": 784, "hidden": _WIDE, "batch_norm": False},
        independent=True,
    ),
    "transformer": Task("transformer", 64, ("head",), (64,), {"vocabulary": 1000}, independent=True),
    "vit": Task("transformer", 64, ("head",), independent=True),
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
    """Makes a batch with 30% wrong labels and a clean meta batch: one prototype per class, plus noise.

    Tokens are the ranks of such numbers, in as many classes of equal size as the vocabulary has tokens.
    """
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(10, *task.image_shape))

    def draw(wrong):
        size = task.batch_size
        true = np.arange(size) % 10
        image = 0.2 * prototypes[true] + rng.normal(size=(size, *task.image_shape))
        given = np.where(
            rng.uniform(size=task.batch_size) < wrong, rng.integers(10, size=task.batch_size), true
        )
        tokens = task.fields.get("vocabulary", 0)
        if tokens:
            image = np.argsort(np.argsort(image, axis=None)).reshape(image.shape) * tokens // image.size
        return {"image": image.astype(np.int32 if tokens else np.float32), "label": given.astype(np.int32)}

    return draw(0.3), draw(0.0)


def parts(task: Task, dtype, meta_classes: cmw.MetaClasses = META_CLASSES) -> tuple[dict, cmw.MetaState]:
    """Makes (arguments of `make_meta_step`, initial state).

    Args:
        task: the network and its batches.
        dtype: dtype of the computation.
        meta_classes: of all classes; they set the numbers of classes and of meta-classes.
    """
    model = NETWORKS[task.model](num_classes=len(meta_classes.of_class), dtype=dtype, **task.fields)
    weight_net, key = cmw.WeightNet(meta_classes.num_meta_classes), jax.random.key(0)

    def create(key):
        kind = jnp.int32 if task.fields.get("vocabulary") else jnp.float32
        variables = dict(model.init(key, jnp.zeros((1, *task.image_shape), kind), train=False))
        return cmw.MetaState.create(
            params=variables.pop("params"),
            model_state=variables,
            weight_params=weight_net.init(key, jnp.ones(1), jnp.zeros(1, jnp.int32)),
            rng=key,
            **OPTIMIZERS,
        )

    arguments = {
        "objective": cmw.classification_objective(model.apply, meta_classes),
        "meta_loss": cmw.classification_meta_loss(model.apply),
        "weight_fn": weight_net.apply,
        "virtual_lr": LEARNING_RATE,
        **OPTIMIZERS,
    }
    return arguments, jax.jit(create)(key)
