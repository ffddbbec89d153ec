"""Whatever is in a config, it trains or is refused in one sentence, with nothing left behind."""

import json
import os
import random
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict, config_dict
from raw_data import mnist_folder
from test_config import fields, parsed
from test_train import small_config

from cmwnet_jax import command
from cmwnet_jax.data import bias
from cmwnet_jax.data.bias_record import save_record
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.truth import TRUTHS, is_truth_known
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import shown
from cmwnet_jax.methods.weight_nets import _check_some_step_learns
from cmwnet_jax.models import INPUTS, MODELS, SMALLEST_SIDES, check_image
from cmwnet_jax.train import build, loop, parallel
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.config import all_fields, default_config
from cmwnet_jax.train.loop import train

NAN, INF = float("nan"), float("inf")


def changed(**changes):
    """The small config with fields of whatever type, by dotted name with `__` for the dot."""
    values = small_config().to_dict()
    for name, value in changes.items():
        *sections, field = name.split("__")
        section = values
        for part in sections:
            section = section[part]
        section[field] = value
    return ConfigDict(values)


def refused(function, *arguments, **changes):
    """The one sentence of a refusal."""
    with pytest.raises(UsageError) as error:
        function(*arguments, **changes)
    text = str(error.value)
    assert text.isprintable() and len(text) < 900, text
    return text


def test_every_number_has_bounds():
    for name, field in all_fields().items():
        if type(field.default) in (int, float):
            for value in (-1, 10**40, float("nan"), float("inf")):
                assert name in refused(field.check, name, value)
            field.check(name, field.default)
    check_config(default_config())


def _get(config, field):
    for name in field.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "data is None, expected a ConfigDict with the fields"),
        ({"optimizer": 3}, "optimizer is 3, expected a ConfigDict"),
        ({"model__hidden": 10**9}, "model.hidden is 1000000000, expected a list of numbers"),
        ({"model__hidden": (10**9,)}, "at least 1 and at most 65536"),
        ({"model__hidden": "8"}, "model.hidden is '8', expected a list"),
        ({"model__hidden": (True,)}, "expected whole numbers of units"),
        ({"model__hidden": (8,) * 101}, "model.hidden has 101 entries, expected at most 100"),
        ({"optimizer__decay_at_percent": (NAN,)}, "expected per cents"),
        ({"optimizer__decay_at_percent": (-5.0,)}, "expected per cents"),
        ({"optimizer__decay_at_percent": 60.0}, "decay_at_percent is 60.0, expected a list"),
        ({"augment__rand_ops": 10**6}, "rand_ops is 1000000, expected .* at most 100"),
        ({"data__resize_pixels": 10**6}, "at most 8192"),
        ({"data__workers": 10**6}, "at most 1024"),
        ({"num_epochs": 10**12}, "num_epochs is 1000000000000, .* at most 1000000"),
        ({"seed": 2**32}, "seed is 4294967296, .* at most 4294967295"),
        ({"batch_size": True}, "batch_size is True, expected a whole number"),
        ({"batch_size": 48.0}, "batch_size is 48.0, expected a whole number"),
        ({"augment__flip": 1}, "augment.flip is 1, expected True or False"),
        ({"optimizer__learning_rate": True}, "learning_rate is True, expected a number"),
        ({"optimizer__learning_rate": 10**5000}, "learning_rate is a int, expected a number that is finite"),
        ({"elr__strength": NAN}, "elr.strength is nan"),
        ({"checkpoint__every_minutes": INF}, "every_minutes is inf"),
        ({"data__dir": 3}, "data.dir is 3, expected a text"),
        ({"data__dir": "a\0b"}, "data.dir is .*, expected a text without control characters"),
        ({"data__extra": 3}, "a field of the config is 'data.extra'"),
        ({"data__bias": "symmetric_0.4"}, "data.bias: .*'symmetric_0.4', which is 0.4 per cent.*symmetric_40"),
        ({"data__known_as": "cifer10"}, "did you mean 'cifar10'"),
        ({"weight_net__learning_rate": 0.0}, "weight_net.learning_rate is 0.0, with which the"),
        ({"weight_net__learning_rate": 1e-60}, "would never learn"),
        ({"optimizer__learning_rate": 0.0}, "rate is 0.0, with which the classifier would never learn"),
        ({"optimizer__decay_factor": 0.0}, "decay_factor is 0.0, after which the classifier would not learn"),
        ({"method": "elr", "elr__strength": 0.0}, "elr would be plain training"),
        ({"method": "focal", "loss__focal_gamma": 0.0}, "focal would be plain training"),
        ({"method": "class_balanced", "loss__class_balanced_beta": 0.0}, "would be plain training"),
        ({"method": "mcw", "loss__mcw_learning_rate": 0.0}, "mcw would be plain training"),
        ({"method": "cmwnet_sl", "soft_labels__teacher_momentum": 1.0}, "the teacher would never learn"),
        ({"method": "mixup", "mixup_alpha": 1e-9}, "mixes next to nothing"),
        ({"method": "erm", "loss__reweight_at_percent": 80.0}, "which erm does not read"),
        ({"method": "erm", "loss__name": "focal", "warmup_epochs": 6}, "erm would be plain training"),
        ({"low_memory": True, "micro_batches": 96}, "micro_batches is 96, expected at most batch_size, 48"),
        ({"method": "l2rw", "delayed_weights": True}, "delayed_weights is True, which l2rw does not read"),
        (
            {"weight_net__frozen": True, "weight_net__learning_rate": 0.0, "delayed_weights": True},
            "delayed_weights is True, but with weight_net.frozen there is no meta step",
        ),
        ({"independent_examples": True, "low_memory": True}, "independent_examples is True, but low_memory"),
        (
            {"method": "cmwnet_sl", "independent_examples": True, "mixup_alpha": 1.0},
            "independent_examples is True, but with mixup_alpha = 1.0",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        check_config(changed(**changes))
    refused(check_config, changed(**changes))


def test_what_is_no_config_and_what_has_no_value_is_refused():
    for other in (None, {}, 3, default_config):
        assert "the config is" in refused(check_config, other)
    config = default_config().unlock()
    config.num_epochs = config_dict.required_placeholder(int)
    assert "num_epochs" in refused(check_config, config)
    assert shown("a\nb") == "'a\\nb'" and len(shown("a" * 999)) == 80


ODD = (
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**12, 10**5000, 0.0, 0.5, -0.5, 1e-300, 1e300, NAN, INF,
    "", "x", "a\nb", "\0", "none", "symmetric_0.4", "partial_20", (), (1,), (0.5, "x"), ((1,),), [], [None], {},
    {"a": 1}, ConfigDict(), b"x", 1j, np.float32(0.5), np.int64(3), np.zeros(3), object(), len,
)  # fmt: skip

PLAUSIBLE = {
    bool: (True, False),
    int: (0, 1, 2, 3, 5, 8, 40, 64, 1000, 10**5),
    float: (0, 0.0, 0.1, 0.5, 1.0, 50.0, 99.0, 1e-9),
    str: (
        "", "none", *METHODS, "held_out", "balanced", "stream", "device", "symmetric_20", "partial_20", "vgg16",
        "long_tail_9", "resnet10", "small_cnn", "warm_restarts", "mean", "local", "known", "nowhere",
        "shuffled", "bfloat16", "digits",
    ),
    tuple: ((), (1,), (8, 8), (50.0,), (0, 100.0)),
}  # fmt: skip


def odd_value(rng, default):
    return rng.choice(ODD if rng.random() < 0.4 else PLAUSIBLE.get(type(default), ODD))


def odd_configs(count, seed):
    """Configs with one to three fields, sections among them, replaced by something."""
    rng, names = (
        random.Random(seed),
        [*fields(default_config()), *(n for n in default_config() if "." not in n)],
    )
    for _ in range(count):
        chosen = rng.sample(names, rng.randint(1, 3))
        chosen = {name.replace(".", "__"): odd_value(rng, _get(default_config(), name)) for name in chosen}
        # A section that is replaced has no fields to change.
        chosen = {n: v for n, v in chosen.items() if n == n.split("__")[0] or n.split("__")[0] not in chosen}
        yield chosen, changed(**chosen)


def outcome(function, *arguments):
    try:
        function(*arguments)
    except UsageError as error:
        assert str(error).isprintable(), str(error)
        return "refused"
    return "taken"


def test_any_config_is_taken_or_refused_in_one_sentence():
    seen = [outcome(check_config, config) for _, config in odd_configs(800, seed=0)]
    assert seen.count("taken") > 50 and seen.count("refused") > 400


def test_what_is_refused_leaves_nothing_behind(tmp_path, monkeypatch):
    """Up to the first step, which is not taken; nothing is compiled for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "_train", lambda launch: {})
    monkeypatch.setattr(parallel, "loops_are_slow", lambda *arguments: False)
    state = SimpleNamespace(params={}, model_state={})
    monkeypatch.setattr(build, "_initial_state", lambda *arguments: state)
    seen = []
    for number, (changes, config) in enumerate(odd_configs(2000, seed=1)):
        if number > 20 and outcome(check_config, config) == "refused":
            continue  # enough of these
        workdir = tmp_path / str(number)
        seen.append(outcome(train, config, workdir))
        assert workdir.exists() == (seen[-1] == "taken"), changes
        if seen.count("taken") == 6:
            break
    assert seen.count("taken") == 6 and seen.count("refused") > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "vgg16"}, "'vgg16', which takes images of at least 32 pixels a side, .* are 8 x 8"),
        (
            {"model__name": "inception_resnet_v2", "data__path": "stream", "data__crop_pixels": 32},
            "at least 75 pixels a side, but these are 32 x 32",
        ),
        ({"augment__pad_pixels": 8}, "pad_pixels is 8, expected fewer than the images' shorter side, 8"),
        ({"meta_every_steps": 10**6}, "meta_every_steps is 1000000, but the steps from .* no multiple of it"),
        ({"method": "ldam", "loss__reweight_at_percent": 99.99}, "which is after the last of"),
        ({"method": "cmwnet_sl", "soft_labels__freeze_teacher_at_percent": 0.0}, "the teacher would never"),
        ({"model__hidden": (60_000, 60_000)}, "parameters, expected at most"),
        ({"data__known_as": "cifar100"}, "data.known_as is 'cifar100', which has 100 classes"),
        ({"model__pretrained": "no.npz"}, "the model to load pretrained weights into is 'mlp'"),
        ({"weight_net__init": "nowhere"}, "weight_net.init: "),
    ],
)  # fmt: skip
def test_what_does_not_go_with_the_data_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(changed(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_steps_are_not_too_many_to_count():
    assert "num_epochs" in refused(build._check_length, small_config(num_epochs=10**6), 10**4)


def test_some_step_learns():
    """Of the steps after the warm-up, 40 of 120, one at least is a multiple."""

    def check(every, **changes):
        config = small_config(meta_every_steps=every, **changes)
        return _check_some_step_learns(SimpleNamespace(config=config, num_steps=120), config.warmup_epochs)

    check(119)
    check(120, warmup_epochs=0)
    assert "meta_every_steps is 121" in refused(check, 121, warmup_epochs=0)
    assert "meta_every_steps is 120" in refused(check, 120)


def empty_maps(name, side):
    """Operations of a model on images of a size whose result has no element."""
    images = jax.ShapeDtypeStruct((1, side, side + 3, 3), np.float32)
    module = MODELS[name](num_classes=10)
    try:
        traced = jax.make_jaxpr(lambda key, x: module.init(key, x, train=False))(jax.random.key(0), images)
    except ZeroDivisionError as error:  # of the initializer of a dense layer without inputs
        return [error]
    pending, found = [traced.jaxpr], []
    while pending:
        for operation in pending.pop().eqns:
            found += [operation for out in operation.outvars if 0 in out.aval.shape]
            pending += jaxprs_in_params(operation.params)
    return found


OF_IMAGES = [name for name in MODELS if "images" in INPUTS.get(name, ("images",))]


def _slow_to_trace(name):
    return pytest.param(name, marks=pytest.mark.whole_runs) if name == "inception_resnet_v2" else name


@pytest.mark.parametrize("name", [_slow_to_trace(name) for name in sorted(OF_IMAGES)])
def test_each_model_says_its_smallest_image(name):
    least = SMALLEST_SIDES.get(name, 1)
    assert not empty_maps(name, least)
    check_image(name, (least, least + 3, 3))
    if name in SMALLEST_SIDES:
        assert empty_maps(name, least - 1)
        for shape in ((least - 1, least, 3), (least, least - 1, 3)):
            assert f"at least {least} pixels" in refused(check_image, name, shape)


def test_a_rate_that_is_a_share_is_refused_for_every_bias_in_per_cent():
    for kind in (
        "symmetric", "uniform", "asymmetric", "asymmetric_dividemix", "asymmetric_plc", "open_set", "pmd1",
        "pmd3_plc", "partial", "partial_pair",
    ):  # fmt: skip
        assert f"write {kind}_35 for a share of 0.35" in refused(bias.needs, f"long_tail_10+{kind}_0.35")
        bias.needs(f"{kind}_0"), bias.needs(f"{kind}_1"), bias.needs(f"{kind}_37.5")
    bias.needs("long_tail_1.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense", 2, 0), "--coordinator is 'nonsense', expected HOST:PORT"),
        (("host:0", 2, 0), "--coordinator is 'host:0'"),
        (("host:99999", 2, 0), "--coordinator is"),
        (("host:1234", 0, 0), "--num_processes is 0, expected at least 1"),
        (("host:1234", 2, 7), "--process_id is 7, expected a number from 0 to below --num_processes, 2"),
        (("host:1234", 2, -1), "--process_id is -1"),
    ],
)
def test_processes_that_cannot_be_are_refused(arguments, message):
    assert message in refused(parallel.initialize, *arguments)


def test_a_config_file_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "link.py").symlink_to(tmp_path / "gone.py")
    os.mkfifo(tmp_path / "pipe.py")
    for name, message in (("folder", "a folder"), ("link", "a link to"), ("pipe", "a named pipe")):
        path = tmp_path / f"{name}.py"
        assert message in refused(parsed, f"--config={path}:arg")
        assert message in refused(command.check_config_file, path)
    refused(parsed, f"--config={tmp_path}/missing.py")


def test_sections_are_not_replaced_on_the_command_line():
    for override in ("--config.data=None", "--config.optimizer=3", "--config.batch_size=True"):
        try:
            config = parsed("--config=experiments/digits.py", override)
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            refused(check_config, config)


def test_files_of_ones_own_are_not_taken_for_rightly_labelled(tmp_path):
    mnist_folder(tmp_path / "raw", classes=10, train=200, test=20)
    own = {
        "data__name": "mnist_format", "data__raw_dir": str(tmp_path / "raw"), "data__dir": str(tmp_path),
        "data__bias": "none", "meta_set__per_class_examples": 4, "meta_set__batch_size": 8, "batch_size": 48,
        "weight_net__num_meta_classes": 1, "num_epochs": 1, "warmup_epochs": 0,
    }  # fmt: skip
    result = train(changed(**own), tmp_path / "run")
    assert np.isnan(result["wrong_rate"])
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert line["meta_set_right_percent"] is None and line["weight_auc"] is None
    assert "data.truth to 'known'" in refused(load_data, changed(**own, meta_set__kind="held_out"))
    assert load_data(changed(**own, data__known_as="mnist")).biased.truth_known
    with np.load(tmp_path / "run/weights.npz") as arrays:
        np.testing.assert_array_equal(arrays["ids"], np.arange(200))  # the last partial batch's, too
        assert np.sum(arrays["seen"]) == 192 and not arrays["truth_known"]
        for name in ("weights", "losses"):
            np.testing.assert_array_equal(np.isfinite(arrays[name]), arrays["seen"])


def test_only_published_benchmarks_are_taken_for_right():
    for name, truth, known_as, known in (
        ("cifar10", "auto", "", True),
        ("cifar10", "unknown", "", False),
        ("animal10n", "auto", "mnist", False),
        ("image_folder", "auto", "animal10n", False),
        ("image_folder", "auto", "cifar10", True),
        ("image_folder", "unknown", "cifar10", False),
        ("image_folder", "known", "", True),
    ):
        assert is_truth_known(name, truth, known_as) == known, (name, truth, known_as)


def test_a_record_does_not_make_its_truth_known(tmp_path):
    data = load_data(changed(data__truth="unknown"))
    save_record(tmp_path / "run", data.record, data.true_labels)
    record = {"data__record": str(tmp_path / "run"), "data__bias": "none"}
    known = {truth: load_data(changed(**record, data__truth=truth)).biased.truth_known for truth in TRUTHS}
    assert known == {"auto": False, "known": True, "unknown": False}
