"""CMW-Net-SL against Eq. 15 and Algorithm 3 written out by hand, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    ALPHA,
    CLASSES,
    M,
    N,
    apply,
    batch,
    flat,
    init_model_state,
    init_params,
    meta_classes,
    per_example_losses,
    weight_and_derivative,
    weight_net,
)

import cmwnet_jax as cmw
from cmwnet_jax.core import top_k
from cmwnet_jax.core.mixing import draw_mixture
from cmwnet_jax.core.soft_labels import (
    Teacher,
    averaging,
    ensembled,
    reporting_own_labels,
    soft_label_objective,
    teaching,
)
from cmwnet_jax.core.table import Table, blocks, joined, remembering

pytestmark = pytest.mark.usefixtures("x64")


def probabilities(seed, size=N):
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), size)


def soft_batch(seed=0, size=N):
    beside = {"teacher": probabilities(3, size), "memory": probabilities(4, size)}
    return batch(seed, size) | jax.tree.map(jnp.asarray, beside)


def logits_of(params, images):
    return apply({"params": params, **init_model_state()}, images, mutable=(), rngs={})[0]


def soft_losses(params, images, targets):
    return -jnp.sum(targets * jax.nn.log_softmax(logits_of(params, images)), axis=1)


def make(objective, axis_name=None, optimizer=None):
    net, weight_params = weight_net()
    optimizer = optimizer or optax.sgd(0.1)
    optimizers = {"optimizer": optimizer, "weight_optimizer": optax.sgd(1.0)}
    model = functools.partial(apply, axis_name=axis_name)
    step = cmw.make_meta_step(
        objective=objective,
        meta_loss=cmw.classification_meta_loss(model),
        weight_fn=net.apply,
        virtual_lr=ALPHA,
        normalize="mean",
        axis_name=axis_name,
        **optimizers,
    )
    params = init_params(jax.random.key(1))
    state = cmw.MetaState.create(
        params=params,
        model_state=init_model_state(),
        weight_params=weight_params,
        rng=jax.random.key(2),
        teacher=Teacher(init_params(jax.random.key(9)), init_model_state()),
        memory=Table.full(jnp.zeros((3 * N, CLASSES))),
        **optimizers,
    )
    return step, state


def test_the_meta_gradient_is_eq_15():
    """-alpha / n sum_j [1/m sum_i (G_ij - G'_ij)] dV_j, by per-example Jacobian rows of both losses."""
    momentum, examples, meta_examples = 0.9, soft_batch(), batch(1, M)
    step, state = make(soft_label_objective(apply, meta_classes(), momentum=momentum))
    new, metrics = jax.jit(step)(state, examples, meta_examples)

    pseudo = 0.9 * examples["memory"] + 0.1 * examples["teacher"]
    np.testing.assert_allclose(metrics["aux"], pseudo, atol=1e-15)

    def rows(function, params):
        leaves = jax.tree.leaves(jax.jit(jax.jacrev(function))(params))
        return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in leaves], axis=1)

    given = rows(lambda p: per_example_losses(p, examples), state.params)
    soft = rows(lambda p: soft_losses(p, examples["image"], pseudo), state.params)
    losses = np.asarray(per_example_losses(state.params, examples))
    of_class = meta_classes().of_class[np.asarray(examples["label"])]
    pairs = [weight_and_derivative(state.weight_params, *pair) for pair in zip(losses, of_class, strict=True)]
    weights = np.array([weight for weight, _ in pairs])

    def moved(weights, rate):
        gradient = (weights @ given + (1 - weights) @ soft) / N  # Eq. 14
        _, unflatten = jax.flatten_util.ravel_pytree(state.params)
        return unflatten(flat(state.params) - rate * gradient)

    meta = rows(lambda p: per_example_losses(p, meta_examples), moved(weights, ALPHA))
    similarity = meta @ given.T - meta @ soft.T  # G - G'
    expected = -ALPHA / N * sum(g * flat(d) for g, (_, d) in zip(similarity.mean(axis=0), pairs, strict=True))
    assert np.linalg.norm(expected) > 1e-4
    np.testing.assert_allclose(
        flat(state.weight_params) - flat(new.weight_params), expected, rtol=0, atol=1e-12
    )

    net, _ = weight_net()
    new_weights = np.asarray(net.apply(new.weight_params, losses, of_class))
    np.testing.assert_allclose(flat(new.params), flat(moved(new_weights, 0.1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("second_loss", ["own", "partner"])
def test_mixup_is_algorithm_3(second_loss):
    """The total of line 12, example by example, with any 2n weights."""
    objective = soft_label_objective(
        apply, meta_classes(), momentum=0.5, mixup_alpha=1.0, second_loss=second_loss
    )
    params, examples, rng = init_params(jax.random.key(1)), soft_batch(), jax.random.key(4)
    out, _ = objective(params, init_model_state(), examples, rng)
    mixture = draw_mixture(jax.random.split(rng)[0], N, alpha=1.0, keep_larger=True)
    share, partner = float(mixture.share), np.asarray(mixture.partner)
    assert share >= 0.5
    image, label = np.asarray(examples["image"]), np.asarray(examples["label"])
    pseudo = 0.5 * np.asarray(examples["memory"] + examples["teacher"])
    logs = np.asarray(jax.nn.log_softmax(logits_of(params, share * image + (1 - share) * image[partner])))

    weights = np.random.default_rng(0).uniform(size=2 * N)
    total = 0.0
    for i, j in enumerate(partner):
        first = weights[i] * -logs[i, label[i]] + (1 - weights[i]) * -(pseudo[i] @ logs[i])
        second = weights[N + i] * -logs[i, label[j]] + (1 - weights[N + i]) * -(pseudo[j] @ logs[i])
        total += (share * first + (1 - share) * second) / N
        seen = -logs[i, label[j]] if second_loss == "own" else -logs[j, label[j]]
        np.testing.assert_allclose([out.losses[i], out.losses[N + i]], [-logs[i, label[i]], seen], rtol=1e-12)
    np.testing.assert_allclose(out.base + jnp.mean(weights * out.terms), total, rtol=1e-12)
    of_class = meta_classes().of_class
    np.testing.assert_array_equal(out.meta_class, of_class[np.concatenate([label, label[partner]])])
    np.testing.assert_allclose(out.aux, pseudo, rtol=1e-14)


def test_first_pseudo_labels_are_the_prediction_and_later_ones_an_average():
    prediction, memory = jnp.asarray(probabilities(0)), jnp.asarray(probabilities(1)).at[0].set(0)
    got = ensembled(memory, prediction, 0.9)
    np.testing.assert_array_equal(got[0], prediction[0])
    np.testing.assert_allclose(got[1:], (0.9 * memory + 0.1 * prediction)[1:], atol=1e-15)
    np.testing.assert_allclose(jnp.sum(got, axis=1), 1, atol=1e-14)


def whole_step(axis_name=None, momentum=0.7):
    """Everything that the method consists of, but for mixup, which each device does on its own part."""
    model = functools.partial(apply, axis_name=axis_name)
    step, state = make(soft_label_objective(model, meta_classes(), momentum=0.8), axis_name)

    def predict(teacher, batch, key):
        del key
        return model({"params": teacher.params, **teacher.model_state}, batch["image"], mutable=(), rngs={})[0]

    return averaging(remembering(teaching(step, predict), axis_name), momentum), state


def numbered(seed, size):
    rows = np.random.default_rng(seed).permutation(3 * N)[:size]
    return batch(seed, size) | {"row": jnp.asarray(rows, jnp.int32)}


def test_the_teacher_moves_first_and_the_table_remembers():
    """Lines 6 and 7 of Algorithm 3, over three steps, by hand."""
    step, state = whole_step()
    step = jax.jit(step)
    teacher, table = flat(state.teacher.params), np.zeros((3 * N, CLASSES))
    _, unflatten = jax.flatten_util.ravel_pytree(state.params)
    for seed in range(3):
        examples = numbered(seed, N)
        teacher = 0.7 * teacher + 0.3 * flat(state.params)
        taught = np.asarray(jax.nn.softmax(logits_of(unflatten(teacher), examples["image"])))
        rows = np.asarray(examples["row"])
        is_new = table[rows].sum(axis=1, keepdims=True) == 0
        table[rows] = np.where(is_new, taught, 0.8 * table[rows] + 0.2 * taught)
        running = (
            0.7 * state.teacher.model_state["batch_stats"]["mean"]
            + 0.3 * state.model_state["batch_stats"]["mean"]
        )
        state, metrics = step(state, examples, batch(seed + 5, M))
        np.testing.assert_allclose(flat(state.teacher.params), teacher, atol=1e-12)
        np.testing.assert_allclose(state.memory.values, table, atol=1e-12)
        np.testing.assert_allclose(state.teacher.model_state["batch_stats"]["mean"], running, atol=1e-14)
        assert "aux" not in metrics
    assert (table.sum(axis=1) > 0).sum() > N  # the batches overlap, but not wholly


def test_momentum_of_one_freezes_the_teacher_and_a_schedule_can():
    step, state = whole_step(momentum=lambda step: jnp.where(step < 1, 0.5, 1.0))
    first, _ = jax.jit(step)(state, numbered(0, N), batch(5, M))
    second, _ = jax.jit(step)(first, numbered(1, N), batch(6, M))
    assert np.any(flat(first.teacher) != flat(state.teacher))
    np.testing.assert_array_equal(flat(second.teacher), flat(first.teacher))


@pytest.mark.parametrize("of_teacher", [jnp.float32, jnp.float64])
def test_a_classifier_in_bfloat16_is_averaged_in_the_teachers_dtype(of_teacher):
    """In bfloat16, .999 is 1, and the teacher would stay where it is."""
    state = cmw.MetaState.create(
        params=jnp.ones(1, jnp.bfloat16),
        optimizer=optax.sgd(0.1),
        rng=jax.random.key(0),
        teacher=Teacher(jnp.zeros(1, of_teacher), {}),
    )
    step = averaging(lambda state, batch: (state, {}), 0.999)
    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, jnp.zeros(2000)))(state)
    assert state.teacher.params.dtype == of_teacher
    np.testing.assert_allclose(state.teacher.params, 1 - 0.999**2000, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "size"), [(np.uint8, 256), (np.int8, 128), (np.uint16, 65536)])
def test_rows_in_a_dtype_that_cannot_hold_their_number(dtype, size):
    table, rows = Table.full(jnp.arange(float(size))), np.array([0, size - 1], dtype)
    for each in (rows, jnp.asarray(rows)):
        np.testing.assert_array_equal(table.read(each), [0, size - 1])
        np.testing.assert_array_equal(table.write(each, -jnp.ones(2)).read(each), [-1, -1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_table_that_is_shared_out_is_the_table(dtype):
    """Rows are read and written exactly, in any dtype, also where they do not divide by the devices."""
    values = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), dtype)
    rows, new = jnp.array([9, 0, 3, 8], jnp.int32), jnp.arange(12.0).reshape(4, 3) / 7
    table = blocks(Table.full(values), 4)
    assert table.values.shape == (4, 3, 3)
    np.testing.assert_array_equal(joined(table).values, values)

    def read_and_write(table, rows, new):
        return table.read(rows, "i"), table.write(rows, new, "i")

    read, written = jax.pmap(read_and_write, axis_name="i")(table, rows[:, None], new[:, None])
    assert read.dtype == written.values.dtype == dtype
    np.testing.assert_array_equal(read[:, 0], values[rows])
    expected = Table.full(values).write(rows, new)
    np.testing.assert_array_equal(joined(written).values, expected.values)
    np.testing.assert_array_equal(expected.read(rows), new.astype(dtype))


@pytest.mark.parametrize("make", [Table.full, lambda chances: top_k.TopK.of_labels(np.arange(6) % 3, 3, 2)])
def test_rows_that_are_none_read_nan_and_are_not_written(make):
    """On one device and on four, where row 7 is in the last one's padding."""
    table = make(jnp.ones((6, 3)))
    rows, new = jnp.array([-1, 6, 7, 2], jnp.int32), jnp.tile(jnp.array([0.0, 0.0, 1.0]), (4, 1))

    def read_and_write(table, rows, new):
        return table.read(rows, "i"), table.write(rows, new, "i")

    read, written = jax.pmap(read_and_write, axis_name="i")(blocks(table, 4), rows[:, None], new[:, None])
    for found in (read[:, 0], table.read(rows)):
        assert np.isnan(found).all(axis=1).tolist() == [True, True, True, False]
    for after in (joined(written), table.write(rows, new)):
        np.testing.assert_array_equal(after.read(jnp.array([2])), new[:1])
        others = jnp.array([0, 1, 3, 4, 5])
        np.testing.assert_array_equal(after.read(others), table.read(others))


def test_metrics_of_the_own_label_alone():
    step, state = make(soft_label_objective(apply, meta_classes(), momentum=0.0, mixup_alpha=1.0))
    _, both = step(state, soft_batch(), batch(1, M))
    _, own = reporting_own_labels(step)(state, soft_batch(), batch(1, M))
    assert (both["losses"].shape, own["losses"].shape) == ((2 * N,), (N,))
    np.testing.assert_array_equal(own["weights"], both["weights"][:N])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, r"momentum is 1.0, expected a number in \[0, 1\)"),
        ({"mixup_alpha": -1.0}, "mixup_alpha is -1.0, expected at least 0"),
        ({"second_loss": "owns"}, "second_loss is 'owns'.* did you mean 'own'"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(cmw.UsageError, match=message):
        soft_label_objective(apply, meta_classes(), **({"momentum": 0.9} | change))


def test_a_table_of_integers_is_refused():
    with pytest.raises(cmw.UsageError, match="values are int32, expected .* floats: convert them"):
        Table.full(jnp.zeros((3, 2), jnp.int32))


def test_a_state_without_a_table_says_so():
    step, state = make(soft_label_objective(apply, meta_classes(), momentum=0.9))
    with pytest.raises(cmw.UsageError, match="state.memory is no Table"):
        remembering(step)(state.replace(memory=()), numbered(0, N), batch(1, M))
