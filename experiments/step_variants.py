"""Variants of a training step for `experiments.benchmark_step`, in this package and in PyTorch."""

import contextlib
import dataclasses
import fnmatch
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import cmwnet_jax as cmw
from cmwnet_jax.train import parallel
from experiments.step_tasks import LEARNING_RATE, META_CLASSES, Task, examples, parts

ERM, META = "ERM", "meta step"
SCANNED = 10
SCANNED_ERM, SCANNED_META = (f"{name}, {SCANNED} in one program" for name in (ERM, META))
PEERS = {
    "erm": "PyTorch, ERM",
    "second_order": "PyTorch, second order",
    "pruned_second_order": "PyTorch, second order, pruned",
    "finite_difference": "PyTorch, finite differences",
}
"""Methods of `torch_peers.Trainer` and their names in tables."""


@dataclasses.dataclass(eq=False)
class Variant:
    """A variant of training. All attributes except `run` and `group` refer to one step.

    Attributes:
        run: takes a number of steps, a multiple of `group`, and waits for them.
        group: steps in one full cycle of the variant.
        baseline: name of the plain training with which its time is compared.
        meta_gradient: the first step's meta-gradient from the common state, as a vector; None if it has none.
        compile_seconds, flops, temporary_bytes: from JAX and its compiler; None for PyTorch.
    """

    run: Callable[[int], None]
    group: int = 1
    baseline: str = ERM
    meta_gradient: np.ndarray | None = None
    compile_seconds: float | None = None
    flops: float | None = None
    temporary_bytes: int | None = None


class Program:
    """A function that is compiled at its first call, with the compiler's statistics."""

    def __init__(self, function: Callable, **options):
        self.jitted, self.compiled = jax.jit(function, **options), None

    def __call__(self, *arguments):
        """Calls the function."""
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
    """A call of `count` steps on fixed batches, and the programs that it consists of."""

    call: Callable
    batches: tuple
    programs: list[Program]
    count: int = 1

    @classmethod
    def of(cls, step: Callable, *batches) -> "Step":
        """Makes a step of one program, which may overwrite the old state with the new one."""
        program = Program(step, donate_argnums=0)
        return cls(program, batches, [program])

    @classmethod
    def scanned(cls, step: Callable, *batches) -> "Step":
        """Makes one program of several steps, as in launched runs where that is faster."""

        def several(state, *batches):
            return jax.lax.scan(lambda state, _: step(state, *batches), state, length=SCANNED)

        return dataclasses.replace(cls.of(several, *batches), count=SCANNED)

    @classmethod
    def in_passes(cls, arguments: Mapping, *batches) -> "Step":
        """Makes a low-memory step with these arguments, of several programs."""
        passes = []
        step = cmw.make_low_memory_step(
            **arguments, compile=lambda function: passes.append(Program(function)) or passes[-1]
        )
        return cls(step, batches, passes)


def chosen(names: Iterable[str], patterns: Sequence[str], baselines: Mapping[str, str]) -> list[str]:
    """The names that match a pattern, and those that they are compared with.

    Args:
        names: of all variants.
        patterns: with `*` and `?`; no patterns match all.
        baselines: name -> the name of what its time is compared with.
    """
    names = list(names)
    found = {name for pattern in patterns or ["*"] for name in fnmatch.filter(names, pattern)}
    found |= {baselines[name] for name in found if name in baselines}
    return [name for name in names if name in found]


def jax_variants(task: Task, dtype, patterns: Sequence[str] = ()) -> tuple[dict[str, Variant], cmw.MetaState]:
    """Makes this package's variants, and their common initial state: after ten steps of plain training.

    Args:
        task: the network and its batches.
        dtype: what it computes in.
        patterns: which variants, as in `chosen`, besides plain training.
    """
    arguments, state = parts(task, dtype)
    batch, meta_batch = jax.device_put(examples(task))
    quarter = jax.tree.map(lambda x: x[: task.batch_size // 4], meta_batch)
    weighted = {name: arguments[name] for name in ("objective", "optimizer")}
    erm_step, meta_step = cmw.make_weighted_step(**weighted), cmw.make_meta_step(**arguments)
    erm, meta = Step.of(erm_step, batch), Step.of(meta_step, batch, meta_batch)
    for _ in range(10):
        state, _ = erm.call(state, batch)
    frozen = Step.of(cmw.make_weighted_step(**weighted, weight_fn=arguments["weight_fn"]), batch)
    last = cmw.make_meta_step(
        **arguments, virtual_filter=lambda p: {name: name in task.last_layers for name in p}
    )
    ways = {
        ERM: [erm],
        "frozen weight net": [frozen],
        META: [meta],
        "meta step every 10 steps": [meta, *[frozen] * 9],
        "meta step, last layers": [Step.of(last, batch, meta_batch)],
        "meta step, quarter meta batch": [Step.of(meta_step, batch, quarter)],
        "meta step, low memory": [Step.in_passes(arguments, batch, meta_batch)],
        "meta step, low memory, shared forward": [
            Step.in_passes({**arguments, "shared_forward": True}, batch, meta_batch)
        ],
    }
    delayed = cmw.make_meta_step(**arguments, delayed_weights=True)
    ways[f"{META}, delayed weights"] = [Step.of(delayed, batch, meta_batch)]
    if task.independent:
        exact, both = (
            cmw.make_meta_step(**arguments, independent_examples=True, delayed_weights=late)
            for late in (False, True)
        )
        ways[f"{META}, independent examples"] = [Step.of(exact, batch, meta_batch)]
        ways[f"{META}, independent, delayed"] = [Step.of(both, batch, meta_batch)]
        ways[f"{META}, independent, delayed, quarter meta batch"] = [Step.of(both, batch, quarter)]
    if not parallel.loops_are_slow(erm_step, state, batch):
        ways[SCANNED_ERM] = [Step.scanned(erm_step, batch)]
        ways[SCANNED_META] = [Step.scanned(meta_step, batch, meta_batch)]
    baselines = {SCANNED_META: SCANNED_ERM}
    names = chosen(ways, patterns and [ERM, *patterns], baselines)
    return {name: variant_of(ways[name], state, baselines.get(name, ERM)) for name in names}, state


def exact_meta_gradient(task: Task, state: cmw.MetaState) -> np.ndarray:
    """The meta-gradient of the exact meta step in float32, as a vector.

    Args:
        task: the network and its batches.
        state: the state at which it is computed.
    """
    arguments, _ = parts(task, jnp.float32)
    with jax.default_matmul_precision("highest"):
        new, _ = jax.jit(cmw.make_meta_step(**arguments))(state, *examples(task))
    return vector(new.weight_opt_state[0])


def variant_of(steps: list[Step], state: cmw.MetaState, baseline: str = ERM) -> Variant:
    """Makes a variant that takes the given steps in turn; compiles all of them.

    Args:
        steps: the steps of one cycle.
        state: the initial state, which is copied.
        baseline: as in `Variant`.
    """
    holder = [jax.tree.map(jnp.copy, state)]

    def take(step):
        holder[0], _ = step.call(holder[0], *step.batches)

    def run(count):
        for step in itertools.islice(itertools.cycle(steps), count // group * len(steps)):
            take(step)
        jax.block_until_ready(holder[0].params)

    group = sum(step.count for step in steps)
    take(steps[0])
    first = vector(holder[0].weight_opt_state[0])
    run(group)
    each = [program for step in steps for program in step.programs]
    # Zeros mean that the weight net did not learn. After several steps, the gradient belongs to another state.
    known = steps[0].count == 1 and np.any(first)
    return Variant(
        run,
        group=group,
        baseline=baseline,
        meta_gradient=first if known else None,
        compile_seconds=sum(program.seconds for program in dict.fromkeys(each)),
        # The compiler counts a loop's body once.
        flops=sum(step.count * program.flops for step in steps for program in step.programs) / group,
        temporary_bytes=max(program.temporary_bytes for program in each),
    )


def torch_variants(
    task: Task, state: cmw.MetaState, dtype: str, patterns: Sequence[str] = ()
) -> dict[str, Variant]:
    """Makes PyTorch's variants with the same parameters and device; empty without PyTorch or a peer.

    Args:
        task: the network and its batches.
        state: the initial state of the JAX variants.
        dtype: dtype of the computation, a key of DTYPES.
        patterns: which variants, as in `chosen`.
    """
    names = chosen(PEERS.values(), patterns, dict.fromkeys(PEERS.values(), PEERS["erm"]))
    if not names or not task.peer or importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from experiments import torch_peers

    device = torch.device("cpu" if jax.default_backend() == "cpu" else "cuda")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as in JAX by default

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
        if name not in names:
            continue
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
    return Variant(run, baseline=PEERS["erm"], meta_gradient=None if gradient is None else vector(gradient))


def vector(gradient: Mapping) -> np.ndarray:
    """Concatenates a meta-gradient's leaves, [parameters of the weight net] float64."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]).astype(np.float64)
