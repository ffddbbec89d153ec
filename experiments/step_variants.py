"""Ways to take a training step, for `experiments.benchmark_step`: this package's, and PyTorch's."""

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cmwnet_jax as cmw
from cmwnet_jax.models import MODELS

META_CLASSES = cmw.MetaClasses.fit([10, 20, 300, *[4000] * 7])
LEARNING_RATE = 0.1
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ERM, META = "ERM", "meta step"
PEERS = {
    "erm": "PyTorch, ERM",
    "second_order": "PyTorch, second order",
    "finite_difference": "PyTorch, finite differences",
}
"""The methods of `torch_peers.Trainer`, and what tables call them."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and its batches; `last_layers` are what the cheap virtual step moves."""

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
    """The optimiser, with the last gradient kept at the head of its state."""
    keep = optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params), update=lambda g, state, params: (g, g)
    )
    return optax.chain(keep, optimizer)


OPTIMIZERS = {
    "optimizer": optax.sgd(LEARNING_RATE, momentum=0.9),
    "weight_optimizer": recorded(optax.adam(1e-3)),
}


def examples(task: Task) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A batch with 30% wrong labels and a clean meta batch: a prototype for each class, in noise."""
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
    """(arguments of `make_meta_step`, state before the first step)."""
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


@dataclasses.dataclass(eq=False)
class Variant:
    """One way to train: `run(steps)` takes steps and waits for them; the rest is said of one step.

    Attributes:
        run: takes a number of steps that `group` divides.
        group: steps that make one whole.
        meta_gradient: of the first step from the common state, as a vector; None where there is none.
        compile_seconds, flops, temporary_bytes: what JAX and its compiler say; None of PyTorch.
    """

    run: Callable[[int], None]
    group: int = 1
    meta_gradient: np.ndarray | None = None
    compile_seconds: float | None = None
    flops: float | None = None
    temporary_bytes: int | None = None


class Program:
    """A function that is compiled when it is first called, and what its compiler said of it."""

    def __init__(self, function: Callable, **options):
        self.jitted, self.compiled = jax.jit(function, **options), None

    def __call__(self, *arguments):
        """What the function gives."""
        if self.compiled is None:
            started = time.perf_counter()
            self.compiled = self.jitted.lower(*arguments).compile()
            self.seconds = time.perf_counter() - started
            analysis = self.compiled.cost_analysis()
            self.flops = (analysis[0] if isinstance(analysis, list) else analysis)["flops"]
            self.temporary_bytes = self.compiled.memory_analysis().temp_size_in_bytes
        return self.compiled(*arguments)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A step on its own batches, and the programs that it consists of."""

    call: Callable
    batches: tuple
    programs: list[Program]

    @classmethod
    def of(cls, step: Callable, *batches) -> "Step":
        """A step that is one program, which may write its new state over the old one."""
        program = Program(step, donate_argnums=0)
        return cls(program, batches, [program])


def jax_variants(task: Task, dtype) -> tuple[dict[str, Variant], cmw.MetaState]:
    """This package's ways, and the state that all of them start from: after ten steps of plain training."""
    arguments, state = parts(task, dtype)
    batch, meta_batch = jax.device_put(examples(task))
    quarter = jax.tree.map(lambda x: x[: task.batch_size // 4], meta_batch)
    weighted = {name: arguments[name] for name in ("objective", "optimizer")}
    erm = Step.of(cmw.make_weighted_step(**weighted), batch)
    for _ in range(10):
        state, _ = erm.call(state, batch)
    frozen = Step.of(cmw.make_weighted_step(**weighted, weight_fn=arguments["weight_fn"]), batch)
    meta = Step.of(cmw.make_meta_step(**arguments), batch, meta_batch)
    last = cmw.make_meta_step(
        **arguments, virtual_filter=lambda p: {name: name in task.last_layers for name in p}
    )
    passes = []
    in_passes = cmw.make_low_memory_step(
        **arguments, compile=lambda function: passes.append(Program(function)) or passes[-1]
    )
    ways = {
        ERM: [erm],
        "frozen weight net": [frozen],
        META: [meta],
        "meta step every 10 steps": [meta, *[frozen] * 9],
        "meta step, last layers": [Step.of(last, batch, meta_batch)],
        "meta step, quarter meta batch": [Step.of(cmw.make_meta_step(**arguments), batch, quarter)],
        "meta step, low memory": [Step(in_passes, (batch, meta_batch), passes)],
    }
    return {name: _variant(steps, state) for name, steps in ways.items()}, state


def exact_meta_gradient(task: Task, state: cmw.MetaState) -> np.ndarray:
    """The whole meta step's in float32, as a vector.

    Args:
        task: what is trained.
        state: where.
    """
    arguments, _ = parts(task, jnp.float32)
    with jax.default_matmul_precision("highest"):
        new, _ = jax.jit(cmw.make_meta_step(**arguments))(state, *examples(task))
    return vector(new.weight_opt_state[0])


def _variant(steps: list[Step], state: cmw.MetaState) -> Variant:
    """Steps that are taken in turn; all of them are compiled here."""
    holder = [jax.tree.map(jnp.copy, state)]

    def run(count):
        for number in range(count):
            step = steps[number % len(steps)]
            holder[0], _ = step.call(holder[0], *step.batches)
        jax.block_until_ready(holder[0].params)

    run(1)
    first = vector(holder[0].weight_opt_state[0])
    run(len(steps))
    each = [program for step in steps for program in step.programs]
    return Variant(
        run,
        group=len(steps),
        meta_gradient=first if np.any(first) else None,  # zeros: the weight net did not learn
        compile_seconds=sum(program.seconds for program in dict.fromkeys(each)),
        flops=sum(program.flops for program in each) / len(steps),
        temporary_bytes=max(program.temporary_bytes for program in each),
    )


def torch_variants(task: Task, state: cmw.MetaState, dtype: str) -> dict[str, Variant]:
    """PyTorch's ways, from the same parameters on the same device; none where it is not installed.

    Args:
        task: what is trained.
        state: of the JAX variants, before their first step.
        dtype: of the computation, a key of DTYPES.
    """
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from experiments import torch_peers

    device = torch.device("cpu" if jax.default_backend() == "cpu" else "cuda")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as JAX does by default

    def to_torch(batch):
        image = torch.tensor(batch["image"].transpose(0, 3, 1, 2).copy(), device=device)
        return image, torch.tensor(batch["label"], dtype=torch.long, device=device)

    def autocast():
        if dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, getattr(torch, dtype))

    batches = [to_torch(batch) for batch in examples(task)]
    variants = {}
    for method, name in PEERS.items():
        model = getattr(torch_peers, task.peer)(num_classes=10, **task.peer_fields)
        trainer = torch_peers.Trainer(
            torch_peers.load_linen(model, state.params).to(device),
            torch_peers.load_linen(torch_peers.WeightNet(3), state.weight_params["params"]).to(device),
            torch.tensor(META_CLASSES.of_class, dtype=torch.long, device=device),
            LEARNING_RATE,
            autocast,
        )
        step, needed = getattr(trainer, method), batches[:1] if method == "erm" else batches
        variants[name] = _torch_variant(torch, step, needed, trainer)
    return variants


def _torch_variant(torch, step: Callable, batches: tuple, trainer) -> Variant:
    def run(count):
        for _ in range(count):
            step(*batches)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run(1)
    gradient = trainer.meta_gradient()
    return Variant(run, meta_gradient=None if gradient is None else vector(gradient))


def vector(gradient: Mapping) -> np.ndarray:
    """A meta-gradient's leaves, one after the other, [parameters of the weight net] float64."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]).astype(np.float64)
