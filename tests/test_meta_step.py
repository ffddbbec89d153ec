"""The meta step against the paper's equations, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    ALPHA,
    CLASSES,
    FEATURES,
    HIDDEN,
    K,
    M,
    N,
    apply,
    batch,
    closed_form,
    divisor,
    flat,
    init_model_state,
    init_params,
    meta_classes,
    on_one_and_on_four_devices,
    per_example_losses,
    weight_net,
)

import cmwnet_jax as cmw

pytestmark = pytest.mark.usefixtures("x64")
NORMALIZATIONS = ("sum", "mean", "none")


def make(normalize="sum", weight_fn=None, weight_params=None, axis_name=None, **changes):
    """(step, state) of the problem, with plain SGD of rate 1 on the weight net: its update is its gradient."""
    net, params = weight_net()
    model = functools.partial(apply, axis_name=axis_name)
    arguments = {
        "objective": cmw.classification_objective(model, meta_classes()),
        "meta_loss": cmw.classification_meta_loss(model),
        "weight_fn": weight_fn or net.apply,
        "optimizer": optax.sgd(0.1),
        "weight_optimizer": optax.sgd(1.0),
        "virtual_lr": ALPHA,
        "normalize": normalize,
        "axis_name": axis_name,
    } | changes
    state = cmw.MetaState.create(
        params=init_params(jax.random.key(1)),
        model_state=init_model_state(),
        weight_params=params if weight_params is None else weight_params,
        optimizer=arguments["optimizer"],
        weight_optimizer=arguments["weight_optimizer"],
        rng=jax.random.key(2),
    )
    return cmw.make_meta_step(**arguments), state


@functools.cache
def compiled(normalize="sum"):
    """`make`'s usual step, compiled once, and the state."""
    step, state = make(normalize)
    return jax.jit(step), state


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_meta_gradient_is_eq_10_and_classifier_gradient_is_eq_9(normalize):
    step, state = compiled(normalize)
    examples, meta_examples = batch(0, N), batch(1, M)
    new, metrics = step(state, examples, meta_examples)

    expected, classifier_gradient = closed_form(
        state.params, state.weight_params, examples, meta_examples, normalize
    )
    got = flat(state.weight_params) - flat(new.weight_params)
    assert np.linalg.norm(expected) > 1e-4
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(metrics["meta_grad_norm"], np.linalg.norm(expected), rtol=1e-10)

    net, _ = weight_net()
    of_class = meta_classes().of_class[np.asarray(examples["label"])]
    losses = per_example_losses(state.params, examples)
    new_weights, old_weights = (
        np.asarray(net.apply(params, losses, of_class)) for params in (new.weight_params, state.weight_params)
    )
    moved = (flat(state.params) - flat(new.params)) / 0.1
    np.testing.assert_allclose(moved, classifier_gradient(new_weights), rtol=0, atol=1e-12)
    assert np.max(np.abs(moved - classifier_gradient(old_weights))) > 1e-6
    np.testing.assert_allclose(metrics["weights"], new_weights, rtol=1e-12)
    np.testing.assert_allclose(
        metrics["objective"], np.sum(new_weights * losses) / divisor(new_weights, normalize), rtol=1e-12
    )


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_meta_gradient_is_the_slope_of_the_meta_loss(normalize):
    """Finite differences; the losses that V sees and the sum that divides are held, as in the step."""
    step, state = compiled(normalize)
    examples, meta_examples = batch(0, N), batch(1, M)
    new, _ = step(state, examples, meta_examples)
    net, _ = weight_net()
    of_class = meta_classes().of_class[np.asarray(examples["label"])]
    losses = per_example_losses(state.params, examples)
    scale = divisor(np.asarray(net.apply(state.weight_params, losses, of_class)), normalize)

    @jax.jit
    def meta_loss(weight_params):
        weights = net.apply(weight_params, losses, of_class) / scale
        grads = jax.grad(lambda p: jnp.sum(weights * per_example_losses(p, examples)))(state.params)
        virtual = jax.tree.map(lambda p, g: p - ALPHA * g, state.params, grads)
        return jnp.mean(per_example_losses(virtual, meta_examples))

    for seed in range(3):
        leaves, tree = jax.tree.flatten(state.weight_params)
        rng = np.random.default_rng(seed)
        direction = tree.unflatten([jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves])
        at = [
            meta_loss(jax.tree.map(lambda p, d, h=h: p + h * d, state.weight_params, direction))
            for h in (1e-5, -1e-5)
        ]
        gradient = flat(state.weight_params) - flat(new.weight_params)
        np.testing.assert_allclose(gradient @ flat(direction), (at[0] - at[1]) / 2e-5, atol=1e-8)


def test_losses_enter_the_weight_net_without_gradient():
    """A weight that grows with the loss moves the classifier by weights * gradients alone."""
    step, state = make("none", weight_fn=lambda p, losses, c: losses * p, weight_params=jnp.ones(()))
    new, _ = jax.jit(step)(state, batch(0, N), batch(1, M))
    losses = per_example_losses(state.params, batch(0, N))
    grads = jax.grad(
        lambda p: jnp.sum(
            new.weight_params * jax.lax.stop_gradient(losses) * per_example_losses(p, batch(0, N))
        )
    )(state.params)
    np.testing.assert_allclose(flat(state.params) - flat(new.params), 0.1 * flat(grads), atol=1e-12)


@pytest.mark.parametrize(("label", "head"), [(0, 0), (2, 1), (3, 2)])
def test_a_batch_of_one_meta_class_moves_only_its_head(label, head):
    step, state = compiled()
    new, _ = step(state, batch(0, N, [label]), batch(1, M))
    before, after = state.weight_params["params"], new.weight_params["params"]
    moved = np.any(np.asarray(before["heads"]["kernel"] != after["heads"]["kernel"]), axis=0)
    np.testing.assert_array_equal(moved, np.arange(K) == head)
    np.testing.assert_array_equal(before["heads"]["bias"] != after["heads"]["bias"], np.arange(K) == head)
    assert np.any(np.asarray(before["shared"]["kernel"] != after["shared"]["kernel"]))


def test_one_meta_class_is_mw_net():
    """K = 1 against Eq. 3's weight net, written without any notion of a class.

    Not compiled: a compiler may order the two programs' sums as it likes.
    """
    net = cmw.WeightNet(num_meta_classes=1, hidden=8, param_dtype=jnp.float64)
    params = net.init(jax.random.key(5), jnp.ones(1), jnp.zeros(1, jnp.int32))

    def mw_net(params, losses, meta_class):
        del meta_class
        shared, heads = params["params"]["shared"], params["params"]["heads"]
        hidden = jax.nn.relu(losses[:, None] @ shared["kernel"] + shared["bias"][None])
        return jax.nn.sigmoid((hidden @ heads["kernel"] + heads["bias"][None])[:, 0])

    one = cmw.MetaClasses.fit([10, 12, 90, 400], num_meta_classes=1)
    results = []
    for weight_fn in (net.apply, mw_net):
        step, state = make(
            weight_fn=weight_fn, weight_params=params, objective=cmw.classification_objective(apply, one)
        )
        for seed in range(3):
            state, _ = step(state, batch(seed, N), batch(seed + 10, M))
        results.append(state)
    np.testing.assert_array_equal(flat(results[0].params), flat(results[1].params))
    np.testing.assert_array_equal(flat(results[0].weight_params), flat(results[1].weight_params))


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("constant", [None, 0.25])
def test_weighted_step_with_constant_weights_is_plain_training(normalize, constant):
    """Against optax used alone, with momentum, weight decay and a schedule, over five steps."""
    optimizer = optax.chain(
        optax.add_decayed_weights(5e-4),
        optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.1}), momentum=0.9, nesterov=True),
    )
    weight_fn = None if constant is None else lambda p, losses, c: jnp.full_like(losses, constant)
    step = jax.jit(
        cmw.make_weighted_step(
            objective=cmw.classification_objective(apply, meta_classes()),
            optimizer=optimizer,
            weight_fn=weight_fn,
            normalize=normalize,
        )
    )
    weight = 1.0 if constant is None else constant
    factor = {"sum": 1 / N, "mean": weight / N, "none": weight}[normalize]
    params = init_params(jax.random.key(1))
    state = cmw.MetaState.create(
        params=params, model_state=init_model_state(), optimizer=optimizer, rng=jax.random.key(2)
    )
    opt_state = optimizer.init(params)

    @jax.jit
    def plain(params, opt_state, examples):
        grads = jax.grad(lambda p: factor * jnp.sum(per_example_losses(p, examples)))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for seed in range(5):
        state, _ = step(state, batch(seed, N))
        params, opt_state = plain(params, opt_state, batch(seed, N))
    np.testing.assert_allclose(flat(state.params), flat(params), rtol=0, atol=1e-14)


def test_constant_weights_give_optax_sgd_bit_for_bit():
    """The same program but for our step: not a rounding apart."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    objective = cmw.classification_objective(apply, meta_classes())
    step = jax.jit(cmw.make_weighted_step(objective=objective, optimizer=optimizer, normalize="mean"))
    params = init_params(jax.random.key(1))
    state = cmw.MetaState.create(
        params=params, model_state=init_model_state(), optimizer=optimizer, rng=jax.random.key(2)
    )
    opt_state = optimizer.init(params)

    @jax.jit
    def plain(params, opt_state, examples):
        def loss(params):
            out, _ = objective(params, init_model_state(), examples, jax.random.key(0))
            return jnp.mean(out.terms)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for seed in range(5):
        state, _ = step(state, batch(seed, N))
        params, opt_state = plain(params, opt_state, batch(seed, N))
    np.testing.assert_array_equal(flat(state.params), flat(params))


def test_base_is_trained_on_and_is_not_weighted():
    """An objective with a base: the gradient is base's plus the weighted terms' (Eq. 14's form)."""

    def objective(params, model_state, examples, rng):
        losses = per_example_losses(params, examples)
        smooth = jnp.sum(params["w1"] ** 2)
        return cmw.Objective(losses, losses, jnp.zeros(N, jnp.int32), base=smooth), model_state

    step = cmw.make_weighted_step(objective=objective, optimizer=optax.sgd(0.1), normalize="mean")
    params = init_params(jax.random.key(1))
    state = cmw.MetaState.create(params=params, optimizer=optax.sgd(0.1), rng=jax.random.key(2))
    new, metrics = jax.jit(step)(state, batch(0, N))

    def total(params):
        return jnp.sum(params["w1"] ** 2) + jnp.mean(per_example_losses(params, batch(0, N)))

    np.testing.assert_allclose(
        flat(params) - flat(new.params), 0.1 * flat(jax.jit(jax.grad(total))(params)), atol=1e-14
    )
    np.testing.assert_allclose(metrics["objective"], total(params), rtol=1e-12)


def test_all_zero_weights_move_nothing_and_stay_finite():
    step, state = make("sum", weight_fn=lambda p, losses, c: losses * p, weight_params=jnp.zeros(()))
    new, metrics = jax.jit(step)(state, batch(0, N), batch(1, M))
    assert np.all(np.isfinite(flat(new.params)))
    assert np.isfinite(metrics["meta_loss"])


def test_virtual_lr_can_be_a_schedule():
    """At step 1 a schedule gives what its value there gives as a constant."""
    scheduled, state = make(virtual_lr=lambda step: jnp.where(step == 1, 0.7, 0.1))
    constant, _ = make(virtual_lr=0.7)
    state = state.replace(step=jnp.asarray(1, jnp.int32))
    results = [jax.jit(step)(state, batch(0, N), batch(1, M))[0] for step in (scheduled, constant)]
    np.testing.assert_allclose(flat(results[0].weight_params), flat(results[1].weight_params), rtol=1e-13)


def test_running_statistics_move_once_a_step():
    """The virtual and the meta pass throw theirs away (Q18)."""
    step, state = compiled()
    new, _ = step(state, batch(0, N), batch(1, M))
    _, expected = apply(
        {"params": state.params, **state.model_state}, batch(0, N)["image"], mutable=(), rngs={}
    )
    np.testing.assert_allclose(
        new.model_state["batch_stats"]["mean"], expected["batch_stats"]["mean"], rtol=1e-13
    )


def test_the_state_that_comes_out_is_like_the_one_that_goes_in():
    step, state = make(optimizer=optax.sgd(0.1, momentum=0.9), weight_optimizer=optax.adam(1e-3))
    out, _ = jax.eval_shape(step, state, batch(0, N), batch(1, M))
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (out, state)]
    assert described[0] == described[1]


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_four_devices_are_one(normalize):
    """Meta-gradient, parameters, running statistics and metrics, with synchronised normalisation and a base."""
    size, meta_size, steps = 16, 8, 20

    def with_penalty(axis_name):
        inner = cmw.classification_objective(functools.partial(apply, axis_name=axis_name), meta_classes())

        def objective(params, model_state, examples, rng):
            out, model_state = inner(params, model_state, examples, rng)
            return out._replace(base=jnp.mean(out.terms**2)), model_state

        return objective

    (one, one_metrics), (many, many_metrics) = on_one_and_on_four_devices(
        lambda axis_name: make(normalize, axis_name=axis_name, objective=with_penalty(axis_name)),
        [(batch(seed, size), batch(seed + 10, meta_size)) for seed in range(steps)],
    )
    for device in range(4):
        for field in ("params", "weight_params", "model_state"):
            got = flat(jax.tree.map(lambda x, d=device: x[d], getattr(many, field)))
            np.testing.assert_allclose(got, flat(getattr(one, field)), rtol=0, atol=1e-12)
        for name in ("loss", "objective", "grad_norm", "meta_loss", "meta_grad_norm"):
            np.testing.assert_allclose(many_metrics[name][device], one_metrics[name], rtol=1e-11)
    np.testing.assert_allclose(np.ravel(many_metrics["weights"]), one_metrics["weights"], rtol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": jnp.ones((N, CLASSES))}, r"Objective.terms has shape \(12, 4\), expected \[n\]"),
        ({"losses": jnp.ones(())}, r"Objective.losses has shape \(\), expected \[n\]"),
        ({"meta_class": jnp.zeros(3, jnp.int32)}, "Objective.meta_class has shape"),
        ({"meta_class": jnp.zeros(N)}, "Objective.meta_class has dtype float.., expected an integer"),
        ({"base": jnp.ones(N)}, "Objective.base has shape"),
    ],
)
def test_an_objective_of_the_wrong_shape_is_named(change, message):
    inner = cmw.classification_objective(apply, meta_classes())

    def objective(*arguments):
        out, model_state = inner(*arguments)
        return out._replace(**change), model_state

    step, state = make(objective=objective)
    with pytest.raises(ValueError, match=message):
        step(state, batch(0, N), batch(1, M))


def test_weights_of_the_wrong_shape_are_named():
    step, state = make(weight_fn=lambda p, losses, c: jnp.ones((N, 1)))
    with pytest.raises(ValueError, match="weight_fn gave weights of shape"):
        step(state, batch(0, N), batch(1, M))


def test_an_unknown_normalization_is_named():
    with pytest.raises(cmw.UsageError, match=r"normalize is .summ.*did you mean .sum."):
        make(normalize="summ")


def drawing_step(axis_name=None):
    """A step whose model state is the number that its training pass drew, and its meta loss the other's."""

    def objective(params, model_state, examples, rng):
        losses = params * examples
        drawn = {"drawn": jax.random.uniform(rng), "passes": model_state["passes"] + 1}
        return cmw.Objective(losses, losses, jnp.zeros(len(losses), jnp.int32)), drawn

    def meta_loss(params, model_state, examples, rng):
        return 0 * params + model_state["passes"] * 10 + jax.random.uniform(rng)

    optimizer = optax.sgd(0.1)
    state = cmw.MetaState.create(
        params=jnp.ones(()),
        model_state={"drawn": jnp.zeros(()), "passes": jnp.zeros(())},
        weight_params=jnp.ones(()),
        optimizer=optimizer,
        weight_optimizer=optimizer,
        rng=jax.random.key(0),
    )
    step = cmw.make_meta_step(
        objective=objective,
        meta_loss=meta_loss,
        weight_fn=lambda p, losses, c: p * jnp.ones_like(losses),
        optimizer=optimizer,
        weight_optimizer=optimizer,
        virtual_lr=0.1,
        axis_name=axis_name,
    )
    return step, state


def test_passes_and_steps_draw_different_numbers_and_the_meta_pass_sees_the_old_model_state():
    step, state = drawing_step()
    drawn = []
    for passes in range(3):
        state, metrics = step(state, jnp.ones(4), jnp.ones(4))
        drawn += [float(state.model_state["drawn"]), float(metrics["meta_loss"]) - 10 * passes]
    assert all(0 < number < 1 for number in drawn)
    assert len(set(np.round(drawn, 9))) == 6


def test_devices_draw_different_numbers():
    step, state = drawing_step("devices")
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), state)
    new, _ = jax.pmap(step, axis_name="devices")(states, jnp.ones((4, 2)), jnp.ones((4, 2)))
    alone, _ = drawing_step()[0](state, jnp.ones(4), jnp.ones(4))
    assert abs(float(new.model_state["drawn"][0]) - float(alone.model_state["drawn"])) > 1e-6


@pytest.mark.parametrize("label", [CLASSES, -1])
def test_a_label_outside_of_the_classes_is_loud(label):
    """Its weight is NaN, where an unchecked gather would quietly use another class's."""
    step, state = compiled()
    examples = batch(0, N)
    examples["label"] = examples["label"].at[0].set(label)
    _, metrics = step(state, examples, batch(1, M))
    assert np.isnan(metrics["weights"][0])


def test_float32_stays_float32():
    step, state = make(optimizer=optax.sgd(0.1, momentum=0.9))
    state = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, state)
    examples = [
        {"image": b["image"].astype(jnp.float32), "label": b["label"]} for b in (batch(0, N), batch(1, M))
    ]
    new, _ = jax.jit(step)(state, *examples)
    assert {leaf.dtype for leaf in jax.tree.leaves((new.params, new.weight_params))} == {jnp.dtype("float32")}
    assert new.params["w1"].shape == (FEATURES, HIDDEN)


@pytest.mark.parametrize("in_passes", [False, True])
def test_delayed_weights_move_the_classifier_by_the_old_ones(in_passes):
    """The meta-gradient is that of Eq. 10, as ever; the classifier's gradient has the weights from before."""
    net, _ = weight_net()
    if in_passes:
        _, state = make()
        step = cmw.make_low_memory_step(
            objective=cmw.classification_objective(apply, meta_classes()),
            meta_loss=cmw.classification_meta_loss(apply),
            weight_fn=net.apply,
            optimizer=optax.sgd(0.1),
            weight_optimizer=optax.sgd(1.0),
            virtual_lr=ALPHA,
            delayed_weights=True,
        )
    else:
        step, state = make(delayed_weights=True)
        step = jax.jit(step)
    examples, meta_examples = batch(0, N), batch(1, M)
    new, metrics = step(state, examples, meta_examples)
    expected, classifier_gradient = closed_form(
        state.params, state.weight_params, examples, meta_examples, "sum"
    )
    np.testing.assert_allclose(
        flat(state.weight_params) - flat(new.weight_params), expected, rtol=0, atol=1e-12
    )
    losses = per_example_losses(state.params, examples)
    weights = net.apply(state.weight_params, losses, meta_classes().of_class[np.asarray(examples["label"])])
    np.testing.assert_allclose(metrics["weights"], weights, rtol=1e-12)
    moved = (flat(state.params) - flat(new.params)) / 0.1
    np.testing.assert_allclose(moved, classifier_gradient(np.asarray(weights)), rtol=0, atol=1e-12)
    assert int(new.step) == 1


def test_a_meta_step_every_third_time_is_one_program():
    """In a scan, it takes the steps of a loop that takes meta steps and weighted ones."""
    step, state = make(meta_every=3)
    meta_step, _ = compiled()
    weighted_step = cmw.make_weighted_step(
        objective=cmw.classification_objective(apply, meta_classes()),
        optimizer=optax.sgd(0.1),
        weight_fn=weight_net()[0].apply,
    )
    pairs = [(batch(seed, N), batch(seed + 10, M)) for seed in range(5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    scanned, metrics = jax.jit(lambda state: jax.lax.scan(lambda s, pair: step(s, *pair), state, stacked))(
        state
    )
    np.testing.assert_array_equal(np.isnan(metrics["meta_loss"]), [False, True, True, False, True])
    np.testing.assert_array_equal(np.isnan(metrics["meta_grad_norm"]), [False, True, True, False, True])
    weighted_step = jax.jit(weighted_step)
    for number, pair in enumerate(pairs):
        state, expected = meta_step(state, *pair) if number % 3 == 0 else weighted_step(state, pair[0])
        np.testing.assert_allclose(metrics["weights"][number], expected["weights"], rtol=1e-12)
    for field in ("params", "weight_params", "model_state"):
        np.testing.assert_allclose(flat(getattr(scanned, field)), flat(getattr(state, field)), atol=1e-12)


@pytest.mark.parametrize("name", ["optimizer", "weight_optimizer"])
def test_the_state_of_another_optimiser_is_named(name):
    """Adam's would fail in optax, or be passed on unread by SGD."""
    step, state = make(**{name: optax.sgd(0.1)})
    field = {"optimizer": "opt_state", "weight_optimizer": "weight_opt_state"}[name]
    params = state.params if name == "optimizer" else state.weight_params
    other = state.replace(**{field: optax.adam(0.1).init(params)})
    with pytest.raises(
        cmw.UsageError, match=rf"state.{field} has another structure .* the step's {name}, expected"
    ):
        step(other, batch(0, N), batch(1, M))


def test_a_meta_step_every_no_time_is_refused():
    with pytest.raises(cmw.UsageError, match="meta_every is 2.5, expected a whole number"):
        make(meta_every=2.5)
    with pytest.raises(cmw.UsageError, match="meta_every is 0, expected a whole number"):
        make(meta_every=0)
