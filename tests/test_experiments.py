"""Every config of `experiments/` is built and trains for two steps, on made data of the published shape.

Configs that differ in their data, their length or a number alone train alike. Each kind of a method's fields,
of augmentation and of optimiser runs in some config, but not each with each: a step is composed of them.
`make test` runs each method's first kind, and `make test-runs` every one. The data of every cell are built, and
the classifiers that they name traced; steps are taken with a tiny one.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_sets import SHAPES, made_split, stand_in

import cmwnet_jax as cmw
from cmwnet_jax.data.load import load_data
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import value_of
from cmwnet_jax.train import health, parallel
from cmwnet_jax.train.build import build_model, build_recipe
from cmwnet_jax.train.config import as_json
from cmwnet_jax.train.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:the class sizes take only")  # of sets whose classes are alike

RECIPES = ("paper", "published")
WITH_RECIPES = {"table1_long_tail", "table2_noise", "table3_pmd", "table4_hybrid", "transfer"}
WITH_RECIPES |= {"table5_animal10n", "table6_webvision", "table7_webfg"}
FILES = (
    *sorted(WITH_RECIPES),
    "table11_open_set",
    "table13_partial_labels",
    "table15_selective",
    "fig15_ablations",
    "table10_semi_supervised",
    "human_noise",
    "transfer_mnist",
    "oltr_fashion",
    "compare",
    "ablation",
    "digits",
    "own_texts",
)
# Beyond their cells: what the files say can be asked for.
MORE = {
    "compare": [
        *(f"mnist,none,{method}" for method in ("cmwnet_ldam", "ldam_drw", "elr", "mixup")),
        "cifar10,human_worse_label,cmwnet,K=2,meta=held_out,human_labels=human_labels.npz",
    ],
    "own_texts": ["folder,category"],
    "digits": ["", "long_tail_10+symmetric_20,erm", "long_tail_5+asymmetric_60,mwnet"],
}


def args_of(name):
    """What the file's configs are asked for by; what is in a file of its own is in the working directory."""
    module = importlib.import_module(f"experiments.{name}")
    for cell in [*getattr(module, "get_cells", list)(), *MORE.get(name, [])]:
        if cell.startswith("imagenet2012"):
            continue  # a made set would need 128 images of each of a thousand classes
        more = ""
        if name == "table6_webvision":
            more = ",init=c2d.npz"
        elif name in ("transfer", "oltr_fashion"):
            more = ",init=net" + (",stage1=." if "oltr" in cell or "longer" in cell else "")
        elif name == "transfer_mnist":
            more = f",published=net,stage1={'net_of_one' if 'mwnet' in cell.split(',') else 'net'},posteriors=."
        elif name == "table13_partial_labels" and not cell.endswith("proden"):
            more = ",stage1=."
        elif name == "human_noise":
            more = ",human_labels=human_labels.npz"
        elif "pmd" in cell:
            more = ",posterior=probabilities.npy"
        stages = [cell, module.get_first_stage(cell)] if name == "table7_webfg" else [cell]
        for recipe in RECIPES if name in WITH_RECIPES else ("",):
            yield from (f"{stage}{more}" + (f",recipe={recipe}" if recipe else "") for stage in stages)


def config_of(name, arg):
    return importlib.import_module(f"experiments.{name}").get_config(arg)


def coarse(value):
    """Fields with their numbers told apart no further than 0, between, 1 and more; of lists, whether empty."""
    if isinstance(value, dict):
        return tuple((name, coarse(field)) for name, field in sorted(value.items()))
    if isinstance(value, bool | str):
        return value
    if isinstance(value, tuple | list):
        return bool(value)
    return value if value in (0, 1) else "less than 1" if value < 1 else "more than 1"


def parts_of(config):
    """What tells the kind of a config's training from another's: of its method, and of all methods."""
    read = sorted((name, coarse(value_of(config, name))) for name in METHODS[config.method].fields)
    shared = {(name, coarse(config[name].to_dict())) for name in ("augment", "optimizer")}
    return {method(config), (config.method, *read)} | shared


def method(config):
    """What tells the step of a config from another's, roughly."""
    return config.method, config.loss.name, config.loss.reweight_at_percent < 100, config.weight_net.frozen


def kinds():
    """Each config with a part that is new, as (file, argument); each method's first is not marked."""
    seen, methods = set(), set()
    for name in FILES:
        for arg in args_of(name):
            config = config_of(name, arg)
            if not (parts := parts_of(config)) <= seen:
                marks = [pytest.mark.whole_runs] if method(config) in methods else []
                yield pytest.param(name, arg, marks=marks, id=f"{name}:{arg}")
            seen |= parts
            methods.add(method(config))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Makes the files that a config names, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for count, folder in ((3, "net"), (1, "net_of_one")):
        net = cmw.WeightNet(count).init(jax.random.key(0, impl="unsafe_rbg"), np.ones(1), np.zeros(1, int))
        cmw.save_weight_net(tmp_path / folder, net, centers=range(1, count + 1), loss_range=(0, 9))

    def write(name, per_class):
        labels, classes = made_split(name, per_class).labels, SHAPES[name][0]
        likely = np.random.default_rng(0).random((len(labels), classes))
        likely[np.arange(len(labels)), labels] = 1.1  # right, and not sure of it
        for file in ("probabilities", "confidences", name):
            np.save(tmp_path / f"{file}.npy", likely / likely.sum(axis=1, keepdims=True))
        given = {f"{kind}_label": np.roll(labels, 1) for kind in ("worse", "aggre")}
        np.savez(tmp_path / "human_labels.npz", clean_label=labels, random_label1=labels[::-1], **given)

    return write


def made_data(config, files, monkeypatch):
    """The config's data, of a size for tests."""
    config.batch_size, config.meta_set.batch_size, config.chunk_steps = 8, 8, 2
    if config.method.startswith("fixmatch"):  # RandAugment compiles for seconds: see test_rand_augment
        config.fixmatch.labelled_batch_size, config.fixmatch.rand_ops = 8, 0
    config.data.calibration_per_class = min(config.data.calibration_per_class, 2)
    if config.data.name != "digits":
        factor, count = (
            int(config.data.bias.partition(kind)[2].partition("+")[0] or 0)
            for kind in ("long_tail_", "labels_" if config.data.bias.startswith("labels_") else "subset_")
        )
        per_class = (
            max(16, factor, count // SHAPES[config.data.name][0]) + config.data.calibration_per_class
        )  # steps an epoch whose number is even, as meta steps' distance
        stand_in(monkeypatch, per_class)
        files(config.data.name, per_class)
    return load_data(config)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def moved(before, after):
    return any(np.any(x != y) for x, y in zip(before, leaves(after), strict=True))


def check_two_steps(config, data):
    """The first two steps after the warm-up, as the launcher takes them: sound, and everything has learned."""
    config.model.name, config.model.hidden, config.model.batch_norm = "mlp", (), False
    # These name another run, and parts of the cell's classifier.
    config.model.pretrained, config.model.init, config.optimizer.slow = "", "", ()
    if config.optimizer.trainable:
        config.optimizer.trainable = ("Dense_0/*",)  # this classifier's head
    recipe = build_recipe(config, data)
    steps_done = config.warmup_epochs * recipe.epoch_steps
    state = recipe.state.replace(step=jnp.full_like(recipe.state.step, steps_done))
    params, teacher = leaves(state.params), leaves(state.teacher)
    trainer = Trainer(config, data, recipe)
    state = parallel.replicate(state)
    state, epoch = trainer.start_epoch(config.warmup_epochs, state, {})
    weights = leaves(parallel.unreplicate(state.weight_params))  # a plan may have changed them
    state, epoch = trainer.run_chunk(state, epoch)
    state = jax.device_get(parallel.unreplicate(state))

    assert epoch.losses.shape == (2, 8)
    health.check_steps(
        epoch.scalars,
        epoch.losses,
        epoch.weights,
        ids=data.biased.ids[epoch.main_rows[:2]],
        is_meta=epoch.is_meta[:2],
        first_step=steps_done,
        may_weigh_nothing=recipe.method.may_weigh_nothing,
    )
    health.check_state(state, steps_done + 2)
    assert state.step == steps_done + 2
    assert moved(params, state.params)
    assert moved(teacher, state.teacher) == (state.teacher != ())
    assert epoch.is_meta[0] == ("meta" in epoch.rows)
    assert moved(weights, state.weight_params) == epoch.is_meta[0]


@pytest.mark.parametrize(("name", "arg"), list(kinds()))
def test_each_kind_of_training_takes_two_steps(name, arg, files, monkeypatch, quick_programs):
    config = config_of(name, arg)
    config.data.resize_pixels //= 8  # the test below reads them at their size
    config.data.crop_pixels //= 8
    check_two_steps(config, made_data(config, files, monkeypatch))


@pytest.mark.parametrize("name", FILES)
def test_every_cell_has_data_and_a_classifier_for_them(name, files, monkeypatch):
    """Its bias goes with its data set, and its classifier takes the images and tells the classes."""
    built, traced = {}, set()
    for arg in args_of(name):
        config = config_of(name, arg)
        cell = (as_json(config.data), config.meta_set.kind, config.method == "proden")
        if cell not in built:
            data = made_data(config, files, monkeypatch)
            built[cell] = len(data.source.class_names), data.image_shape
            assert config.data.name == "digits" or built[cell] == wanted(config)
        classes, shape = built[cell]
        model = (config.model.name, classes, shape)
        if model not in traced:
            traced.add(model)
            module = build_model(config, classes)
            init = functools.partial(module.init_with_output, train=False)
            outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *shape)))
            logits = getattr(outputs, "logits", outputs)
            assert logits.shape == (1, classes)
    assert built and traced


def wanted(config):
    """Classes, and the image that the network sees."""
    classes, (*sides, channels) = SHAPES[config.data.name]
    crop = config.data.crop_pixels
    return classes, (*([crop, crop] if crop else sides), channels)


def test_a_sweep_of_transfer_tests_webvision_alone_on_imagenet():
    """ANIMAL-10N has none of its classes, and ImageNet-LT is tested on these images in any case."""
    for arg in args_of("transfer"):
        tested = config_of("transfer", f"{arg},imagenet=val.tar").data.also_test
        assert tested == ("imagenet_val" if arg.startswith("webvision") else "")


def test_the_demos_configs_are_the_digits_with_each_of_its_methods(tmp_path, monkeypatch):
    """`digits.py`'s kinds run above; the demo trains them, one a method and seed."""
    demo, digits = (importlib.import_module(f"experiments.{name}") for name in ("demo", "digits"))
    asked = []
    monkeypatch.setattr(demo, "train", lambda config, folder: asked.append((config, folder)))
    runs = demo.run_all(tmp_path, seeds=2)
    assert {method: len(found) for method, found in runs.items()} == {"erm": 2, "mwnet": 2, "cmwnet": 2}
    for config, folder in asked:
        expected = digits.get_config(f"method={folder.parent.name},seed={folder.name[-1]}")
        expected.watch.pictures_every_epochs = 0
        assert as_json(config) == as_json(expected)
