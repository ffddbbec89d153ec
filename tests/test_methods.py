"""Methods by their names: what they minimise is what the name says. That they train: see test_battery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_build import batches, main_step
from test_train import small_config

from cmwnet_jax.core import losses, mixing
from cmwnet_jax.core.class_balance import class_balanced_weights, ldam_margins
from cmwnet_jax.core.soft_labels import Teacher
from cmwnet_jax.core.table import Table, joined
from cmwnet_jax.core.transition import estimate_transition
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import Parts
from cmwnet_jax.methods.cmwnet import shuffled_meta_classes
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config

BIAS = "long_tail_5+asymmetric_60"


def built(**changes):
    wants_candidates = changes.get("method") == "proden"
    biases = {"data__bias": "long_tail_5+partial_30" if wants_candidates else BIAS}
    config = small_config(**(biases | changes))
    check_config(config)
    data = load_data(config)
    return data, build_recipe(config, data)


def with_rows(data, size=48):
    rows = np.arange(size, dtype=np.int32)
    return [b | {"row": parallel.split(rows)} for b in batches(data, size)]


def taken(recipe, data, steps=2):
    """(state, metrics) after some main steps on four devices."""
    program, state = parallel.pmap(main_step(recipe)), parallel.replicate(recipe.state)
    for _ in range(steps):
        state, metrics = program(state, *with_rows(data))
    return state, metrics


def expected_loss(name, data, logits, labels):
    counts = data.biased.class_counts
    weights = class_balanced_weights(counts, beta=0.9999)
    balanced = weights[labels] / weights[labels].mean()
    ldam = losses.ldam(logits, labels, margins=ldam_margins(counts))
    return {
        "erm": losses.cross_entropy(logits, labels),
        "focal": losses.focal(logits, labels, gamma=1.0),
        "gce": losses.generalized_cross_entropy(logits, labels, q=0.7),
        "class_balanced": balanced * losses.cross_entropy(logits, labels),
        "forward": losses.forward_corrected(logits, labels, transition=data.biased.transition_matrix),
        "ldam": ldam,
        "ldam_drw": balanced * ldam,
    }[name]


@pytest.mark.parametrize("name", ["erm", "focal", "gce", "class_balanced", "forward", "ldam", "ldam_drw"])
def test_the_objective_is_the_methods_loss(name):
    """Its mean over the first batch, from logits of the untouched model in train mode."""
    method, start = ("ldam", 0.0) if name == "ldam_drw" else (name, 100.0)
    data, recipe = built(method=method, loss__reweight_at_percent=start, model__batch_norm=False)
    _, metrics = taken(recipe, data, steps=1)
    batch = batches(data)[0]
    images, labels = (np.asarray(batch[field]).reshape(48, *batch[field].shape[2:]) for field in batch)
    logits = recipe.model.apply({"params": recipe.state.params}, images)
    expected = np.mean(expected_loss(name, data, logits, jnp.asarray(labels)))
    np.testing.assert_allclose(metrics["objective"][0], expected, rtol=1e-5)


def test_mixup_reports_the_losses_of_the_own_labels(monkeypatch):
    """Of the mixed images; `loss` and what is minimised are of the mixed labels."""
    partner = jnp.arange(12)[::-1]  # each of four devices has twelve examples
    monkeypatch.setattr(mixing, "draw_mixture", lambda *_, **__: mixing.Mixture(jnp.float32(0.7), partner))
    data, recipe = built(method="mixup", model__batch_norm=False)
    _, metrics = taken(recipe, data, steps=1)
    batch = batches(data)[0]
    images, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    mixed = (0.7 * images + 0.3 * images[:, ::-1]).reshape(48, 8, 8, 1)
    logits = recipe.model.apply({"params": recipe.state.params}, mixed)
    own, others = (losses.cross_entropy(logits, jnp.ravel(x)) for x in (labels, labels[:, ::-1]))
    np.testing.assert_allclose(np.ravel(metrics["losses"]), own, rtol=1e-5)
    for name in ("loss", "objective"):
        np.testing.assert_allclose(metrics[name][0], np.mean(0.7 * own + 0.3 * others), rtol=1e-5)
    assert "aux" not in metrics


def test_ldams_classifier_has_a_normalised_head():
    data, recipe = built(method="cmwnet", loss__name="ldam")
    logits = recipe.model.apply(
        {"params": recipe.state.params, **recipe.state.model_state},
        100 * jnp.ones((1, *data.image_shape)),
        train=False,
    )
    assert np.max(np.abs(logits)) <= 30.0001


def test_deferred_reweighting_starts_at_its_step():
    """Two steps of LDAM, then class weights: the third step's objective is another."""
    data, recipe = built(method="ldam", loss__reweight_at_percent=50.0, num_epochs=4, batch_size=480)
    assert recipe.epoch_steps * 4 == 4
    programs = [
        parallel.pmap(main_step(recipe)),
        parallel.pmap(main_step(built(method="ldam", num_epochs=4, batch_size=480)[1])),
    ]
    weighted = []
    for step in range(4):
        state = parallel.replicate(recipe.state.replace(step=jnp.int32(step)))
        values = [
            float(program(jax.tree.map(jnp.copy, state), *with_rows(data))[1]["objective"][0])
            for program in programs
        ]
        weighted.append(values[0] != values[1])
    assert weighted == [False, False, True, True]  # the default never begins


def test_the_shuffled_class_feature_keeps_sizes_and_loses_meaning():
    """Each meta-class has as many examples as before, of classes as in the whole."""
    data, recipe = built()
    classes = recipe.method.meta_classes
    shuffled = shuffled_meta_classes(Parts(small_config(data__bias=BIAS), data, None, None, None, 1, classes))
    own = classes.of_class[data.biased.given]
    np.testing.assert_array_equal(np.bincount(shuffled), np.bincount(own))
    assert 0.2 < np.mean(shuffled == own) < 0.6
    _, recipe = built(weight_net__class_feature="shuffled")
    _, metrics = taken(recipe, data, steps=1)
    weights = np.ravel(metrics["weights"])
    by_head = recipe.method.weight_net.functions(recipe.state.weight_params, np.ravel(metrics["losses"]))
    spread = np.std(by_head, axis=0).mean()
    chosen = np.asarray(by_head)[shuffled[:48], np.arange(48)]
    assert np.abs(weights - chosen).mean() < 0.2 * spread  # but for one update of the weight net


def test_soft_labels_start_as_the_config_says():
    """The teacher as the classifier (Q12); the table empty or with the given labels, and in its dtype."""
    data, recipe = built(method="cmwnet_sl", soft_labels__start_from="given", soft_labels__dtype="bfloat16")
    given = np.eye(10)[data.biased.given]
    assert recipe.state.memory.values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(recipe.state.memory.values.astype(np.float32), given)
    assert isinstance(recipe.state.teacher, Teacher)
    for x, y in zip(*map(jax.tree.leaves, (recipe.state.teacher.params, recipe.state.params)), strict=True):
        np.testing.assert_array_equal(x, y)
    state, _ = taken(recipe, data)
    table = parallel.unreplicate(state).memory
    assert isinstance(table, Table)
    assert table.values.shape == given.shape
    np.testing.assert_array_equal(table.values[48:].astype(np.float32), given[48:])
    assert np.all(np.any(np.asarray(table.values[:48], np.float32) != given[:48], axis=1))
    np.testing.assert_array_equal(joined(jax.tree.map(np.asarray, state.memory)).values, table.values)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_the_teachers_statistics(statistics):
    """After one step from the start the teacher's running statistics are the initial ones, its batch's not."""
    data, recipe = built(
        method="cmwnet_sl",
        soft_labels__teacher_statistics=statistics,
        mixup_alpha=0.0,
        soft_labels__momentum=0.0,
    )
    state, _ = taken(recipe, data, steps=1)
    batch = batches(data)[0]
    images = np.asarray(batch["image"]).reshape(48, 8, 8, 1)
    variables = {"params": recipe.state.params, **recipe.state.model_state}
    if statistics == "running":
        logits = recipe.model.apply(variables, images, train=False)
    else:
        model = recipe.model.clone(axis_name=None)
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    table = np.asarray(parallel.unreplicate(state).memory.values)
    np.testing.assert_allclose(table[:48], jax.nn.softmax(logits), atol=1e-4)


def test_forward_estimates_its_matrix_from_a_posterior(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "p.npy"
    posterior = rng.dirichlet(np.ones(10), 1257)
    np.save(path, posterior)
    data, recipe = built(method="forward", loss__forward_posterior=str(path), model__batch_norm=False)
    _, metrics = taken(recipe, data, steps=1)
    batch = batches(data)[0]
    logits = recipe.model.apply(
        {"params": recipe.state.params}, np.asarray(batch["image"]).reshape(48, 8, 8, 1)
    )
    matrix = estimate_transition(posterior[data.biased.ids])
    expected = losses.forward_corrected(logits, jnp.asarray(np.ravel(batch["label"])), transition=matrix)
    np.testing.assert_allclose(metrics["objective"][0], np.mean(expected), rtol=1e-5)
    np.save(path, posterior[:, :9])
    with pytest.raises(
        UsageError, match=r"forward_posterior is .* with shape \(1257, 9\), expected \(1257, 10\)"
    ):
        built(method="forward", loss__forward_posterior=str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "l2rw", "meta_every_steps": 2},
            "meta_every_steps is 2, expected 1: l2rw weighs each batch anew",
        ),
        ({"method": "mixup", "mixup_alpha": 0.0}, "mixup_alpha is 0, expected a positive number"),
        ({"loss__name": "forwards"}, "loss.name is 'forwards'"),
        ({"soft_labels__momentum": 1.0}, r"momentum is 1.0, expected a number in \[0, 1\)"),
        ({"loss__reweight_at_percent": 101.0}, "loss.reweight_at_percent is 101.0, expected a per cent"),
        ({"soft_labels__teacher_momentum": 1.5}, r"teacher_momentum is 1.5, expected a number in \[0, 1\]"),
        ({"loss__gce_q": 0.0}, r"loss.gce_q is 0.0, expected a number in \(0, 1\]"),
        ({"loss__name": "focal"}, "loss.name is 'focal', which cmwnet_sl does not read"),
        ({"weight_net__class_feature": "shuffled"}, "class_feature is 'shuffled', which cmwnet_sl does not"),
        (
            {"meta_set__kind": "held_out", "meta_set__pseudo_labels": True},
            "pseudo_labels is True, but held_out meta data have true labels",
        ),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UsageError, match=message):
        built(**({"method": "cmwnet_sl"} | changes))
