"""The README and the pages of docs/: their code runs, and what they name exists."""

import itertools
import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import test_extending
from PIL import Image
from test_audit import make_run

import cmwnet_jax as cmw
from cmwnet_jax import command
from cmwnet_jax.data.bias import names as bias_names
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.sources import DATASETS
from cmwnet_jax.methods import METHODS
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.config import all_fields
from cmwnet_jax.transfer.portable import write_file

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}


def code_of(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(name, namespace=None):
    """Runs a page's blocks one after the other; returns their names."""
    namespace = {} if namespace is None else namespace
    for block in code_of(TEXTS[name]):
        exec(compile(block, name, "exec"), namespace)
    return namespace


def test_the_readmes_example_runs_as_it_stands():
    blocks = code_of(TEXTS["README.md"])
    assert len(blocks) == 2
    assert len(blocks[1].splitlines()) <= 15
    assert TEXTS["README.md"].count("\n") <= 150
    namespace = run("README.md")
    assert int(namespace["state"].step) == 100
    assert namespace["metrics"]["weights"].shape == (100,)


@pytest.fixture
def with_a_run(tmp_path, monkeypatch):
    """A folder with the run that the pages speak of, runs/mine, and its weight net as a file."""
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/mine"))
    net = cmw.WeightNet(num_meta_classes=3, hidden=5)
    weight_params = net.init(jax.random.key(0), np.ones(1), np.zeros(1, int))
    cmw.save_weight_net("saved", weight_params, centers=[10, 20, 40], loss_range=(0.0, 7.5))
    write_file("NET.safetensors", cmw.load_weight_net("saved"))


def test_the_page_on_composing():
    """In the order of the page: all of its models take a step, and the ways to use several devices agree."""
    namespace = run("docs/composing.md")
    np.testing.assert_allclose(namespace["weights"], namespace["metrics"]["weights"], rtol=0.2)
    assert int(namespace["history"].count.sum()) == 2 * 6 * 100
    assert len(namespace["meta_rows"]) <= 100
    (low, high), losses = namespace["saved"].loss_range, namespace["metrics"]["losses"]
    assert 0 < low <= losses.min() and losses.max() <= high
    assert namespace["sl_metrics"]["weights"].shape == (200,)


def test_the_page_on_audits(with_a_run, capsys):
    run("docs/audit.md")
    assert capsys.readouterr().out.count(" -> ") == 12


def test_the_page_on_transfer(with_a_run, monkeypatch):
    """The lines in NumPy give what the module gives."""
    load = cmw.load_weight_net
    monkeypatch.setattr(cmw, "load_weight_net", lambda path: load({"runs/mine": "saved"}[path]))
    namespace = run("docs/transfer.md")
    saved, arguments = namespace["saved"], (namespace["losses"], namespace["meta_class"])
    np.testing.assert_allclose(
        namespace["weights"], saved.weight_net.apply(saved.weight_params, *arguments), rtol=1e-5
    )
    assert namespace["metrics"]["weights"].shape == (200,)


def test_the_page_on_data(tmp_path, monkeypatch):
    """Its config is complete, its classifier predicts, and its file can be read."""
    monkeypatch.chdir(tmp_path)
    for split, name in itertools.product(("train", "test"), ("cat", "dog")):
        made_image = Path("photos", split, name, "1.jpg")
        made_image.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(made_image)
    config = run("docs/data.md")["get_config"]()
    check_config(config)
    config.data.dir = str(tmp_path)
    assert load_data(config).source.class_names == ("cat", "dog")
    config.update_from_flattened_dict({"data.name": "arrays", "data.raw_dir": "table.npz", "model.name": "mlp"})
    check_config(config)
    assert len(load_data(config).biased.ids) == 200


def test_the_page_on_extending(monkeypatch):
    """It shows the method that test_extending.py trains, with all that it imports; its config registers it."""
    method, config = code_of(TEXTS["docs/extending.md"])
    shown = (
        Path(test_extending.__file__).read_text().split("[start:method]")[1].split("\n# --8<-- [end:method]")[0]
    )
    shown = shown.partition("\n")[2]
    my_method = types.ModuleType("my_method")
    exec(method.replace('--8<-- "tests/test_extending.py:method"', shown), vars(my_method))
    monkeypatch.setitem(sys.modules, "my_method", my_method)
    monkeypatch.setitem(METHODS, "toy", None)  # so that it is taken out afterwards
    exec(config, namespace := {})
    config = namespace["get_config"]()
    config.toy.strength = 0.25
    check_config(config)


RUN_ABOVE = {
    "README.md",
    *(f"docs/{name}.md" for name in ("composing", "audit", "transfer", "data", "extending")),
}


def test_all_code_runs_in_a_test():
    shown = {name for name, text in TEXTS.items() if "```py" in text}
    assert shown == RUN_ABOVE


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    """To files, and to headings of pages; the site's own build checks them, too."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / file).resolve() if file else ROOT / name
        assert path.exists(), target
        if anchor and "cmwnet_jax." not in anchor:
            headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
            assert anchor in {anchor_of(heading) for heading in headings}, target


def anchor_of(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "docs/methods.md"])
def test_all_methods_have_a_line(name):
    rows = " ".join(re.findall(r"^\|(.*?)\|", TEXTS[name], re.MULTILINE))
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", rows))


def test_all_data_sets_and_biases_are_named():
    assert all(f"`{name}`" in TEXTS["docs/data.md"] for name in DATASETS)
    named = " ".join(re.findall(r"^\|(.*?)\|", TEXTS["README.md"], re.MULTILINE))
    for bias in bias_names._BIASES:
        assert re.search(rf"`{bias}(_[A-Z]\w*)?`", named) or re.match(r"pmd2", bias), bias


@pytest.mark.parametrize("name", TEXTS)
def test_fields_and_configs_that_pages_name_exist(name):
    fields = {*all_fields(), *(f.rpartition(".")[0] for f in all_fields())}
    rooms = {field.split(".")[0] for field in fields if "." in field}
    used = re.findall(r"--config\.([\w.]+)", TEXTS[name])
    used += [f for f in re.findall(r"`([a-z_]+\.[a-z_]+)[=`]", TEXTS[name]) if f.split(".")[0] in rooms]
    assert set(used) - {"FIELD", "model.apply", "transfer.py"} <= fields
    for file, arg in re.findall(r"--config=(experiments/\w+\.py):?([\w,=+./]*)", TEXTS[name]):
        get_config = command.load_file(str(ROOT / file))["get_config"]
        if arg:
            check_config(get_config(arg))
