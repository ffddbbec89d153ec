"""The notebooks run, show what their text says, and are stored with their outputs."""

import json
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"


def code_cells(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def own_images(names):
    assert names["found"][len(names["planted"]) - 1] > 0.9 * len(names["planted"])


def table(names):
    right = {name: names[name].score(names["X_test"], names["truth_test"]) for name in ("plain", "classifier")}
    assert right["classifier"] > right["plain"] + 0.02
    assert np.median(names["weights"][names["is_wrong"]]) < 0.2 < np.median(names["weights"])


def own_loop(names):
    assert np.mean(names["curve"][-10:]) > np.mean(names["plain_curve"][-10:]) + 0.02
    assert names["weights"][names["is_wrong"]].mean() < names["weights"][~names["is_wrong"]].mean()
    assert names["loss_range"][0] > 0  # the lowest loss, and no bound


SHOWN = {check.__name__: check for check in (own_images, table, own_loop)}
"""What the text of each notebook says of its results."""


@pytest.mark.whole_runs
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_and_shows_what_it_says(name, tmp_path, monkeypatch):
    """In this process, since a kernel takes seconds to start."""
    matplotlib.use("Agg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = {"__name__": name}
    for cell in code_cells(name):
        exec(compile("".join(cell["source"]), name, "exec"), names)
    names["plt"].close("all")
    SHOWN[name](names)


def test_all_notebooks_are_stored_with_outputs():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SHOWN)
    for name in SHOWN:
        cells = code_cells(name)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert {"stream", "display_data"} == {output["output_type"] for output in outputs}
        assert not any("/tmp/" in text for output in outputs for text in output.get("text", ()))
