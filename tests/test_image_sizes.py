"""Images of several sizes: refused before a run writes anything, or brought to one."""

import os
from pathlib import Path

import numpy as np
import pytest
import raw_data
from test_train import small_config

from cmwnet_jax.data import checksums, sources
from cmwnet_jax.data.image_sizes import image_sizes
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.sources import read_labels
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.loop import train


def mixed(tmp_path, split: str, size: tuple[int, int]) -> dict:
    """Fields of a config that reads images of 8x6, one of `split` being of another size."""
    folder = raw_data.image_folder(tmp_path / "raw", splits={"train": 8, "test": 2})
    raw_data.write(folder / split / "dog" / "0001.jpg", raw_data.image_bytes(0, size))
    return {
        "data__name": "image_folder",
        "data__raw_dir": str(folder),
        "data__dir": str(tmp_path / "data"),
        "data__bias": "none",
        "batch_size": 8,
        "num_epochs": 1,
        "warmup_epochs": 0,
        "method": "erm",
        "data__workers": 0,
    }


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"data__path": "auto"}, "differ in size, .*set data.crop_pixels to"),
        ({"data__path": "device"}, "differ in size, .*set data.crop_pixels to"),
        (
            {"data__path": "stream"},
            "data.crop_pixels is 0, but the images of image_folder differ in size, e.g. ",
        ),
        ({"data__path": "stream", "data__resize_pixels": 4}, "crop_pixels is 0, .* e.g. 4x7 and 5x4: set it"),
    ],
)
def test_the_refusal_leaves_no_folder_and_the_corrected_command_runs(tmp_path, split, fields, message):
    config = small_config(**mixed(tmp_path, split, (5, 9)), **fields)
    with pytest.raises(UsageError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if (split, fields) == ("test", {"data__path": "auto"}):
        config.data.path, config.data.crop_pixels = "stream", 4
        assert np.isfinite(train(config, tmp_path / "run")["test_loss_last"])


def test_sizes_that_become_one_are_none_to_refuse(tmp_path):
    fields = mixed(tmp_path, "train", (16, 12))
    config = small_config(**fields, data__path="stream", data__resize_pixels=4)
    assert load_data(config).image_shape == (5, 4, 3)


def test_sizes_are_read_once(tmp_path, monkeypatch):
    fields = mixed(tmp_path, "train", (5, 9))
    source = sources.open("image_folder", fields["data__dir"], fields["data__raw_dir"])
    assert image_sizes(source, "train") == {(8, 6), (5, 9)}
    kept = Path(source.folder) / "sizes-train.npy"
    monkeypatch.setattr(sources.ExampleReader, "encoded", None)
    assert image_sizes(source, "train") == {(8, 6), (5, 9)}
    monkeypatch.undo()
    (kept.parent / checksums._NAME).unlink()  # those of the next one are written when the copy is there
    read_labels(source, "train")
    for damage in (
        lambda: kept.write_bytes(b""),
        lambda: np.save(kept, np.zeros((0, 2))),
        kept.unlink,
        lambda: (kept.unlink(), os.mkfifo(kept)),
    ):
        damage()
        source = sources.open("image_folder", fields["data__dir"], fields["data__raw_dir"])
        assert image_sizes(source, "train") == {(8, 6), (5, 9)}


def test_sets_of_one_size_say_so():
    source = sources.open("digits")
    assert image_sizes(source, "train") == {(8, 8)} and source.test.image_size == (8, 8)
