"""What the repository promises about itself."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cmwnet_jax.methods import METHODS

ROOT = Path(__file__).parent.parent


def test_every_q_number_is_explained():
    """Docstrings cite the places where paper and published code differ; docs/differences.md lists them."""
    explained = set(re.findall(r"^- \*\*(Q\d+)\*\*", (ROOT / "docs/differences.md").read_text(), re.MULTILINE))
    for path in (ROOT / "cmwnet_jax").rglob("*.py"):
        assert set(re.findall(r"\bQ\d+\b", path.read_text())) <= explained, path


def test_requirements_txt_has_all_that_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = set(project["dependencies"]).union(*(project["optional-dependencies"][name] for name in _USED))
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    assert asked - {"cmwnet_jax[launch]"} == {line for line in lines if line}


_USED = ("launch", "prepare", "test")
"""Extras that `make demo` and `make test` need."""


@pytest.mark.parametrize(
    ("package", "spared"),
    [
        *((f"cmwnet_jax.{name}", "jax") for name in ("report.__main__", "report.runs", "audit.write")),
        ("cmwnet_jax.train.__main__", "jax numpy"),  # its --help
        ("experiments.on_accelerator", "jax"),  # which leaves the accelerator to its commands
        ("cmwnet_jax.core.meta_step", "sklearn orbax tensorstore tensorflow_datasets matplotlib pyarrow"),
    ],
)
def test_what_takes_long_to_import_is_imported_when_used(package, spared):
    code = f"import sys; sys.modules.update(dict.fromkeys({spared.split()})); import {package}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


_ROOMS = {
    "core": set(),
    "data": {"core"},
    "models": {"core"},
    "transfer": {"core"},
    "runs": set(),
    "methods": {"core", "data", "models", "transfer", "runs"},
    "train": {"core", "data", "models", "transfer", "runs", "methods"},
    "report": {"runs"},
    "audit": {"runs", "data", "report"},
    "estimator": {"core", "data", "methods", "train", "audit"},
}
"""What each room may import, besides the modules at the top and itself."""


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules_of(room):
    """Its files, but for commands, which are on top of everything."""
    return [path for path in (ROOT / "cmwnet_jax" / room).rglob("*.py") if path.name != "__main__.py"]


@pytest.mark.parametrize("room", _ROOMS)
def test_imports_point_one_way(room):
    top = {path.stem for path in (ROOT / "cmwnet_jax").glob("*.py")}
    allowed = {"errors"} if room == "core" else {room, *top, *_ROOMS[room]}
    for path in modules_of(room):
        used = {name.split(".")[1] for name in imported_by(path) if name.startswith("cmwnet_jax.")}
        assert used <= {room, *allowed}, f"{path.relative_to(ROOT)} imports {used - allowed - {room}}"


@pytest.mark.parametrize("room", ["audit", "report", "runs"])
def test_reports_and_run_folders_import_no_jax(room):
    for path in modules_of(room):
        assert not any(name.split(".")[0] in ("jax", "flax", "optax") for name in imported_by(path)), path


def test_few_modules_stand_at_the_top():
    assert len(list((ROOT / "cmwnet_jax").glob("*.py"))) <= 8


def test_no_method_is_known_outside_of_its_file():
    """Launcher, data and reports work for any method: names stand in methods/ alone."""
    names = "|".join(path.stem for path in (ROOT / "cmwnet_jax/methods").glob("*.py") if path.stem in METHODS)
    for path in (ROOT / "cmwnet_jax").rglob("*.py"):
        code = ast.unparse(without_docstrings(ast.parse(path.read_text())))
        assert not re.search(r"\bKind\b", code), path
        if "methods" not in path.parts:
            found = re.findall(rf"""['"]({names})['"]""", code)
            assert not set(found) - {"mixup"}, f"{path.relative_to(ROOT)} knows {set(found)}"


def without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [
                part
                for part in node.body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return tree


def test_only_one_file_knows_the_devices():
    """jit, pmap and meshes stay where the choice of devices is."""
    for path in (ROOT / "cmwnet_jax").rglob("*.py"):
        source = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        if path.name != "parallel.py":
            assert not re.search(r"jax\.(pmap|local_devices|devices|device_count|sharding)\b", source), path
