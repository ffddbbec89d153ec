"""The weight nets that come with the package, and their cards."""

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import cmwnet_jax as cmw
from cmwnet_jax.transfer import __main__ as command
from cmwnet_jax.transfer import zoo
from cmwnet_jax.transfer.card import MEASURED, card
from cmwnet_jax.transfer.portable import read_file

CARDS = Path(__file__).parent.parent / "experiments/weight_nets"


def test_each_has_a_small_file_and_a_card_of_what_is_in_it():
    """`python -m cmwnet_jax.transfer card zoo:NAME --output=experiments/weight_nets/NAME.md` writes it."""
    assert {path.stem for path in CARDS.glob("*.md")} == {*zoo.names(), "README"}
    readme = (CARDS / "README.md").read_text()
    for name in zoo.names():
        path = zoo.file_of(f"zoo:{name}")
        assert path.stat().st_size < 5000
        saved = cmw.load_weight_net(f"zoo:{name}")
        assert (CARDS / f"{name}.md").read_text() == card(saved, name, f"zoo:{name}", path.name)
        assert f"[`{name}`]({name}.md)" in readme
        assert {"dataset", "bias", "method", "normalize", "command", "accuracy"} <= saved.provenance.keys()
        assert saved.provenance["dataset"] in name


def test_a_name_alone_is_a_path_first(tmp_path, monkeypatch):
    name, other = zoo.names()[:2]
    monkeypatch.chdir(tmp_path)
    assert cmw.load_weight_net(name).centers.tolist() == cmw.load_weight_net(f"zoo:{name}").centers.tolist()
    read = read_file(zoo.file_of(other))
    cmw.save_weight_net(name, read.weight_params, centers=read.centers, loss_range=read.loss_range)
    assert cmw.load_weight_net(name).centers.tolist() == read.centers.tolist()
    assert cmw.load_weight_net(f"zoo:{name}").centers.tolist() != read.centers.tolist()


@pytest.mark.parametrize("given", ["zoo:fashion", "fashion"])
def test_an_unknown_name_is_told_those_that_exist(given):
    with pytest.raises(cmw.UsageError, match=r"^path is '(zoo:)?fashion', ") as raised:
        cmw.load_weight_net(given)
    assert all(f"zoo:{name}" in str(raised.value) for name in zoo.names())
    assert "\n" not in str(raised.value)


def test_the_code_of_a_card_runs(monkeypatch):
    """What it computes in JAX and in PyTorch is what the module gives."""
    name = "fashion_mnist_asymmetric_60"
    jax_code, torch_code = re.findall(r"```python\n(.*?)```", (CARDS / f"{name}.md").read_text(), re.DOTALL)
    counts = np.array([10, 200, 30])
    labels, losses = np.array([0, 1, 2, 1]), np.array([0.1, 2.5, 7.0, 0.4], np.float32)
    saved = cmw.load_weight_net(f"zoo:{name}")
    classes = cmw.MetaClasses.fit(counts, num_meta_classes=3).of_class[labels]
    weights = np.asarray(saved.weight_net.apply(saved.weight_params, losses, classes))
    expected = weights / weights.sum()
    exec(jax_code, names := {"class_counts": counts, "losses": losses, "labels": labels})
    np.testing.assert_allclose(names["weights"], expected, rtol=1e-6)
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(zoo.file_of(f"zoo:{name}").parent)
    importlib.import_module("safetensors.torch")
    names = {"torch": torch, "safetensors": importlib.import_module("safetensors")}
    names |= {"losses": torch.tensor(losses), "meta_class": torch.tensor(classes).long()}
    exec(torch_code, names)
    np.testing.assert_allclose(names["weights"], expected, rtol=1e-5)


def test_an_export_says_what_was_measured(tmp_path, capsys):
    """--about adds to the origin; what was measured is a list, and a card says so."""
    path, name = tmp_path / "net.safetensors", f"zoo:{zoo.names()[0]}"
    measured = [f"--about={MEASURED}=one", f"--about={MEASURED}=two | three", "--about=dataset=photos"]
    flags.FLAGS(["transfer", f"--output={path}", *measured])
    command.main(["", "export", name])
    saved = read_file(path)
    assert saved.provenance[MEASURED][-2:] == ["one", "two | three"]
    assert saved.provenance["dataset"] == "photos"
    flags.FLAGS(["transfer", f"--output={tmp_path / 'net.md'}"])
    command.main(["", "card", str(path)])
    text = (tmp_path / "net.md").read_text()
    assert "| learned on | photos |" in text
    assert "one; two \\| three |" in text
    assert f'load_weight_net("{path}")' in text
    foreign = dataclasses.replace(saved, provenance={"normalize": ["sum"]})
    assert "weights / weights.sum()" in card(foreign, "net", "net", "net")
    flags.FLAGS["about"].unparse()
    flags.FLAGS(["transfer", f"--output={tmp_path / 'other.safetensors'}", "--about=photos"])
    with pytest.raises(cmw.UsageError, match="--about is 'photos', expected NAME=TEXT"):
        command.main(["", "export", name])
