"""What the repository promises about itself."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_readmes_example_runs_as_it_stands():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    assert len(blocks[1].splitlines()) <= 15
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert int(namespace["state"].step) == 100
    assert namespace["metrics"]["weights"].shape == (100,)


def test_every_q_number_is_explained():
    """Docstrings cite the places where paper and published code differ; the README lists them."""
    explained = set(re.findall(r"^- \*\*(Q\d+)\*\*", (ROOT / "README.md").read_text(), re.MULTILINE))
    for path in (ROOT / "cmwnet_jax").rglob("*.py"):
        assert set(re.findall(r"\bQ\d+\b", path.read_text())) <= explained, path


def test_requirements_txt_has_all_that_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    assert asked <= {line for line in lines if line}


@pytest.mark.parametrize("package", ["cmwnet_jax.report.__main__", "cmwnet_jax.report.runs"])
def test_reports_do_not_need_jax(package):
    code = f"import sys; sys.modules['jax'] = None; import {package}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


_LAYERS = ("data", "models", "train", "report", "runs")


def test_imports_point_one_way():
    """Data and models know nothing of train; report knows runs alone, which knows none of the others."""
    forbidden = {
        "data": {"train", "report", "models"},
        "models": {"train", "data", "report"},
        "train": {"report"},
    }
    forbidden["report"] = {"train", "data", "models"}
    forbidden["runs"] = {"train", "data", "models", "report"}
    for layer in _LAYERS:
        for path in (ROOT / "cmwnet_jax" / layer).rglob("*.py"):
            if path.name == "__main__.py":
                continue  # commands are on top of everything
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                layers = {name.split(".")[1] for name in names if name.startswith("cmwnet_jax.")}
                assert not layers & forbidden[layer], (
                    f"{path.relative_to(ROOT)} imports {layers & forbidden[layer]}"
                )


def test_only_one_file_knows_the_devices():
    """jit, pmap and meshes stay where the choice of devices is."""
    for path in (ROOT / "cmwnet_jax").rglob("*.py"):
        source = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        if path.name != "parallel.py":
            assert not re.search(r"jax\.(pmap|local_devices|devices|device_count|sharding)\b", source), path
