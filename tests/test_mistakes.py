"""What composing sees to by itself, and what it refuses in one sentence before anything runs."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cmwnet_jax as cmw
from cmwnet_jax.core.class_balance import class_balanced_weights, for_labels, ldam_margins
from cmwnet_jax.core.mixing import mix, mixed
from cmwnet_jax.core.objectives import TRAIN_SWITCHES
from cmwnet_jax.core.soft_labels import Teacher, averaging
from cmwnet_jax.core.table import Table, remembering

N, FEATURES, CLASSES = 8, 6, 4
META_CLASSES = cmw.MetaClasses.fit([5, 6, 80, 300], num_meta_classes=3)
BATCH = {"image": jnp.ones((N, FEATURES)), "label": jnp.arange(N) % CLASSES}
PARAMS = {"w": jnp.zeros((FEATURES, CLASSES))}
NET, SGD = cmw.WeightNet(num_meta_classes=3, hidden=4), optax.sgd(0.1)


def linear(variables, inputs):
    return inputs @ variables["params"]["w"]


def net_with(switch, field=None):
    """A Linen model with dropout, whose argument or field of this name says evaluation by default."""
    on = TRAIN_SWITCHES[switch]

    def call(self, x, **given):
        training = (getattr(self, switch) if field is not None else given.get(switch, not on)) is on
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not training)(x))

    names = inspect.signature(lambda self, x: None).parameters.values()
    if field is None:
        names = [*names, inspect.Parameter(switch, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=not on)]
    call.__signature__ = inspect.Signature(names)
    parts = {"__call__": nn.compact(call), "__module__": __name__}
    if field is not None:
        parts |= {switch: field, "__annotations__": {switch: bool}}
    return type("Net", (nn.Module,), parts)()


def draws(apply_fn, params, **options):
    """Whether objective and meta loss depend on their keys, as dropout in train mode does."""
    objective = cmw.classification_objective(apply_fn, META_CLASSES, **options)
    meta_loss = cmw.classification_meta_loss(apply_fn, **options)
    losses, values = zip(
        *(
            (objective(params, {}, BATCH, key)[0].losses, meta_loss(params, {}, BATCH, key))
            for key in (jax.random.key(0), jax.random.key(1))
        ),
        strict=True,
    )
    both = np.any(losses[0] != losses[1]), values[0] != values[1]
    assert both[0] == both[1]
    return bool(both[0])


@pytest.mark.parametrize("switch", TRAIN_SWITCHES)
def test_a_model_is_put_into_train_mode_whatever_its_switch_is_called(switch):
    net, on = net_with(switch), TRAIN_SWITCHES[switch]
    params = net.init(jax.random.key(0), BATCH["image"])["params"]
    assert draws(net.apply, params)
    assert draws(functools.partial(net.apply, method="__call__"), params)
    assert not draws(functools.partial(net.apply, **{switch: not on}), params)  # set by hand, it stays
    assert not draws(net.apply, params, train_kwargs={})

    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [inspect.Parameter(name, kind, default=None) for name in ("rngs", switch)]

    def plain(variables, inputs, **given):
        assert given[switch] is on
        return net.apply(variables, inputs, **given)

    positional = inspect.signature(lambda variables, inputs: None).parameters.values()
    plain.__signature__ = inspect.Signature([*positional, *signature])
    assert draws(plain, params)


@pytest.mark.parametrize("switch", ["train", "deterministic"])
def test_a_field_that_says_evaluation_is_refused(switch):
    on = TRAIN_SWITCHES[switch]
    with pytest.raises(cmw.UsageError, match=f"Net.{switch} is {not on}, which is evaluation.*{switch}={on}"):
        cmw.classification_objective(net_with(switch, field=not on).apply, META_CLASSES)
    training, evaluating = net_with(switch, field=on), net_with(switch, field=not on)
    params = evaluating.init(jax.random.key(0), BATCH["image"])["params"]
    assert draws(training.apply, params)
    assert not draws(evaluating.apply, params, train_kwargs={})


@pytest.mark.parametrize(
    "name",
    [
        "eval",
        "is_eval",
        "evaluate",
        "train_mode",
        "is_test",
        "phase_train",
        "mode",
        "dropout_on",
        "use_dropout",
    ],
)
def test_an_argument_that_sounds_like_a_switch_is_asked_about(name):
    scope = {}
    exec(f"def model(variables, inputs, {name}=None): return linear(variables, inputs)", globals(), scope)
    model = scope["model"]
    with pytest.raises(cmw.UsageError, match=f"argument '{name}', which may be a switch") as error:
        cmw.classification_objective(model, META_CLASSES)
    assert "\n" not in str(error.value)
    for options in ({}, {name: True}):
        cmw.classification_objective(model, META_CLASSES, train_kwargs=options)
    cmw.classification_objective(functools.partial(model, **{name: False}), META_CLASSES)


def test_hidden_arguments_are_a_warning():
    def hiding(variables, inputs, **options):
        return linear(variables, inputs)

    with pytest.warns(UserWarning, match="hide whether it has a switch to train mode: pass train_kwargs"):
        cmw.classification_objective(hiding, META_CLASSES)
    for options in ({}, {"train": True}):
        cmw.classification_objective(hiding, META_CLASSES, train_kwargs=options)


class Sowing(nn.Module):
    """Its collection grows by an array a forward pass."""

    @nn.compact
    def __call__(self, x):
        self.sow("seen", "x", x)
        return nn.Dense(CLASSES)(x)


def stepped(batch=BATCH, meta_batch=BATCH, wrap=lambda step: step, state=None, **changes):
    """One meta step of the problem, traced."""
    arguments = {
        "objective": cmw.classification_objective(linear, META_CLASSES),
        "meta_loss": cmw.classification_meta_loss(linear),
        "weight_fn": NET.apply,
        "virtual_lr": 0.1,
        "optimizer": SGD,
        "weight_optimizer": SGD,
    } | changes
    start = cmw.MetaState.create(
        params=PARAMS,
        weight_params=NET.init(jax.random.key(0), jnp.ones(1), jnp.zeros(1, int)),
        optimizer=arguments["optimizer"],
        weight_optimizer=arguments["weight_optimizer"],
        rng=jax.random.key(1),
    ).replace(**state or {})
    return jax.eval_shape(wrap(cmw.make_meta_step(**arguments)), start, batch, meta_batch)


def of_counts(counts, num_meta_classes=3, apply_fn=linear):
    return cmw.classification_objective(apply_fn, cmw.MetaClasses.fit(counts, num_meta_classes))


def of_output(output):
    """An objective that gives this."""
    return lambda params, model_state, batch, rng: (output, model_state)


def frozen(step, weight_fn=NET.apply):
    """A weighted step in the place of a meta step, of a state without weight_params."""
    objective = cmw.classification_objective(linear, META_CLASSES)
    weighted = cmw.make_weighted_step(objective=objective, weight_fn=weight_fn, optimizer=SGD)
    return lambda state, batch, meta_batch: weighted(state.replace(weight_params=()), batch)


def low_memory(step):
    """A step of low memory in its place."""
    return cmw.make_low_memory_step(
        objective=cmw.classification_objective(linear, META_CLASSES),
        meta_loss=cmw.classification_meta_loss(linear),
        weight_fn=NET.apply,
        virtual_lr=0.1,
        optimizer=SGD,
        weight_optimizer=SGD,
    )


ZEROS, LABEL = jnp.zeros(N), BATCH["label"]
MISTAKES = [
    ({"objective": of_counts([5, 6, 80])}, r"meta_classes are of 3 classes and the model gives 4 logits"),
    ({"objective": of_counts([5, 6, 80, 9, 9])}, r"meta_classes are of 5 classes and the model gives 4 logits"),
    ({"objective": of_counts([5, 6, 80, 9], 4)}, "num_meta_classes = 3 and the objective has 4 meta-classes"),
    ({"objective": of_counts([5, 6, 80, 9], 2)}, "num_meta_classes = 3 and the objective has 2 meta-classes"),
    (
        {"objective": mixed(of_counts([5, 6, 80, 9], 2), num_classes=4), "batch": BATCH},
        "num_meta_classes = 3 and the objective has 2 meta-classes",
    ),
    (
        {"objective": of_counts([5, 6, 80, 9], apply_fn=lambda v, x: (x, x, x))},
        r"shape \(\(8, 6\), .* expected",
    ),
    ({"batch": BATCH | {"label": LABEL[:, None]}}, r"labels have shape \(8, 1\) and dtype int32"),
    (
        {"batch": BATCH | {"label": jax.nn.one_hot(LABEL, 4, dtype=int)}},
        r"labels have shape \(8, 4\) and dtype int",
    ),
    ({"batch": BATCH | {"label": jax.nn.one_hot(LABEL, 5)}}, r"labels have shape \(8, 5\) and dtype float32"),
    ({"batch": BATCH | {"label": LABEL.astype(float)}}, r"labels have shape \(8,\) and dtype float32"),
    (
        {"batch": {"image": BATCH["image"], "labels": LABEL}},
        "batch has the entries image, labels, expected 'label'",
    ),
    ({"meta_batch": {"label": LABEL}}, "meta batch has the entries label, expected 'image'"),
    ({"meta_batch": BATCH | {"label": LABEL[:, None]}}, r"labels have shape \(8, 1\)"),
    ({"batch": (BATCH["image"], LABEL)}, "batch is a tuple, expected a dictionary"),
    (
        {"objective": of_output(cmw.Objective(LABEL, ZEROS, LABEL))},
        "Objective.terms has dtype int32, expected a float",
    ),
    ({"objective": of_output(cmw.Objective(ZEROS, LABEL, LABEL))}, "Objective.losses has dtype int32"),
    (
        {"objective": of_output(cmw.Objective(ZEROS, ZEROS[:, None], LABEL))},
        r"Objective.losses has shape \(8, 1\)",
    ),
    ({"weight_fn": lambda p, losses, c: losses[:, None]}, r"weight_fn gave weights of shape \(8, 1\)"),
    ({"meta_loss": lambda *arguments: ZEROS}, r"meta_loss gave shape \(8,\), expected a scalar"),
    *(
        ({"virtual_lr": rate}, f"virtual_lr is {rate}, expected a positive")
        for rate in (-0.1, 0.0, np.nan, np.inf)
    ),
    *(
        ({name: optax.lbfgs()}, f"^{name} evaluates the loss at other")
        for name in ("optimizer", "weight_optimizer")
    ),
    ({"optimizer": optax.contrib.sam(SGD, SGD, opaque_mode=True)}, "^optimizer evaluates the loss at other"),
    *(
        (
            {"state": {"weight_params": ()}, "wrap": wrap},
            "^state.weight_params is .*, expected the weight net's",
        )
        for wrap in (lambda step: step, frozen)
    ),
    ({"state": {"weight_opt_state": ()}}, "^state.weight_opt_state is .*MetaState.create.*weight_optimizer="),
    (
        {"state": {"weight_opt_state": ()}, "wrap": low_memory},
        "^state.weight_opt_state is .*MetaState.create.*weight_optimizer=",
    ),
    ({"wrap": lambda step: averaging(step, 0.9)}, "state.teacher is no Teacher"),
    ({"wrap": lambda step: averaging(step, 1.5)}, "momentum is 1.5, expected"),
    (
        {
            "wrap": remembering,
            "batch": BATCH | {"row": LABEL},
            "state": {"memory": Table.full(jnp.ones((9, 4)))},
        },
        r"Objective.aux has shape \(0,\), expected the new rows of state.memory, \(8, 4\)",
    ),
    ({"wrap": remembering, "state": {"memory": Table.full(jnp.ones((9, 4)))}}, "expected 'row'"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_refused_while_it_is_traced(changes, message):
    with pytest.raises(cmw.UsageError, match=message) as error:
        stepped(**changes)
    assert "\n" not in str(error.value)


def test_a_model_state_that_grows_is_refused():
    net = Sowing()
    variables = net.init(jax.random.key(0), BATCH["image"])
    objective = cmw.classification_objective(net.apply, META_CLASSES)
    with pytest.raises(cmw.UsageError, match=r"model_state\['seen'\]\['x'\]\[1\] has the shape \(8, 6\) after"):
        objective(variables["params"], {"seen": variables["seen"]}, BATCH, jax.random.key(0))
    objective(variables["params"], {}, BATCH, jax.random.key(0))


def test_a_model_of_two_outputs_is_refused():
    objective = cmw.classification_objective(lambda v, x: (linear(v, x), x), META_CLASSES)
    with pytest.raises(cmw.UsageError, match="a pair with a .* as its second entry, expected .outputs"):
        stepped(objective=objective)


def test_what_is_right_is_not_refused():
    """A weight function of one's own, labels as distributions, a single logit with a loss of its own."""
    stepped()
    stepped(batch=BATCH | {"label": jax.nn.one_hot(LABEL, 4)})
    stepped(objective=of_counts([5, 6, 80, 9], 2), weight_fn=lambda p, losses, c: NET.apply(p, losses, c))

    def one_logit(variables, inputs):
        return linear(variables, inputs)[:, :1]

    def sigmoid_loss(logits, labels):
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(float))

    two = cmw.MetaClasses.fit([5, 50], 2)
    objective = cmw.classification_objective(one_logit, two, sigmoid_loss)
    net = cmw.WeightNet(num_meta_classes=2, hidden=4)
    weight_params = net.init(jax.random.key(0), jnp.ones(1), jnp.zeros(1, int))
    stepped(objective=objective, weight_fn=net.apply, state={"weight_params": weight_params})


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, bool])
def test_images_that_are_no_floats_are_not_mixed(dtype):
    with pytest.raises(cmw.UsageError, match=r"mixup: .* has dtype .*, expected a float"):
        mix(BATCH | {"image": BATCH["image"].astype(dtype)}, jax.random.key(0), num_classes=4)


def test_labels_that_are_no_indices_are_not_mixed():
    with pytest.raises(
        cmw.UsageError, match=r"integer labels have shape \(8, 1\), expected \[n\] class indices"
    ):
        mix(BATCH | {"label": LABEL[:, None]}, jax.random.key(0), num_classes=4)
    out = mix(BATCH | {"label": LABEL.at[0].set(-1).at[1].set(4)}, jax.random.key(0), num_classes=4)
    assert np.isnan(out["label"]).any(axis=1).sum() >= 2


def keeps_parameters(learning_rate):
    """An optimiser whose state is the very parameters that it starts from."""
    return optax.GradientTransformation(
        lambda params: params, lambda g, s, p: (jax.tree.map(lambda x: -learning_rate * x, g), s)
    )


@pytest.mark.parametrize("optimizer", [SGD, keeps_parameters(0.1), optax.contrib.schedule_free_sgd(0.1)])
def test_a_state_can_be_donated_whatever_it_was_made_of(optimizer):
    """And what it was made of stays the caller's."""
    params, model_state, key = {"w": jnp.ones((FEATURES, 4))}, {"n": jnp.zeros(())}, jax.random.key(0)
    made = {"params": params, "model_state": model_state, "weight_params": {"also": params["w"]}, "rng": key}
    objective = cmw.classification_objective(lambda variables, x: linear(variables, x), META_CLASSES)
    step = jax.jit(
        averaging(cmw.make_weighted_step(objective=objective, optimizer=optimizer), 0.5), donate_argnums=0
    )
    create = functools.partial(
        cmw.MetaState.create,
        optimizer=optimizer,
        teacher=Teacher(params, model_state),
        weight_optimizer=optimizer,
    )
    for state in (create(**made), jax.jit(create)(**made)):
        for _ in range(2):
            old = state
            state, _ = step(state, BATCH)
        assert old.params["w"].is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(made))


def test_a_table_on_the_host_stays_there():
    table = Table.full(np.zeros((3, 4)))
    state = cmw.MetaState.create(params=PARAMS, optimizer=SGD, rng=jax.random.key(0), memory=table)
    assert state.memory.values is table.values


def meta_step_with(**changes):
    """A meta step of a linear model, with its arguments changed, and a state for it."""
    optimizer, net = optax.sgd(0.1), cmw.WeightNet(1)
    classes = cmw.MetaClasses.fit([5, 5], 1)

    def apply(variables, inputs):
        return inputs @ variables["params"]

    arguments = {
        "objective": cmw.classification_objective(apply, classes),
        "meta_loss": cmw.classification_meta_loss(apply),
        "weight_fn": net.apply,
    }
    step = cmw.make_meta_step(
        **arguments | changes, optimizer=optimizer, weight_optimizer=optimizer, virtual_lr=0.1
    )
    weight_params = net.init(jax.random.key(0), jnp.ones(1), jnp.zeros(1, int))
    state = cmw.MetaState.create(
        params=jnp.ones((3, 2)), weight_params=weight_params, optimizer=optimizer, rng=jax.random.key(1),
        weight_optimizer=optimizer,
    )  # fmt: skip
    return step, state


def examples_of(count):
    return {"image": jnp.ones((count, 3)), "label": jnp.arange(count) % 2}


@pytest.mark.filterwarnings("ignore:the class sizes take only 1 distinct")
def test_batches_of_nothing_lists_and_objectives_that_are_none_are_refused():
    step, state = meta_step_with()
    jax.jit(step)(state, examples_of(4), examples_of(2))
    with pytest.raises(cmw.UsageError, match=r"^meta_batch\['image'\] has shape \(0, 3\), expected at"):
        jax.jit(step)(state, examples_of(4), examples_of(0))
    with pytest.raises(cmw.UsageError, match=r"^batch\['label'\] is a list, expected an array"):
        jax.jit(step)(state, {**examples_of(4), "label": [0, 1, 0, 1]}, examples_of(2))
    step, state = meta_step_with(objective=lambda params, state, batch, rng: ((params, params), state))
    with pytest.raises(cmw.UsageError, match="the objective returned a tuple, expected"):
        jax.jit(step)(state, examples_of(4), examples_of(2))


def test_counts_that_were_counted_are_not_taken_for_labels():
    counts = np.random.default_rng(0).poisson(1.0, 1000)
    for of_given in (
        lambda counts: cmw.MetaClasses.fit(counts, 2),
        class_balanced_weights,
        ldam_margins,
    ):
        with pytest.raises(cmw.UsageError, match="look like labels"):
            of_given(counts)
    assert len(cmw.MetaClasses.of_counts(counts, 2).of_class) == 1000
    for of_counted in (class_balanced_weights, ldam_margins):
        by_class = of_counted(counts, counted=True)
        assert np.all(by_class[counts == 1] == by_class.max()) and len(by_class) == 1000


def test_labels_whose_dtype_cannot_hold_the_number_of_classes():
    """128 is no int8; labels 0 to 127 are, and -1, which is no class, stays none."""
    labels, wide = jnp.array([0, 127, -1], jnp.int8), jnp.array([0, 127, -1])
    classes = cmw.MetaClasses.fit(np.arange(1, 129), 3)
    np.testing.assert_array_equal(cmw.objectives.meta_class_of(classes, labels), [0, 2, -1])
    np.testing.assert_array_equal(for_labels(np.arange(128.0), labels), [0, 127, np.nan])
    key, rows = jax.random.key(0), cmw.LossHistory.create(128)
    of = [mix({"image": jnp.ones((3, 2)), "label": x}, key, num_classes=128)["label"] for x in (labels, wide)]
    np.testing.assert_array_equal(*of)
    np.testing.assert_array_equal(jax.jit(rows.update)(labels, jnp.ones(3)).count, np.eye(128)[[0, 127]].sum(0))


def test_a_weight_net_that_needs_no_state_needs_none():
    """A weight function without parameters, and an optimiser without state."""
    stepped(wrap=functools.partial(frozen, weight_fn=lambda p, losses, c: losses))
    stepped(weight_optimizer=optax.stateless(lambda grads, params: grads), state={"weight_opt_state": ()})
