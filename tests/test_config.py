"""Configs that cannot lie: every field is commented, typed, read by something, and says its unit."""

import json
import sys

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags
from test_train import run_here, small_config

from cmwnet_jax import command
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import local_file
from cmwnet_jax.train import build, loop
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.config import all_fields, as_json, default_config
from cmwnet_jax.train.loop import train


class Recorded:
    """A config that notes which fields are read, one by one or by `**`."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getitem__(self, name):
        value = self._config[name]
        if isinstance(value, ConfigDict):
            return Recorded(value, self._read, f"{self._prefix}{name}.")
        self._read.add(self._prefix + name)
        return value

    def __getattr__(self, name):
        return self[name]

    def __contains__(self, name):
        return name in self._config

    def keys(self):
        return self._config.keys()

    def to_json_best_effort(self):
        return self._config.to_json_best_effort()


def fields(config, prefix=""):
    for name, value in config.items():
        yield from fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]


def test_every_field_is_read_by_something(tmp_path, monkeypatch):
    """By something that acts on it: checking and writing the config do not count.

    A field that only some runs look at needs one of those runs here.
    """
    monkeypatch.setattr(loop, "check_config", lambda config: None)
    made, read = build._initial_state, set()
    true = load_data(small_config(data__bias="none")).true_labels
    np.savez(tmp_path / "human.npz", clean_label=true, worse_label=(true + 1) % 10)
    posterior = str(tmp_path / "posterior.npy")
    np.save(posterior, np.full((1257, 10), 0.1))
    texts = tmp_path / "texts.csv"
    texts.write_text("split,kind,text\n" + "train,a,one two\ntrain,b,two one\ntest,a,one\ntest,b,two\n" * 4)
    train(Recorded(small_config(num_epochs=2, warmup_epochs=1, data__path="stream"), read), tmp_path / "run")
    for config in (
        small_config(data__bias="open_set_40", data__open_set_from="digits"),
        small_config(data__bias="human_worse_label", data__human_labels=str(tmp_path / "human.npz")),
        small_config(data__bias="pmd1_5", data__posterior=posterior),
        small_config(data__bias="confidences", data__confidences=posterior),
        small_config(data__name="csv", data__raw_dir=str(texts), data__label_column="kind", data__bias="none"),
    ):
        load_data(Recorded(config, read))
    # Shapes alone: nothing is compiled.
    monkeypatch.setattr(build, "_initial_state", lambda *given: jax.eval_shape(lambda: made(*given)))
    for method in METHODS:
        name = {"proden": "partial_20", "fixmatch": "labels_80", "fixmatch_cmwnet": "labels_80"}.get(
            method, "symmetric_20"
        )
        config = small_config(method=method, data__bias=name, loss__forward_posterior=posterior)
        config.optimizer.schedule = "steps" if method == "erm" else "warm_restarts"
        build_recipe(Recorded(config, read), load_data(config))
    unread = set(fields(default_config())) - read
    assert not unread, (
        f"nothing reads {sorted(unread)}: use them, remove them, or add a run here that needs them"
    )


def test_every_field_has_a_comment_which_is_a_sentence():
    for name, field in all_fields().items():
        assert field.comment.endswith("."), f"no sentence says what {name} is: {field.comment!r}"


_UNITS = ("epochs", "steps", "examples", "percent", "seconds", "minutes", "batches")
_DURATIONS = ("epoch", "step", "every", "warmup", "interval", "duration", "time", "until", "after", "decay_at")


def test_durations_say_their_unit():
    for field in fields(default_config()):
        name = field.split(".")[-1]
        if any(word in name for word in _DURATIONS):
            assert name.endswith(_UNITS), f"{field} is a duration without a unit"


def test_configs_are_locked_and_typed():
    config = default_config()
    for change in (
        lambda: setattr(config, "num_epoch", 3),
        lambda: setattr(config.optimizer, "lr", 3),
        lambda: setattr(config, "num_epochs", "3"),
        lambda: setattr(config, "num_epochs", 2.5),
        lambda: setattr(config.augment, "flip", "yes"),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert as_json(config) == as_json(default_config())


def parsed(*arguments):
    """The config that a command line gives, as `cmwnet_jax.train` reads it."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.flags, "FLAGS", values)
        patch.setattr(sys, "argv", ["train", *arguments])  # config_flags looks for overrides there
        command._parse(["train", *arguments])
    return config.value


DIGITS = "--config=experiments/digits.py"


def test_overrides_take_their_fields_type():
    config = parsed(
        f"{DIGITS}:none,erm,seed=4",
        "--config.num_epochs=7",
        "--config.optimizer.learning_rate=1",
        "--config.augment.flip=true",
        "--config.model.hidden=(8, 4)",
        "--config.optimizer.decay_at_percent=(50.0,)",
    )
    check_config(config)
    assert (config.method, config.seed, config.num_epochs, config.augment.flip) == ("erm", 4, 7, True)
    assert (config.model.hidden, config.optimizer.decay_at_percent) == ((8, 4), (50.0,))
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.is_locked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DIGITS, "--config.num_epochs=2.5"], "config.num_epochs"),
        ([DIGITS, "--config.augment.flip=perhaps"], "config.augment.flip"),
        ([DIGITS, "--config.model.depth=2"], "no field 'model.depth'"),
        ([DIGITS, "--config.optimizer.learning_rat=3"], "did you mean 'optimizer.learning_rate'"),
        ([DIGITS, "--config.optimiser.momentum=0"], "no field 'optimiser'; did you mean 'optimizer'"),
        ([f"{DIGITS}:a,b,c"], "has 'c' at place 3"),
        ([f"{DIGITS}:none,erm,sed=4"], "'sed', expected one of .*did you mean 'seed'"),
        (["--config=experiments/digit.py"], "--config=experiments/digit.py cannot be used, .*No such file"),
        (
            ["--config=experiments/digit.py", "--config.seed=1"],
            "--config=experiments/digit.py cannot be used, .*No such file",
        ),
    ],
)
def test_mistakes_on_the_command_line(arguments, message):
    with pytest.raises(UsageError, match=message):
        parsed(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__hidden": ("8",)}, r"model.hidden is \('8',\), expected whole numbers"),
        ({"model__hidden": (8, 0)}, "expected whole numbers of units, each at least 1"),
        ({"optimizer__decay_at_percent": (50.0, 120.0)}, "expected per cents of the steps, 0 to 100"),
        (
            {"optimizer__learning_rate": float("nan")},
            "learning_rate is nan, expected a number that is finite and at least 0",
        ),
    ],
)
def test_values_are_checked(changes, message):
    with pytest.raises(UsageError, match=message):
        check_config(small_config(**changes))


def test_a_config_of_ones_own_by_path_and_print_config(tmp_path):
    """What is printed is what config.json would hold, after the same check."""
    own = tmp_path / "own.py"
    own.write_text(
        "from cmwnet_jax.train.config import default_config\n"
        "def get_config(arg=''):\n"
        "    config = default_config()\n"
        "    config.batch_size = int(arg)\n"
        "    return config\n"
    )
    given = f"--config={own}:64", "--print_config"
    done, wrong = run_here([[*given, "--config.seed=5"], [*given, "--config.method=cmwne"]])
    assert done.returncode == 0, done.stderr
    expected = default_config()
    expected.batch_size, expected.seed = 64, 5
    assert json.loads(done.stdout) == json.loads(as_json(expected))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'cmwnet'" in wrong.stderr


@pytest.mark.parametrize("field", [name for name, field in all_fields().items() if field.check is local_file])
def test_files_elsewhere_are_refused_by_name(field):
    config = small_config(**{field.replace(".", "__"): "gs://bucket/x"})
    with pytest.raises(UsageError, match=f"^{field} is 'gs://bucket/x', expected a path of this machine's"):
        check_config(config)
