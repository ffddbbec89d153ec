"""Every config of `experiments/` is built and trains for two steps, on made data of the published shape.

Configs that differ in their data, their length or a number alone train alike. Each kind of a method's fields,
of augmentation and of optimiser runs in some config, but not each with each: a step is composed of them.
`make test` runs each method's first kind, and `make test-runs` every one. The data of every cell are built, and
the classifiers that they name traced; steps are taken with a tiny one.
"""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_sets import SHAPES, made_split, stand_in
from table_cells import FILES, args_of, check_two_steps, config_of, write_nets

from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import value_of
from cmwnet_jax.train.build import build_model
from cmwnet_jax.train.config import as_json

pytestmark = pytest.mark.filterwarnings("ignore:the class sizes take only")  # of sets whose classes are alike


def coarse(value):
    """Fields with their numbers told apart no further than 0, 1 and others; of lists, whether empty."""
    if isinstance(value, dict):
        return tuple((name, coarse(field)) for name, field in sorted(value.items()))
    if isinstance(value, bool | str):
        return value
    if isinstance(value, tuple | list):
        return bool(value)
    return value if value in (0, 1) else "another number"


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
            if config.data.name == "imagenet2012":
                continue  # as cifar10's cells, with a thousand classes
            if not (parts := parts_of(config)) <= seen:
                marks = [pytest.mark.whole_runs] if method(config) in methods else []
                yield pytest.param(name, arg, marks=marks, id=f"{name}:{arg}")
            seen |= parts
            methods.add(method(config))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Makes the files that a config names, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_nets(tmp_path)

    def write(name, per_class):
        labels, classes = made_split(name, per_class).labels, SHAPES[name][0]
        if name == "imagenet2012":
            return  # whose cells name none, and they would take a gigabyte
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
    is_large = config.data.bias == "labels_128000"
    if is_large:
        config.data.bias = "labels_1000"  # one of each class
    if config.data.name == "digits":
        return load_data(config)
    with monkeypatch.context() as patch:
        factor, count = (
            int(config.data.bias.partition(kind)[2].partition("+")[0] or 0)
            for kind in ("long_tail_", "labels_" if config.data.bias.startswith("labels_") else "subset_")
        )
        per_class = (
            max(16, factor, count // SHAPES[config.data.name][0]) + config.data.calibration_per_class + is_large
        )  # steps an epoch whose number is even, as meta steps' distance; above 16, all of a thousand classes
        stand_in(patch, per_class)
        files(config.data.name, per_class)
        return load_data(config)


@pytest.mark.parametrize(("name", "arg"), list(kinds()))
def test_each_kind_of_training_takes_two_steps(name, arg, files, monkeypatch, quick_programs):
    config = config_of(name, arg)
    config.data.resize_pixels //= 8  # the test below reads them at their size
    config.data.crop_pixels //= 8
    check_two_steps(config, made_data(config, files, monkeypatch))


def test_no_config_file_is_left_out():
    folder = pathlib.Path(__file__).parent.parent / "experiments"
    assert {path.stem for path in folder.glob("*.py") if "def get_cells(" in path.read_text()} <= {*FILES}


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


@pytest.mark.parametrize(
    "file, cell", [("human_noise", "worse,cmwnet"), ("compare", "mnist,symmetric_60,mwnet")]
)
def test_meta_mixup_and_decay_are_options_by_name(file, cell):
    """The defaults are the paper's."""
    for options, wanted in (("", (True, 1e-4)), (",meta_mixup=off,decay=0.0", (False, 0.0))):
        config = config_of(file, cell + options)
        assert (config.meta_set.mixup, config.weight_net.weight_decay) == wanted
    with pytest.raises(UsageError, match="meta_mixup is 'of', expected .*off"):
        config_of(file, f"{cell},meta_mixup=of")


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
