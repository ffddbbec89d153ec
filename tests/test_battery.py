"""Every method through one battery, in float64: four devices are one, state in is state out, what it plans."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import flat
from test_train import small_config

from cmwnet_jax.core.table import Table
from cmwnet_jax.core.weight_net import WeightNet
from cmwnet_jax.data.load import load_data
from cmwnet_jax.methods import METHODS, weight_nets
from cmwnet_jax.models import MODELS
from cmwnet_jax.models.heads import linear_head, unit
from cmwnet_jax.models.layers import Classifier
from cmwnet_jax.models.memory_head import memory_head
from cmwnet_jax.models.selective_heads import selective_heads
from cmwnet_jax.train import build, parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.compiling import by_number
from cmwnet_jax.train.trainer import Trainer

# Each device mixes the examples that it has: of what mixes, four devices are only one where they do not.
ALONE = {"cmwnet_sl": {"mixup_alpha": 0.0}} | {
    name: {f"{name}__mixup_alpha": 0.0} for name in ("m_correction", "dividemix")
}
PLAIN = {name: {"method": name, **ALONE.get(name, {})} for name in METHODS}
VARIANTS = PLAIN | {
    "every third": {
        "method": "cmwnet",
        "meta_every_steps": 3,
        "delayed_weights": True,
        "independent_examples": True,
        "model__batch_norm": False,
    },
    "low memory": {"method": "cmwnet", "low_memory": True, "micro_batches": 2, "model__batch_norm": False},
    "low memory, every third": {
        "method": "mwnet",
        "low_memory": True,
        "meta_every_steps": 3,
        "delayed_weights": True,
    },
    "frozen": {"method": "cmwnet", "weight_net__frozen": True, "weight_net__learning_rate": 0.0},
    "held out": {"method": "cmwnet", "meta_set__kind": "held_out"},
    "balanced, from the start": {"method": "mcw", "meta_set__kind": "balanced", "warmup_epochs": 0},
    "soft labels, every third": {
        "method": "cmwnet_sl",
        "mixup_alpha": 0.0,
        "meta_every_steps": 3,
        "meta_set__pseudo_labels": True,
        "soft_labels__start_from": "given",
        "soft_labels__teacher_statistics": "batch",
    },
    "reweighted": {"method": "ldam", "loss__reweight_at_percent": 0.0},
    "mixed": {"method": "cmwnet_sl", "meta_set__mixup": True},
    "shuffled": {"method": "fixmatch_cmwnet", "fixmatch__shuffled_weights": True},
}
MIXED = ("mixup", "mixed", "shuffled")
PLANNED = ("held out",)  # whose step is the method's own
BIASES = {
    "proden": "long_tail_5+partial_30",
    "fixmatch": "long_tail_5+labels_80",
    "fixmatch_cmwnet": "long_tail_5+labels_80",
}
MAIN_STEPS = (11, 12)  # the second is one of each third


class Float64Classifier(Classifier, kw_only=True):
    """A hidden layer, batch normalisation over all devices, and a head of either kind."""

    hidden: tuple[int, ...] = (8,)
    batch_norm: bool = True

    @nn.compact
    def __call__(self, images, train=True):
        dense = functools.partial(nn.Dense, param_dtype=jnp.float64)
        x = dense(8)(images.reshape(len(images), -1))
        if self.batch_norm:
            running = self.variable("batch_stats", "mean", jnp.zeros, 8, jnp.float64)
            mean = running.value
            if train and not self.is_initializing():
                mean = jnp.mean(x, axis=0)
                mean = mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)
                running.value = 0.9 * running.value + 0.1 * mean
            x = x - mean[None]
        x = jnp.tanh(x)
        if self.make_head is linear_head:
            return dense(self.num_classes)(x)
        if self.make_head in (selective_heads, memory_head):
            return self.make_head(
                self.num_classes,
                kernel_init=nn.initializers.lecun_normal(),
                norm=functools.partial(
                    nn.BatchNorm,
                    use_running_average=not train,
                    axis_name=self.axis_name if train and not self.is_initializing() else None,
                ),
                name="heads",
            )(x)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (8, self.num_classes), jnp.float64)
        return 30 * unit(x) @ unit(kernel, axis=0)


@pytest.fixture(autouse=True)
def in_float64(x64, monkeypatch):
    jax.config.update("jax_numpy_rank_promotion", "allow")  # `x64` puts it back, too
    monkeypatch.setitem(MODELS, "float64", Float64Classifier)
    monkeypatch.setattr(weight_nets, "WeightNet", functools.partial(WeightNet, param_dtype=jnp.float64))


@functools.cache
def _data(bias, meta_set):
    return load_data(small_config(data__bias=bias, meta_set__kind=meta_set))


def built(name, monkeypatch, devices=4, state=None):
    """(config, data, recipe) of a variant for so many devices; the rest of the test has as many.

    Where a state is given, it begins with that.
    """
    own = jax.devices()[:devices]
    monkeypatch.setattr(jax, "local_devices", lambda: own)
    for count in ("local_device_count", "device_count"):
        monkeypatch.setattr(jax, count, lambda: devices)
    monkeypatch.setattr(jax, "pmap", functools.partial(_PMAP, devices=own))
    fields = VARIANTS[name]
    bias = BIASES.get(fields["method"], "long_tail_5+asymmetric_60")
    config = small_config(**{"data__bias": bias, "model__name": "float64", **fields})
    check_config(config)
    data = _data(bias, config.meta_set.kind)
    if state is not None:
        monkeypatch.setattr(build, "_initial_state", lambda *given: state.replace(memory=given[3].memory))
    recipe = build_recipe(config, data)
    # Heads and tables are kept in 32 bits or fewer, in which a sum's last bit could be an entry's.
    return config, data, dataclasses.replace(recipe, state=jax.tree.map(_in_float64, recipe.state))


def _in_float64(leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return np.asarray(leaf, np.float64) if isinstance(leaf, np.ndarray) else leaf.astype(jnp.float64)


_PMAP = jax.pmap


def phases_of(name, recipe):
    """Without a warm-up that the next phase begins with, or that is its method's own."""
    phases = list({phase.first_epoch: phase for phase in recipe.method.phases}.values())
    return phases if name in PLAIN else phases[-1:]


def planned_epochs(phases, config, data, recipe):
    """The first epoch of each phase as the launcher starts it."""
    trainer, state, epochs = Trainer(config, data, recipe), parallel.replicate(recipe.state), []
    for phase in phases:
        state, epoch = trainer.start_epoch(phase.first_epoch, state, {})
        planned = {stream for stream in phase.streams if recipe.method.streams[stream].planned}
        assert set(epoch.rows) == set(phase.streams)
        assert set(epoch.selections) == set(epoch.loaded) == planned
        assert all(len(selection.rows) == len(selection.labels) > 0 for selection in epoch.selections.values())
        epochs.append(epoch)
    return epochs


def batch_of(epoch, step, data, streams):
    """By stream, over the devices, in float64 and without augmentation."""
    batch = {}
    for name, rows in epoch.rows.items():
        raw, rows = data.splits[streams[name].split], rows[step]
        chosen = epoch.selections.get(name)
        taken = raw.take(rows if chosen is None else chosen.rows[rows])
        label = taken.label if chosen is None else chosen.labels[rows]
        image = np.asarray(taken.image, np.float64) / 16
        views = {view: image / (1 + place) for place, view in enumerate(streams[name].views)}
        batch[name] = parallel.split({**views, "label": label, "row": np.asarray(taken.row)})
    return batch


def described(tree):
    return jax.tree.map(lambda x: (np.shape(x), x.dtype), tree)


def trained(phases, data, recipe, epochs, devices):
    """[(state, metrics)] after one step of each phase but the last, and two of that."""
    state, ends = parallel.replicate(recipe.state), []
    taken = [(phase, epoch, 0, 0) for phase, epoch in zip(phases[:-1], epochs, strict=False)]
    taken += [(phases[-1], epochs[-1], number, i) for i, number in enumerate(MAIN_STEPS)]
    programs = {
        phase.first_epoch: by_number(phase.step, lambda raws, key: raws, lambda b: b) for phase in phases
    }
    before = described(state)
    for phase, epoch, number, place in taken:
        state = state.replace(step=jnp.full(devices, number, jnp.int32))
        batch = batch_of(epoch, place, data, recipe.method.streams)
        state, metrics = programs[phase.first_epoch](number)(state, batch)
        assert described(state) == before
        whole = parallel.unreplicate(state)
        ends.append((whole.replace(rng=()), jax.tree.map(lambda x: np.asarray(x[-1]), metrics)))
        learns = phase.learns(np.array([number]))[0]
        assert all(np.isfinite(value).all() for key, value in ends[-1][1].items() if "meta" not in key)
        assert all(np.isfinite(ends[-1][1][key]) == learns for key in ("meta_loss", "meta_grad_norm"))
    return ends


def moved(before, after):
    pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
    return [bool(np.any(np.asarray(x) != np.asarray(y))) for x, y in pairs]


@pytest.mark.parametrize("name", VARIANTS)
def test_battery(name, monkeypatch):
    config, data, recipe = built(name, monkeypatch)
    phases = phases_of(name, recipe)
    epochs = planned_epochs(phases, config, data, recipe)
    if name in PLANNED:
        return
    many = trained(phases, data, recipe, epochs, 4)
    start, end = recipe.state, many[-1][0]
    assert np.isfinite(flat(end.replace(memory=()))).all()
    assert all(moved(start.params, end.params))
    learning = np.any(recipe.method.phases[-1].learns(np.array(MAIN_STEPS)))
    assert learning == ("meta" in recipe.method.phases[-1].streams)
    assert any(moved(start.weight_params, end.weight_params)) == learning
    assert all(moved(start.teacher, end.teacher))
    remembered = moved(start.memory, end.memory)
    assert all(remembered) if isinstance(end.memory, Table) else any(remembered) == (end.memory != ())
    assert type(end.memory) is type(recipe.method.memory)

    if name in MIXED:
        return
    _, data, recipe = built(name, monkeypatch, 1, start)
    one = trained(phases_of(name, recipe), data, recipe, epochs, 1)
    for (state, metrics), (expected, expected_metrics) in zip(many, one, strict=True):
        np.testing.assert_allclose(flat(state), flat(expected), rtol=0, atol=1e-12)
        assert metrics.keys() == expected_metrics.keys()
        for field, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[field], value, rtol=1e-11, atol=1e-12, err_msg=field)
