"""What each way to take a step costs by the compiler's count, and how exact its meta-gradient is."""

import dataclasses
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import cmwnet_jax as cmw
from cmwnet_jax.models import MODELS
from experiments import benchmark_step, step_tasks, step_variants
from experiments.benchmark_step import cosine
from experiments.setting import setting
from experiments.step_tasks import Task
from experiments.step_variants import ERM, META, SCANNED_ERM, SCANNED_META, Program, Step, Variant, vector

META_CLASSES = step_tasks.META_CLASSES


def test_each_variant_costs_what_it_should():
    """Operations and peaks of an MLP's, in units of plain training's, and the cosine to the exact gradient."""
    task = Task("mlp", 128, ("Dense_1", "BatchNorm_1", "Dense_2"), (28, 28, 1), {"hidden": (300, 301)})
    variants, state = step_variants.jax_variants(task, jnp.float32)
    exact = step_variants.exact_meta_gradient(task, state)
    assert np.linalg.norm(exact) > 1e-4
    limits = {  # operations, peak, cosine
        ERM: (1, 1, None),
        "frozen weight net": (1.01, 1.05, None),
        META: (3.5, 2.5, 0.9999),
        "meta step every 10 steps": (1.25, 2.5, 0.9999),
        "meta step, last layers": (2.0, 2.0, 0.8),
        "meta step, quarter meta batch": (2.8, 2.5, 0.8),
        "meta step, low memory": (4.05, 1.35, 0.9999),
        "meta step, low memory, shared forward": (3.75, 1.6, 0.9999),
        "meta step, delayed weights": (2.75, 3.5, 0.9999),
        SCANNED_ERM: (1.01, 1.2, None),
        SCANNED_META: (3.5, 2.6, None),
    }
    assert variants.keys() == limits.keys()
    for name, (flops, peak, least_cosine) in limits.items():
        variant = variants[name]
        assert variant.flops <= flops * variants[ERM].flops, name
        assert variant.temporary_bytes <= peak * variants[ERM].temporary_bytes, name
        assert (variant.meta_gradient is None) == (least_cosine is None), name
        assert least_cosine is None or cosine(variant.meta_gradient, exact) >= least_cosine, name
    assert variants[SCANNED_META].group == variants[SCANNED_ERM].group == 10
    assert variants[SCANNED_META].baseline == SCANNED_ERM
    assert variants["meta step, quarter meta batch"].temporary_bytes < variants[META].temporary_bytes
    assert variants[META].flops > 3 * variants[ERM].flops
    assert cosine(variants["meta step, last layers"].meta_gradient, exact) < 0.99999


def test_independent_examples_cost_less():
    """Operations of a small MLP without BatchNorm, in units of plain training's."""
    fields = {"hidden": (128, 128, 128), "batch_norm": False}
    task = dataclasses.replace(step_tasks.TASKS["mlp_1024"], image_shape=(98,), batch_size=32, fields=fields)
    arguments, state = step_tasks.parts(task, jnp.float32)
    batch, meta_batch = step_tasks.examples(task)
    erm = Program(cmw.make_weighted_step(objective=arguments["objective"], optimizer=arguments["optimizer"]))
    erm(state, batch)
    for delayed, size, most in ((False, 32, 2.75), (True, 32, 2.4), (True, 8, 1.75)):
        step = cmw.make_meta_step(**arguments, independent_examples=True, delayed_weights=delayed)
        program = Program(step)
        program(state, batch, {name: x[:size] for name, x in meta_batch.items()})
        assert program.flops <= most * erm.flops, (delayed, size)


@pytest.fixture(scope="module")
def resnet():
    """(task, plain step, default meta step, its meta-gradient) of a ResNet-8."""
    task = Task("resnet20", 32, (), (16, 16, 3), {"depth": 8})
    arguments, state = step_tasks.parts(task, jnp.float32)
    batch, meta_batch = step_tasks.examples(task)
    erm = Program(cmw.make_weighted_step(objective=arguments["objective"], optimizer=arguments["optimizer"]))
    meta = Program(cmw.make_meta_step(**arguments))
    erm(state, batch)
    return task, erm, meta, vector(meta(state, batch, meta_batch)[0].weight_opt_state[0])


@pytest.mark.parametrize(("shared", "flops"), [(False, 12), (True, 11)])
def test_the_low_memory_step_of_a_residual_network(shared, flops, resnet):
    """Near the peak of plain training, at 12 or 11 forward passes: the default takes 10, ERM 3."""
    task, erm, meta, gradient = resnet
    arguments, state = step_tasks.parts(task, jnp.float32)
    passes = []
    compile = {"compile": lambda f: passes.append(Program(f)) or passes[-1]}
    step = cmw.make_low_memory_step(**arguments, **compile, shared_forward=shared)
    new, _ = step(state, *step_tasks.examples(task))
    assert cosine(vector(new.weight_opt_state[0]), gradient) > 0.99999
    assert 3 * erm.flops < meta.flops <= 3.5 * erm.flops
    assert (
        (flops / 3 - 0.2) * erm.flops
        < sum(program.flops for program in passes)
        <= (flops / 3 + 0.05) * erm.flops
    )
    assert max(program.temporary_bytes for program in passes) <= 1.35 * erm.temporary_bytes
    assert meta.temporary_bytes > 1.5 * erm.temporary_bytes


def test_bfloat16_computes_and_float32_learns():
    """Parameters, weight net and meta-gradient stay float32, and its direction stays."""
    task = Task("mlp", 64, (), (8, 8, 1), {"hidden": (32, 32)})
    arguments, state = step_tasks.parts(task, jnp.bfloat16)
    logits = MODELS["mlp"](num_classes=10, dtype=jnp.bfloat16, **task.fields).apply
    program = jax.jit(logits, static_argnames=("mutable",)).lower(
        {"params": state.params, **state.model_state},
        step_tasks.examples(task)[0]["image"],
        mutable=("batch_stats",),
    )
    assert "bf16" in program.as_text()
    new, metrics = jax.jit(cmw.make_meta_step(**arguments))(state, *step_tasks.examples(task))
    trained = new.params, new.model_state, new.opt_state, new.weight_params, new.weight_opt_state[0], metrics
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    gradient = vector(new.weight_opt_state[0])
    assert 0.98 < cosine(gradient, step_variants.exact_meta_gradient(task, state)) < 1 - 1e-9


@pytest.mark.usefixtures("x64")
def test_a_rematerialised_objective_is_an_objective():
    """`jax.checkpoint` composes with the step, here to the last bits."""
    params = {"w": jnp.linspace(-1, 1, 12).reshape(4, 3)}
    batch = {"image": jnp.sin(jnp.arange(32.0)).reshape(8, 4), "label": jnp.arange(8) % 3}
    net, optimizer = cmw.WeightNet(num_meta_classes=3, param_dtype=jnp.float64), optax.sgd(0.1)

    def apply(variables, x):
        return jnp.tanh(x @ variables["params"]["w"])

    plain, net_key = cmw.classification_objective(apply, cmw.MetaClasses.fit([5, 50, 500])), jax.random.key(0)
    results = []
    for objective in (plain, jax.checkpoint(plain)):
        shared = {"optimizer": optimizer, "weight_optimizer": optimizer}
        step = cmw.make_meta_step(
            objective=objective,
            meta_loss=cmw.classification_meta_loss(apply),
            weight_fn=net.apply,
            virtual_lr=0.1,
            **shared,
        )
        weight_params = net.init(net_key, jnp.ones(1), jnp.zeros(1, jnp.int32))
        state = cmw.MetaState.create(
            params=params, weight_params=weight_params, rng=jax.random.key(1), **shared
        )
        results.append(jax.jit(step)(state, batch, batch)[0])
    for first, second in zip(*(jax.tree.leaves((r.params, r.weight_params)) for r in results), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-15)


class Perceptron(nn.Module):
    """`models.MLP`'s layers in float64."""

    @nn.compact
    def __call__(self, x, train=True):
        kind = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        for width in (7, 8):
            x = nn.Dense(width, use_bias=False, **kind)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=1e-5, **kind)(x))
        return nn.Dense(10, **kind)(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("method", "options", "tolerance"),
    [
        ("second_order", {}, 1e-12),
        ("pruned_second_order", {}, 1e-12),
        ("finite_difference", {"distance": 1e-5}, 1e-6),
    ],
)
def test_pytorchs_meta_gradient_is_ours(method, options, tolerance):
    """Another library's second-order autograd is the oracle; both then take the same real step."""
    torch = pytest.importorskip("torch")
    from experiments import torch_peers

    rng = np.random.default_rng(0)
    pair = [{"image": rng.normal(size=(n, 5)), "label": np.arange(n, dtype=np.int32) % 10} for n in (24, 16)]
    model, net = Perceptron(), cmw.WeightNet(num_meta_classes=3, hidden=9, param_dtype=jnp.float64)
    variables = model.init(jax.random.key(0), jnp.ones((2, 5)))
    optimizers = {"optimizer": optax.sgd(0.1, momentum=0.9), "weight_optimizer": optax.adam(1e-3)}
    optimizers["weight_optimizer"] = step_tasks.recorded(optimizers["weight_optimizer"])
    state = cmw.MetaState.create(
        params=variables["params"],
        model_state={"batch_stats": variables["batch_stats"]},
        weight_params=net.init(jax.random.key(1), jnp.ones(1), jnp.zeros(1, jnp.int32)),
        rng=jax.random.key(2),
        **optimizers,
    )
    step = cmw.make_meta_step(
        objective=cmw.classification_objective(model.apply, META_CLASSES),
        meta_loss=cmw.classification_meta_loss(model.apply),
        weight_fn=net.apply,
        virtual_lr=0.1,
        **optimizers,
    )
    new, _ = jax.jit(step)(state, *pair)

    trainer = torch_peers.Trainer(
        torch_peers.load_linen(torch_peers.mlp(10, 5, (7, 8)).double(), state.params),
        torch_peers.load_linen(torch_peers.WeightNet(3, hidden=9).double(), state.weight_params["params"]),
        torch.tensor(META_CLASSES.of_class, dtype=torch.long),
        0.1,
    )
    batches = [(torch.tensor(b["image"]), torch.tensor(b["label"]).long()) for b in pair]
    getattr(trainer, method)(*batches, **options)
    expected = vector(new.weight_opt_state[0])
    got = vector(trainer.meta_gradient())
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.linalg.norm(expected))
    after = torch_peers.load_linen(torch_peers.mlp(10, 5, (7, 8)).double(), new.params)
    for ours, theirs in zip(after.parameters(), trainer.model.parameters(), strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "fields", "peer"),
    [
        ("small_cnn", {}, "small_cnn"),
        ("resnet20", {"depth": 8}, "resnet_cifar"),
        ("preact_resnet18", {}, "preact_resnet18"),
        ("wide_resnet28_10", {"depth": 10, "widen": 1}, "wide_resnet"),
    ],
)
def test_pytorchs_networks_are_ours(name, fields, peer):
    torch = pytest.importorskip("torch")
    from experiments import torch_peers

    images = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    model = MODELS[name](num_classes=10, **fields)
    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(0), images, train=False)
    expected, _ = jax.jit(lambda v: model.apply(v, images, mutable=["batch_stats"]))(variables)
    torch_model = torch_peers.load_linen(getattr(torch_peers, peer)(10, **fields), variables["params"])
    got = torch_model(torch.tensor(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_a_profile_is_left(tmp_path):
    taken = []
    variants = {name: Variant(lambda steps, name=name: taken.append((name, steps))) for name in (ERM, META)}
    benchmark_step.profile(variants, tmp_path / "mlp")
    assert taken == [(ERM, 3), (META, 3)]
    assert list((tmp_path / "mlp").rglob("perfetto_trace.json.gz"))


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path):
    benchmark_step.check_folder("--profile", tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(cmw.UsageError, match="--output needs the folder '.*file', which cannot be written"):
        benchmark_step.check_folder("--output", tmp_path / "file")


def test_a_group_is_the_steps_of_its_programs():
    """A loop of ten steps and a single one make a group of 11, called once each in turn."""
    optimizers = {"optimizer": optax.sgd(1.0), "weight_optimizer": step_tasks.recorded(optax.sgd(1.0))}
    state = cmw.MetaState.create(
        params=jnp.zeros(1), weight_params=jnp.ones(2), rng=jax.random.key(0), **optimizers
    )

    def one(state, batch):
        return state.replace(step=state.step + 1), {}

    loop, single = Step.scanned(one, jnp.zeros(1)), Step.of(one, jnp.zeros(1))
    state, _ = loop.call(state, *loop.batches)
    assert int(state.step) == loop.count == 10
    seen = []
    steps = [
        dataclasses.replace(step, call=lambda *arguments, step=step: seen.append(step) or step.call(*arguments))
        for step in (loop, single)
    ]
    variant = step_variants.variant_of(steps, state)
    seen.clear()
    variant.run(22)
    assert variant.group == 11
    first, second = (step.programs[0].flops for step in (loop, single))
    assert variant.flops == pytest.approx((10 * first + second) / 11)
    assert seen == [loop, single] * 2


def test_the_reports_ratios():
    """A peer's times are in units of its own plain training, and `speed_against` is a peer's over ours."""
    times = {ERM: 2.0, META: 6.0, "PyTorch, ERM": 4.0, "PyTorch, second order": 24.0}
    variants = {
        name: Variant(lambda steps: None, baseline="PyTorch, ERM" if "PyTorch" in name else ERM)
        for name in times
    }
    variants[ERM].flops, variants[META].flops = 3.0, 10.0
    variants[ERM].temporary_bytes = variants[META].temporary_bytes = 2**20
    variants[META].meta_gradient = np.array([3.0, 4.0])
    seconds = {name: [100.0, time, 0.0] for name, time in times.items()}
    report = benchmark_step.results(variants, seconds, np.array([3.0, 0.0]))
    assert report[META]["ratio_to_erm"] == 3
    assert report[META]["speed_against"] == {"PyTorch, ERM": 4 / 6, "PyTorch, second order": 4}
    assert report["PyTorch, second order"]["ratio_to_erm"] == 6
    assert report[META]["flops_ratio_to_erm"] == pytest.approx(10 / 3)
    assert report[META]["cosine_to_exact"] == pytest.approx(0.6)
    screen = io.StringIO()
    whole = setting() | {"device": "cpu", "dtype": "float32", "models": {"mlp": report}}
    Console(file=screen, width=200, markup=False).print(benchmark_step.make_table(whole))
    assert "[bold]" not in screen.getvalue()
    row = next(line for line in screen.getvalue().splitlines() if "meta step" in line)
    assert "6000.00" in row and "0.60000" in row and "3.33" in row


def test_every_variant_is_measured_as_often():
    taken = {"one": [], "ten": []}
    variants = {
        "one": Variant(taken["one"].append),
        "ten": Variant(taken["ten"].append, group=10),
    }
    seconds = benchmark_step.measure(variants, rounds=3)
    assert {name: len(values) for name, values in seconds.items()} == {"one": 3, "ten": 3}
    assert all(steps % 10 == 0 for steps in taken["ten"])


def test_variants_are_chosen_by_name_with_what_they_are_compared_with():
    names, baselines = ["ERM", "a", "ab", "ERM of ab", "b"], {"ab": "ERM of ab"}
    assert step_variants.chosen(names, ["ERM", "?b"], baselines) == ["ERM", "ab", "ERM of ab"]
    assert step_variants.chosen(names, [], baselines) == names
    assert step_variants.chosen(names, ["c*"], baselines) == []


def test_an_unknown_model_is_named():
    with pytest.raises(
        cmw.UsageError, match="--models is 'resnet23', expected one of .*did you mean 'resnet32'"
    ):
        benchmark_step.chosen_models(["resnet23"])
    assert benchmark_step.chosen_models([]) == [
        "mlp",
        "mlp_1024",
        "transformer",
        "vit",
        "small_cnn",
        "resnet32",
    ]
