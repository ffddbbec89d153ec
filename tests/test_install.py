"""The package as pip installs it: names for editors, extras, and the wheel with the core dependencies alone."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import cmwnet_jax as cmw
from cmwnet_jax import errors

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]


def test_editors_are_told_of_every_public_name():
    """The names behind `if TYPE_CHECKING`, which never runs, are those that are loaded on first use."""
    tree = ast.parse((ROOT / "cmwnet_jax/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    told = {(node.module, alias.name, alias.asname) for node in block.body for alias in node.names}
    expected = {(f"cmwnet_jax.{module}", name, name) for name, module in cmw._MODULE_OF.items()}
    expected |= {("cmwnet_jax.core", name, name) for name in cmw._MODULES}
    assert told == expected
    assert {name for _, name, _ in told} <= set(dir(cmw))


def test_the_core_has_at_most_six_dependencies():
    assert len(CORE) <= 6


def test_what_a_part_checks_for_is_in_its_extra():
    """Each `need(extra, *modules)` names modules of distributions that pyproject.toml has in that extra."""
    distributions = importlib.metadata.packages_distributions()
    found = 0
    for path in (ROOT / "cmwnet_jax").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text if "need(" in text else "")):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "need":
                extra, *modules = (ast.literal_eval(argument) for argument in node.args)
                lines = PROJECT["optional-dependencies"][extra]
                asked = {Requirement(line).name.lower().replace("_", "-") for line in lines}
                for module in modules:
                    names = {name.lower().replace("_", "-") for name in distributions[module]}
                    assert names & asked, f"{path} needs {module}"
                    found += 1
    assert found > 10


def test_a_missing_extra_is_one_sentence_with_the_line_for_pip():
    with pytest.raises(
        errors.MissingExtra, match=r"needs no_such, nor_this .* 'launch', .*pip install .*\[launch\]"
    ):
        errors.need("launch", "json", "no_such", "nor_this")
    assert issubclass(errors.MissingExtra, (ImportError, cmw.UsageError))


def test_a_message_lists_names_only_if_they_are_few():
    assert "one of alpha, beta; did" in str(errors.unknown_name("x", "alpho", ["alpha", "beta"]))
    many = str(errors.unknown_name("x", "name1", [f"name{i}_" for i in range(99)]))
    assert len(many) < 100 and many.endswith("did you mean 'name1_'?")


_USE = """
import jax, numpy as np, optax
import cmwnet_jax as cmw

assert cmw.__file__.startswith(FOLDER), cmw.__file__
meta_classes = cmw.MetaClasses.fit([4, 40], num_meta_classes=2)
weight_net, optimizer = cmw.WeightNet(num_meta_classes=2, hidden=3), optax.sgd(0.1)
apply = lambda variables, x: x @ variables["params"]
optimizers = {"optimizer": optimizer, "weight_optimizer": optimizer}
step = cmw.make_meta_step(
    objective=cmw.classification_objective(apply, meta_classes, loss=cmw.losses.cross_entropy),
    meta_loss=cmw.classification_meta_loss(apply),
    weight_fn=weight_net.apply, virtual_lr=0.1, **optimizers,
)
weight_params = weight_net.init(jax.random.key(0), np.ones(1), np.zeros(1, int))
state = cmw.MetaState.create(
    params=np.zeros((3, 2), "float32"), weight_params=weight_params, rng=jax.random.key(0), **optimizers
)
batch = {"image": np.eye(3, dtype="float32"), "label": np.array([0, 1, 1])}
state, metrics = jax.jit(step)(state, batch, batch)
assert metrics["weights"].shape == (3,)
cmw.save_weight_net("net.safetensors", state.weight_params, centers=meta_classes.centers, loss_range=(0, 1))
saved = cmw.load_weight_net("net.safetensors")
jax.tree.map(np.testing.assert_array_equal, saved.weight_params, dict(state.weight_params))
for name in ("find_suspects", "CMWNetClassifier"):
    try:
        getattr(cmw, name)
    except ImportError as error:
        assert "pip install" in str(error), error
    else:
        raise AssertionError(f"{name} needed no extra")
for name in cmw.__all__:
    if name not in ("find_suspects", "CMWNetClassifier"):
        getattr(cmw, name)
for name in cmw._MODULES:
    getattr(cmw, name)
"""

COMMANDS = ("train", "report", "audit", "data", "transfer", "sweep")


@pytest.mark.whole_runs
def test_in_an_empty_environment_the_wheel_composes_and_its_commands_say_what_is_missing(tmp_path):
    """Installs the wheel and the core dependencies by pip, so it needs a package index."""
    source, environment = tmp_path / "source", tmp_path / "environment"
    shutil.copytree(ROOT / "cmwnet_jax", source / "cmwnet_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python = environment / "bin/python"

    def run(*arguments, cwd=tmp_path):
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
        return subprocess.run(arguments, cwd=cwd, env=variables, capture_output=True, text=True, check=False)

    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    assert run(sys.executable, "-c", build, cwd=source).returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(environment)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    installed = run(*pip, wheel)
    assert installed.returncode == 0, installed.stderr
    (packages,) = environment.glob("lib/python3*/site-packages")
    assert (packages / "cmwnet_jax/py.typed").exists()
    assert not {"ml_collections", "tensorflow_datasets", "matplotlib", "pyarrow"} & set(os.listdir(packages))
    assert not {path.name for path in packages.iterdir()} & {"tests", "experiments", "docs"}

    used = run(python, "-c", f"FOLDER = {str(environment)!r}\n{_USE}")
    assert used.returncode == 0, used.stderr
    for command in COMMANDS:
        done = run(python, "-m", f"cmwnet_jax.{command}")
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1 and "run pip install 'cmwnet_jax[launch]'" in done.stderr
