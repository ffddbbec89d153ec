"""A method of one's own: forty lines outside of the package, trained, killed and resumed by the launcher."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from test_train import small_config

import cmwnet_jax as cmw
from cmwnet_jax import command, methods
from cmwnet_jax.core import losses, objectives
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.methods.base import Phase, Plan, Spec, Stream, the_classifier
from cmwnet_jax.methods.fields import Field, between
from cmwnet_jax.methods.plain import weighted_step
from cmwnet_jax.train.epoch import check_selections
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.trainer import Trainer


# --8<-- [start:method]  (docs/extending.md shows what follows)
def build(parts):
    forward = objectives.train_mode(parts.model.apply)

    def loss(params, model_state, stream, rng):
        logits, model_state = forward(params, model_state, stream["image"], rng)
        return losses.cross_entropy(logits, stream["label"]), model_state

    def objective(params, model_state, batch, rng):
        easy, model_state = loss(params, model_state, batch["easy"], rng)
        terms, model_state = loss(params, model_state, batch["train"], rng)
        base = parts.config.toy.strength * jnp.mean(easy)
        return cmw.Objective(terms, terms, jnp.zeros(len(terms), int), base), model_state

    def plan(start):
        measured = start.measure("train", the_classifier(start.state)[""])
        rows = np.argsort(measured.losses, kind="stable")[:96]
        return Plan({"easy": Selection(rows, measured.predictions[rows])})

    return parts.method(
        (Phase(weighted_step(parts, objective), streams=("train", "easy")),),
        streams={"train": parts.train_stream, "easy": Stream(24, "toy.strength", planned=True)},
        plan_epoch=plan,
        describe_plan=lambda chosen: {"toy_easy_right_percent": _right(parts.data, chosen["easy"])},
        leave=lambda state: {"toy.npy": np.asarray(state.params["Dense_0"]["kernel"])},
    )


def _right(data, easy):
    return float(100 * np.mean(data.biased.true[easy.rows] == easy.labels))


STRENGTH = Field(0.5, "What the easy examples' mean loss is multiplied by.", between(0, 10))
SPEC = Spec("toy", build, fields={"toy.strength": STRENGTH})
# --8<-- [end:method]


@pytest.fixture
def registered():
    methods.register(SPEC)
    yield
    methods.METHODS.pop("toy", None)


def toy_config():
    return small_config(
        method="toy",
        toy__strength=0.25,
        num_epochs=3,
        chunk_steps=13,
        data__bias="symmetric_40",
        checkpoint__every_minutes=1e-9,
    )


def killed(workdir):
    """Trains it, in a process of its own, and kills that in the middle of epoch 1."""
    run_chunk = Trainer.run_chunk

    def until_killed(trainer, state, epoch):
        if epoch.number == 1 and epoch.steps_done == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return run_chunk(trainer, state, epoch)

    methods.register(SPEC)
    Trainer.run_chunk = until_killed
    train(toy_config(), workdir)


def started(workdir):
    code = f"import test_extending; test_extending.killed({str(workdir)!r})"
    root = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root.parent}"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.usefixtures("registered")
def test_a_method_outside_of_the_package_trains_and_survives_a_kill(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(toy_config(), whole)
    done = started(run)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (run / "toy.npy").exists()
    train(toy_config(), run)
    np.testing.assert_array_equal(np.load(run / "toy.npy"), np.load(whole / "toy.npy"))
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, run)
    ]
    for one, other in zip(*lines, strict=True):
        assert {name: value for name, value in one.items() if not name.startswith("seconds")} == {
            name: value for name, value in other.items() if not name.startswith("seconds")
        }
    assert lines[0][-1]["toy_easy_right_percent"] > 90
    assert json.loads((run / "config.json").read_text())["toy"] == {"strength": 0.25}
    assert json.loads((run / "result.json").read_text())["devices"].startswith("4 x")


def test_the_toy_method_has_forty_lines():
    text = Path(__file__).read_text()
    assert text.split("[start:method]")[1].split("[end:method]")[0].count("\n") <= 40


CONFIG = """
from test_extending import SPEC
from cmwnet_jax.methods import register
from cmwnet_jax.train.config import default_config

register(SPEC)


def get_config():
    config = default_config()
    config.method = "toy"
    return config
"""


def test_a_config_file_may_register_its_method_and_is_loaded_again_without_harm(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(CONFIG)
    try:
        for _ in range(2):
            config = command.load_file(str(file))["get_config"]()
        assert config.toy.strength == 0.5
    finally:
        methods.METHODS.pop("toy", None)
    with pytest.raises(cmw.UsageError, match="Spec.name is 'erm', a method of cmwnet_jax"):
        methods.register(dataclasses.replace(SPEC, name="erm"))


@pytest.mark.parametrize(
    ("selections", "message"),
    [
        ({}, "chose no examples for the stream 'easy' in epoch 3, expected a Selection"),
        (
            {"easy": ([0], [1]), "esay": ([0], [1])},
            "chose examples for 'esay', expected a planned stream of the method .easy",
        ),
        ({"easy": ([], [])}, "chose 0 rows and 0 labels .* expected one row or more, from 0 to 9"),
        ({"easy": ([0, 1], [1])}, "chose 2 rows and 1 labels"),
        ({"easy": ([10], [1])}, "from 0 to 9"),
        ({"easy": ([-1], [1])}, "from 0 to 9"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_told_in_a_sentence(selections, message):
    plan = {
        name: Selection(np.array(rows, int), np.array(labels, int))
        for name, (rows, labels) in selections.items()
    }
    with pytest.raises(cmw.UsageError, match=message):
        check_selections(plan, {"easy": 10}, ["easy"], epoch=3)
