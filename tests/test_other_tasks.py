"""The step on other tasks than classification of one label: examples to copy, on made data with wrong targets.

In each, some targets of the training data are wrong and the meta data are clean, and at the end the wrong ones
have the lower weights. Also batches whose entries have other names, and models of several inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cmwnet_jax as cmw
from cmwnet_jax import mixing

WIDTH, SIZE = 6, 240
WARM_UP, STEPS = 30, 150


def linear(params, x):
    return x @ params["kernel"] + params["bias"]


def learned(objective, meta_loss, batch, meta_batch, outputs, num_meta_classes=1, weight_fn=None):
    """The last step's weights, after plain steps and meta steps on the whole data."""
    net = cmw.WeightNet(num_meta_classes)
    weight_params = net.init(jax.random.key(1), np.ones(1), np.zeros(1, int))
    optimizers = {"optimizer": optax.sgd(0.3), "weight_optimizer": optax.adam(0.03)}
    step = cmw.make_meta_step(
        objective=objective,
        meta_loss=meta_loss,
        weight_fn=net.apply if weight_fn is None else lambda *args: weight_fn(net.apply, *args),
        virtual_lr=0.3,
        **optimizers,
    )
    params = {"kernel": jnp.zeros((WIDTH, outputs)), "bias": jnp.zeros(outputs)}
    state = cmw.MetaState.create(
        params=params, weight_params=weight_params, rng=jax.random.key(2), **optimizers
    )

    plain = cmw.make_weighted_step(objective=objective, optimizer=optimizers["optimizer"])

    def warm_up(state, _):
        return plain(state, batch)[0], ()

    def learn(state, _):
        state, metrics = step(state, batch, meta_batch)
        return state, metrics["weights"]

    def train(state):
        state, _ = jax.lax.scan(warm_up, state, length=WARM_UP)
        return jax.lax.scan(learn, state, length=STEPS)[1][-1]

    return np.asarray(jax.jit(train)(state))


def made(outputs, size=SIZE, seed=0):
    """Inputs, and what a linear function makes of them."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(9).normal(size=(WIDTH, outputs))
    x = rng.normal(size=(size, WIDTH))
    return x, x @ truth, rng


def test_multi_label_with_a_weight_per_example_and_label():
    """Sigmoid outputs; every label of every example is a term, in the meta-class of its label."""
    x, score, rng = made(3)
    labels = (score > [0, 2, 4]).astype(float)  # the last is rare
    wrong = rng.random(labels.shape) < 0.25
    frequency = cmw.MetaClasses.fit(labels.sum(axis=0).astype(int), num_meta_classes=2)
    meta_x, meta_score, _ = made(3, seed=1)

    def losses_of(params, batch):
        return optax.sigmoid_binary_cross_entropy(linear(params, batch["x"]), batch["labels"])

    def objective(params, model_state, batch, rng):
        losses = losses_of(params, batch)
        meta_class = jnp.broadcast_to(jnp.asarray(frequency.of_class), losses.shape)
        return cmw.Objective(losses.ravel(), losses.ravel(), meta_class.ravel()), model_state

    def meta_loss(params, model_state, batch, rng):
        return losses_of(params, batch).mean()

    batch = {"x": x, "labels": np.where(wrong, 1 - labels, labels)}
    meta_batch = {"x": meta_x, "labels": (meta_score > [0, 2, 4]).astype(float)}
    weights = learned(objective, meta_loss, batch, meta_batch, 3, num_meta_classes=2).reshape(SIZE, 3)
    assert weights[wrong].mean() < 0.5 * weights[~wrong].mean()


def test_regression():
    """Squared errors as terms and as the weight net's input; one meta-class."""
    x, y, rng = made(1)
    wrong = rng.random(SIZE) < 0.3
    meta_x, meta_y, _ = made(1, seed=1)

    def errors(params, batch):
        return (linear(params, batch["x"]) - batch["y"])[:, 0] ** 2

    def objective(params, model_state, batch, rng):
        losses = errors(params, batch)
        return cmw.Objective(losses, losses, jnp.zeros(len(losses), jnp.int32)), model_state

    def meta_loss(params, model_state, batch, rng):
        return errors(params, batch).mean()

    batch = {"x": x, "y": y + 6 * (wrong * rng.choice([-1, 1], SIZE))[:, None]}
    weights = learned(objective, meta_loss, batch, {"x": meta_x, "y": meta_y}, 1)
    assert weights[wrong].mean() < 0.5 * weights[~wrong].mean()


BOXES, KINDS = 4, 2


def boxes(seed, wrong_rate=0.0):
    """Images of up to four boxes: features of each, its kind, and which are padding."""
    x, score, rng = made(KINDS, SIZE * BOXES, seed)
    kind, wrong = score.argmax(axis=1), rng.random(len(x)) < wrong_rate
    given = np.where(wrong, 1 - kind, kind)
    padding = np.arange(BOXES) >= rng.integers(1, BOXES + 1, size=(SIZE, 1))
    x[padding.ravel()] = 1e3  # which must not matter
    shaped = {"x": x, "kind": given, "wrong": wrong}
    shaped = {name: value.reshape(SIZE, BOXES, *value.shape[1:]) for name, value in shaped.items()}
    return shaped | {"padding": padding}


def test_detection_with_a_weight_per_box():
    """Boxes are terms; padding is a meta-class beyond the net's, of weight 0."""

    def losses_of(params, batch):
        losses = cmw.cross_entropy(linear(params, batch["x"]).reshape(-1, KINDS), batch["kind"].ravel())
        return jnp.where(batch["padding"].ravel(), 0, losses)

    def objective(params, model_state, batch, rng):
        losses = losses_of(params, batch)
        return cmw.Objective(losses, losses, batch["padding"].ravel().astype(jnp.int32)), model_state

    def meta_loss(params, model_state, batch, rng):
        return losses_of(params, batch).sum() / jnp.sum(~batch["padding"])

    def weight_fn(apply, weight_params, losses, meta_class):
        return jnp.where(meta_class < 1, apply(weight_params, losses, jnp.minimum(meta_class, 0)), 0)

    batch, meta_batch = boxes(0, wrong_rate=0.3), boxes(1)
    weights = learned(objective, meta_loss, batch, meta_batch, KINDS, weight_fn=weight_fn).reshape(SIZE, BOXES)
    assert not weights[batch["padding"]].any()
    wrong, right = (flag & ~batch["padding"] for flag in (batch["wrong"], ~batch["wrong"]))
    assert weights[wrong].mean() < 0.5 * weights[right].mean()


CLASSES = cmw.MetaClasses.fit([4, 8], num_meta_classes=2)
PARAMS = {"kernel": jnp.ones((WIDTH, 2)), "bias": jnp.arange(2.0)}


def of_parts(variables, parts):
    return linear(variables["params"], parts["left"] + parts["right"])


class TestOtherNames:
    def test_entries_of_other_names_and_several_inputs_give_the_same(self):
        x = np.random.default_rng(0).normal(size=(5, WIDTH))
        y = np.array([0, 1, 1, 0, 1])
        usual = cmw.classification_objective(lambda v, x: linear(v["params"], x), CLASSES)
        expected, _ = usual(PARAMS, {}, {"image": x, "label": y}, None)
        named = cmw.classification_objective(of_parts, CLASSES, inputs="x", label="y")
        batch = {"x": {"left": x / 4, "right": 3 * x / 4}, "y": y}
        found, _ = named(PARAMS, {}, batch, None)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6)
        np.testing.assert_array_equal(found.meta_class, expected.meta_class)
        meta_loss = cmw.classification_meta_loss(of_parts, inputs="x", label="y")
        np.testing.assert_allclose(meta_loss(PARAMS, {}, batch, None), expected.losses.mean(), rtol=1e-6)

    def test_mixup_mixes_every_input_alike(self):
        x, y = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32), np.array([0, 1, 1, 0, 1])
        usual = mixing.mix({"image": x, "label": y}, jax.random.key(0), num_classes=2)
        batch = {"x": {"left": x, "right": 2 * x}, "y": y}
        found = mixing.mix(batch, jax.random.key(0), num_classes=2, inputs="x", label="y")
        np.testing.assert_allclose(found["x"]["right"], 2 * usual["image"], rtol=1e-6)
        np.testing.assert_array_equal(found["y"], usual["label"])

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ((np.ones((2, WIDTH)), np.zeros(2, int)), r"^batch is a tuple, expected a dictionary .*'y'"),
            ({"image": 0, "y": np.zeros(2, int)}, "the entries image, y, expected 'x', too"),
            ({"x": (np.ones((2, WIDTH)),), "y": np.zeros(2, int)}, r"batch\['x'\] is a tuple, .* a name"),
            ({"x": {"left": [1.0]}, "y": np.zeros(2, int)}, r"batch\['x'\]\['left'\] is a list, .*np.asarray"),
            ({"x": {"left": {}}, "y": np.zeros(2, int)}, r"batch\['x'\]\['left'\] is a dict"),
            ({"x": {}, "y": np.zeros(2, int)}, r"batch\['x'\] is a dict, expected an array"),
            ({"x": np.ones((2, WIDTH)), "y": {"a": 1}}, r"batch\['y'\] is a dict, expected an array"),
        ],
    )  # fmt: skip
    def test_other_batches_are_one_sentence(self, batch, message):
        objective = cmw.classification_objective(of_parts, CLASSES, inputs="x", label="y")
        with pytest.raises(cmw.UsageError, match=message):
            objective(PARAMS, {}, batch, None)


def test_lowest_loss_is_public_and_refuses_labels_that_are_no_classes():
    losses = jnp.array([0.3, 0.1, 0.2, 5.0, jnp.nan])
    assert cmw.lowest_loss(losses, [0, 1, 0, 1, 2], num_classes=3, per_class=1).tolist() == [1, 2, 4]
    for labels in ([0, 1, 0, 1, 3], [0, 1, 0, 1, -1], [0.0] * 5):
        with pytest.raises(cmw.UsageError, match="expected class indices from 0 to 2"):
            cmw.lowest_loss(losses, labels, num_classes=3, per_class=1)
