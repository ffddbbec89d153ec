"""Tables 5 to 9 and 12: 200 images of the published names and layouts, two epochs, killed and gone on with.

Full WebVision has an image of each of 1,000 classes in either list, since its builder asks for that.
"""

import importlib

import pytest
import raw_data
from table_cells import write_nets

from cmwnet_jax import sweep
from cmwnet_jax.report.find import find_runs
from cmwnet_jax.report.tables import shots_table
from cmwnet_jax.runs.arrays import read_arrays
from cmwnet_jax.runs.stored import read_metrics
from cmwnet_jax.train.config import run_folder
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.trainer import Trainer
from experiments import table5_animal10n, table6_webvision, table7_webfg, transfer

pytestmark = [
    pytest.mark.whole_runs,
    pytest.mark.usefixtures("quick_programs"),
    pytest.mark.filterwarnings("ignore:the class sizes take only"),
]
SIDE = 8


def small(config, tmp_path):
    """Two epochs of two chunks, the second with weights; a small classifier; a checkpoint after each chunk."""
    config.data.dir = str(tmp_path / "data")
    if config.data.resize_pixels:
        config.data.resize_pixels = config.data.crop_pixels = SIDE
    config.model.name, config.model.pretrained = "mlp", ""
    config.model.hidden, config.model.batch_norm = (), False
    if config.optimizer.trainable:
        config.optimizer.trainable = ("Dense_0/*",)
    if config.optimizer.slow:
        config.optimizer.slow = ("memory/centroids",)
    config.num_epochs, config.warmup_epochs = 2, min(1, config.warmup_epochs)
    config.batch_size = 48  # four steps an epoch
    config.meta_set.batch_size, config.meta_set.per_class_examples = 8, 1
    config.chunk_steps, config.checkpoint.every_minutes = 2, 1e-9
    return config


def kill_after(chunks, patch):
    """Ends the process's training as a SIGKILL would, some chunks of steps later."""
    run_chunk, left = Trainer.run_chunk, [chunks]

    def until_killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit("killed")
        return run_chunk(*arguments)

    patch.setattr(Trainer, "run_chunk", until_killed)


def killed_and_resumed(config, folder, chunks, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        kill_after(chunks, patch)
        train(config, folder)
    assert run_folder(folder).newest_checkpoint == 2 * chunks
    return train(config, folder)


def made_webvision(tmp_path):
    """200 training images of WebVision's 50 classes, and two validation images of each of 53 of ImageNet's."""
    web = raw_data.webvision_folder(tmp_path / "webvision", classes=50, beyond=2, google=4)
    return web, raw_data.add_imagenet(web, tmp_path / "imagenet", (*range(50), 60, 70, 999))


def killed_in_each_stage(name, get_config, args, workdir, monkeypatch):
    """A sweep of the one cell, killed in the first chunk of stage one and again in stage two; its run."""
    table = importlib.import_module(f"experiments.{name}")
    options = {"seeds": 1, "shard": "1/1", "get_first_stage": table.get_first_stage}
    (run,) = sweep.plan(table.get_cells(), workdir, **args, **options)
    for chunks, is_done in ((1, False), (3 + 2, True)):
        with monkeypatch.context() as patch:
            kill_after(chunks, patch)
            assert "killed" in next(iter(sweep.sweep(get_config, [run]).values()))
        assert (run.first_stage.is_done, run.is_done) == (is_done, False)
    assert sweep.sweep(get_config, [run]) == {} and run.is_done
    assert run_folder(run.folder).finished_config().model.init == str(run.first_stage.folder)
    return run


@pytest.mark.slow  # what it resumes, the two below do, too
def test_animal10n(tmp_path, monkeypatch):
    folder = raw_data.animal_folder(tmp_path / "raw_image", train=20)
    config = small(table5_animal10n.get_config(f"cmwnet_sl,raw_dir={folder}"), tmp_path)
    config.soft_labels.top_k = 3
    result = killed_and_resumed(config, tmp_path / "run", 3, monkeypatch)
    assert (result["dataset"], result["num_examples"]) == ("animal10n", 200)
    names = read_arrays(tmp_path / "run", "corrected")["class_names"]
    assert names.tolist()[-1] == "guinea pig"


def is_tested_on_both(run):
    """Each epoch's accuracies on WebVision's and on ImageNet's images."""
    for line in read_metrics(run):
        for split in ("test", "imagenet_val"):
            assert 0 <= line[f"{split}_accuracy_percent"] <= line[f"{split}_top5_percent"] <= 100
    return True


@pytest.mark.slow  # what it resumes, the two below do, too
def test_mini_webvision_is_tested_on_both_validation_sets(tmp_path, monkeypatch):
    web, imagenet = made_webvision(tmp_path)
    config = small(table6_webvision.get_config(f"cmwnet,raw_dir={web},imagenet={imagenet}"), tmp_path)
    result = killed_and_resumed(config, tmp_path / "run", 3, monkeypatch)
    assert (result["num_examples"], result["also_test_examples"], result["also_test_classes"]) == (200, 100, 50)
    assert is_tested_on_both(tmp_path / "run")


def test_a_cell_of_webfg_goes_on_in_the_stage_where_it_was_killed(tmp_path, monkeypatch):
    folder = raw_data.image_folder(
        tmp_path / "web-aircraft",
        classes=tuple(f"plane {c:03d}" for c in range(100)),
        splits={"train": 2, "val": 1},
    )
    args = {"only": "aircraft,mwnet", "args": f"raw_dir={folder}"}

    def get_config(arg):
        return small(table7_webfg.get_config(arg), tmp_path)

    run = killed_in_each_stage("table7_webfg", get_config, args, tmp_path / "runs", monkeypatch)
    assert run.folder == tmp_path / "runs/aircraft/mwnet/seed0"


def test_oltr_goes_on_in_the_stage_where_it_was_killed(tmp_path, monkeypatch):
    """Table 8, from a stage one with a frozen weight net; the report has the three groups of classes."""
    sizes = (101, 40, 20, 12, 9, 6, 5, 4, 2, 1)
    raw_data.prepared_imagenet_lt(tmp_path / "data", tmp_path / "raw", sizes)
    write_nets(tmp_path)
    args = {"only": "imagenet_lt,oltr_cmwnet", "args": f"init={tmp_path / 'net'}"}

    def get_config(arg):
        return small(transfer.get_config(arg), tmp_path)

    run = killed_in_each_stage("transfer", get_config, args, tmp_path / "runs", monkeypatch)
    assert run_folder(run.first_stage.folder).finished_config().weight_net.frozen
    assert (
        len([row for row in shots_table(find_runs([tmp_path / "runs"]), lambda _: {}).rows if "oltr" in row])
        == 3
    )


@pytest.mark.slow  # what it resumes, the two above do, too
def test_full_webvision_with_a_frozen_weight_net(tmp_path, monkeypatch):
    """Tables 9 and 12: 2,000 images of both lists, of whose pseudo-labels 16 classes are stored."""
    web = raw_data.webvision_folder(tmp_path / "webvision", classes=1000, flickr=True)
    raw_data.add_imagenet(web, tmp_path / "imagenet", range(0, 1000, 20), number=1)
    write_nets(tmp_path)
    arg = f"webvision,cmwnet_sl,init={tmp_path / 'net'},raw_dir={web},imagenet={tmp_path / 'imagenet'}"
    config = small(transfer.get_config(arg), tmp_path)
    config.batch_size, config.soft_labels.top_k = 480, 16
    result = killed_and_resumed(config, tmp_path / "run", 3, monkeypatch)
    assert (result["num_examples"], result["also_test_classes"]) == (2000, 50)
    assert is_tested_on_both(tmp_path / "run")
