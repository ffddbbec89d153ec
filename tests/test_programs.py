"""Steps of more than one program do what one program does: chosen by the host, or in passes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import small_config

from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data.batches import Raw, Selection
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import Phase, Stream
from cmwnet_jax.methods.steps import Switched
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.inputs import DeviceInput, open_input
from cmwnet_jax.train.views import Scaling


def run(steps, **fields):
    """(state, metrics) after so many main steps, in the launcher's way."""
    config = small_config(**fields)
    check_config(config)
    data = load_data(config)
    recipe = build_recipe(config, data)
    inputs = open_input(data, recipe.method.streams, recipe.orders, config.seed, recipe.one_step_a_call)
    places = np.arange(48, dtype=np.int32)
    meta = inputs.load("meta", Selection(places, data.splits["train"].label[:48]), 0)
    rows = {"train": recipe.orders["train"].epoch(0)[:steps], "meta": np.tile(places, (steps, 1))}
    run_steps = inputs.make_run_steps(recipe.method.phases[-1])
    state, metrics = run_steps(parallel.replicate(recipe.state), rows, {"meta": meta})
    return parallel.unreplicate((state, metrics))


def test_the_host_chooses_the_step_that_one_program_would():
    def adding(amount):
        def step(state, batch):
            rows = batch["train"]["row"]
            numbers = {"losses": rows + amount, "weights": rows}
            return state.replace(step=state.step + 1, params=state.params + amount), numbers

        return step

    def prepare(fetched, key):
        del key
        return {name: {"row": raw.row} for name, raw in fetched[0].items()}

    phase = Phase(Switched(lambda number: number % 3 == 1, adding(1), adding(10)))
    streams = {"train": Stream(8, "batch_size")}
    table = Raw(image=np.zeros((40, 2, 2, 1), np.uint8), label=np.zeros(40, np.int32), row=np.arange(40))
    rows, state = (
        np.arange(40, dtype=np.int32).reshape(5, 8),
        MetaState.create(params=jnp.ones(()), optimizer=optax.identity(), rng=jax.random.key(0)),
    )
    ends = []
    for one_step_a_call in (True, False):
        inputs = DeviceInput(
            {"train": table},
            streams=streams,
            prepare=prepare,
            scaling=Scaling(),
            one_step_a_call=one_step_a_call,
        )
        begun = parallel.replicate(state.replace(step=jnp.array(4)))
        run_steps = inputs.make_run_steps(phase)
        begun, first = run_steps(begun, {"train": rows[:3]}, {})
        end, second = parallel.unreplicate(run_steps(begun, {"train": rows[3:]}, {}))
        numbers = {name: [*parallel.unreplicate(first)[name], *second[name]] for name in second}
        ends.append((end, numbers))
    for end, numbers in ends:
        added = np.array([1, 10, 10, 1, 10])
        assert float(end.params) == 1 + added.sum() and int(end.step) == 9
        np.testing.assert_array_equal(numbers["losses"], rows + added[:, None])


def test_low_memory_takes_the_same_steps():
    """In three micro-batches: exact without BatchNorm. `test_low_memory.py` has the rest, in float64."""
    fields = {"meta_every_steps": 2, "model__batch_norm": False}
    low, default = (run(3, **fields, **more) for more in ({"low_memory": True, "micro_batches": 3}, {}))
    for field in ("params", "weight_params"):
        for one, other in zip(
            *(jax.tree.leaves(getattr(end[0], field)) for end in (low, default)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert low[1].keys() == default[1].keys()
    for name, values in low[1].items():
        np.testing.assert_allclose(values, default[1][name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_low_memory_compiles_the_passes_apart(monkeypatch):
    compiled = []
    pmap = parallel.pmap
    monkeypatch.setattr(
        parallel, "pmap", lambda function, **kwargs: compiled.append(function) or pmap(function, **kwargs)
    )
    config = small_config(low_memory=True)
    data = load_data(config)
    recipe = build_recipe(config, data)
    assert len(compiled) == 4 and recipe.one_step_a_call


@pytest.mark.parametrize(("micro_batches", "loops"), [(1, 0), (3, 2)])
def test_all_steps_are_in_micro_batches_not_the_meta_step_alone(micro_batches, loops):
    """A pass forward and one back, in the warm-up and between meta steps."""
    config = small_config(low_memory=True, meta_every_steps=2, micro_batches=micro_batches)
    data = load_data(config)
    recipe = build_recipe(config, data)
    raw = data.splits["train"].take(np.arange(48))
    batch = parallel.split({"image": raw.image.astype(np.float32), "label": raw.label})
    warmup, main = (phase.step for phase in recipe.method.phases)
    for step in (warmup, main.if_false):
        traced = jax.make_jaxpr(parallel.pmap(step))(parallel.replicate(recipe.state), {"train": batch})
        assert str(traced).count("scan[") == loops


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low_memory": True, "method": "cmwnet_sl"}, "low_memory is True, which cmwnet_sl does not read"),
        ({"low_memory": True, "method": "erm"}, "low_memory is True, which erm does not read"),
        ({"micro_batches": 2}, "micro_batches is 2, which the default step does not read"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        (
            {"low_memory": True, "micro_batches": 5},
            "batch_size is 48, expected a multiple of the run's 4 devices times",
        ),
        (
            {"low_memory": True, "micro_batches": 6, "meta_set__per_class_examples": 2},
            "meta_set.per_class_examples is 2: the meta set comes to 20, expected at least one",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_built(fields, message):
    config = small_config(**fields)
    with pytest.raises(UsageError, match=message):
        check_config(config)
        build_recipe(config, load_data(config))
