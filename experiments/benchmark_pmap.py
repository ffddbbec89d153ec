"""Measures the overhead of the launcher's pmap on one device.

    python -m experiments.benchmark_pmap [--repeats=15]

It compares jit with pmap over the first device on the meta step of an MLP (784-256-256-10 with BatchNorm, batch
size 128), with 100 steps in one program. The two alternate; the results are medians. Result:
docs/launching.md.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import optax
from absl import flags

import cmwnet_jax as cmw
from cmwnet_jax import command
from cmwnet_jax.models import MLP

_REPEATS = flags.DEFINE_integer("repeats", 15, "runs of each", lower_bound=1)
_STEPS = 100


def make(axis_name: str | None):
    """Makes (program, state) of 100 meta steps on one batch, which is an argument of the program."""
    model, weight_net = MLP(num_classes=10, axis_name=axis_name), cmw.WeightNet(num_meta_classes=3)
    optimizers = {"optimizer": optax.sgd(0.1, momentum=0.9), "weight_optimizer": optax.adam(1e-3)}
    step = cmw.make_meta_step(
        objective=cmw.classification_objective(model.apply, cmw.MetaClasses.fit([10, 20, 300, *[4000] * 7])),
        meta_loss=cmw.classification_meta_loss(model.apply),
        weight_fn=weight_net.apply,
        virtual_lr=0.1,
        axis_name=axis_name,
        **optimizers,
    )
    key = jax.random.key(0)
    variables = model.init(key, jnp.zeros((1, 28, 28, 1)))
    state = cmw.MetaState.create(
        params=variables["params"],
        model_state={"batch_stats": variables["batch_stats"]},
        weight_params=weight_net.init(key, jnp.ones(1), jnp.zeros(1, jnp.int32)),
        rng=key,
        **optimizers,
    )

    def program(state, batch):
        return jax.lax.scan(lambda s, _: step(s, batch, batch), state, None, length=_STEPS)

    return program, state


def main(argv: list[str]) -> None:
    """Measures and prints the results."""
    del argv
    batch = {
        "image": jax.random.normal(jax.random.key(1), (128, 28, 28, 1)),
        "label": jnp.arange(128, dtype=jnp.int32) % 10,
    }
    program, state = make(None)  # as the launcher does on one device
    collective, _ = make("devices")
    first = jax.local_devices()[:1]
    lifted = jax.tree.map(lambda x: x[None], (state, batch))
    runs = {
        "jit": (jax.jit(program), (state, batch)),
        "pmap": (jax.pmap(program, axis_name="devices", devices=first), lifted),
        "pmap with collectives": (jax.pmap(collective, axis_name="devices", devices=first), lifted),
    }
    seconds = {name: [] for name in runs}
    for repeat in range(_REPEATS.value + 1):
        for name, (program, arguments) in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name}: {1e3 * value / _STEPS:.3f} ms a step")
    for name in ("pmap", "pmap with collectives"):
        percent = 100 * (medians[name] / medians["jit"] - 1)
        print(f"{name} against jit: {percent:+.1f}%  ({first[0].device_kind}, jax {jax.__version__})")


if __name__ == "__main__":
    command.run(main)
