"""Tables 5, 6 and 7: files of the published names and layouts, two epochs, killed and gone on with."""

import pytest
import raw_data

from cmwnet_jax import sweep
from cmwnet_jax.runs.arrays import read_arrays
from cmwnet_jax.runs.stored import read_metrics
from cmwnet_jax.train.config import run_folder
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.trainer import Trainer
from experiments import table5_animal10n, table6_webvision, table7_webfg

pytestmark = [
    pytest.mark.usefixtures("quick_programs"),
    pytest.mark.filterwarnings("ignore:the class sizes take only"),
]
SIDE = 8


def small(config, tmp_path):
    """Two epochs, the second one with weights; a classifier that a CPU compiles fast; a checkpoint a chunk."""
    config.data.dir = str(tmp_path / "data")
    if config.data.resize_pixels:
        config.data.resize_pixels = config.data.crop_pixels = SIDE
    config.model.name, config.model.pretrained = "mlp", ""
    config.model.hidden, config.model.batch_norm = (), False
    if config.optimizer.trainable:
        config.optimizer.trainable = ("Dense_0/*",)
    config.num_epochs, config.warmup_epochs, config.batch_size = 2, 1, 8
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
    """WebVision's 50 classes with their synsets, and two validation images of each of 53 of ImageNet's."""
    web = raw_data.webvision_folder(tmp_path / "webvision", classes=50, beyond=2)
    synsets = [f"n{c:08d}" for c in range(1000)]
    raw_data.write(web / "info/synsets.txt", "".join(f"{name} thing {name}\n" for name in synsets).encode())
    for c in (*range(50), 60, 70, 999):
        for k in range(2):
            name = f"imagenet/{synsets[c]}/ILSVRC2012_val_{2 * c + k + 1:08d}.JPEG"
            raw_data.write(tmp_path / name, raw_data.image_bytes(c, (9, 12)))
    return web, tmp_path / "imagenet"


@pytest.mark.whole_runs
def test_animal10n(tmp_path, monkeypatch):
    folder = raw_data.animal_folder(tmp_path / "raw_image")
    config = small(table5_animal10n.get_config(f"cmwnet_sl,raw_dir={folder}"), tmp_path)
    config.soft_labels.top_k = 3
    result = killed_and_resumed(config, tmp_path / "run", 1, monkeypatch)
    assert (result["dataset"], result["num_examples"]) == ("animal10n", 20)
    names = read_arrays(tmp_path / "run", "corrected")["class_names"]
    assert names.tolist()[-1] == "guinea pig"


@pytest.mark.whole_runs
def test_mini_webvision_is_tested_on_both_validation_sets(tmp_path, monkeypatch):
    web, imagenet = made_webvision(tmp_path)
    config = small(table6_webvision.get_config(f"cmwnet,raw_dir={web},imagenet={imagenet}"), tmp_path)
    result = killed_and_resumed(config, tmp_path / "run", 4, monkeypatch)
    assert (result["num_examples"], result["also_test_examples"], result["also_test_classes"]) == (50, 100, 50)
    for line in read_metrics(tmp_path / "run"):
        for split in ("test", "imagenet_val"):
            assert 0 <= line[f"{split}_accuracy_percent"] <= line[f"{split}_top5_percent"] <= 100


@pytest.mark.whole_runs
def test_a_cell_of_webfg_goes_on_in_the_stage_where_it_was_killed(tmp_path, monkeypatch):
    """Each stage has four chunks of steps; the first kill is in the first one, the second in the other."""
    folder = raw_data.image_folder(
        tmp_path / "web-aircraft",
        classes=tuple(f"plane {c:03d}" for c in range(100)),
        splits={"train": 1, "val": 1},
    )
    options = {"only": "aircraft,mwnet", "seeds": 1, "args": f"raw_dir={folder}", "shard": "1/1"}
    first_stage = table7_webfg.get_first_stage
    (run,) = sweep.plan(table7_webfg.get_cells(), tmp_path / "runs", **options, get_first_stage=first_stage)

    def get_config(arg):
        config = small(table7_webfg.get_config(arg), tmp_path)
        config.batch_size = config.meta_set.batch_size = 24  # four steps an epoch, two chunks
        return config

    for chunks, is_done in ((1, False), (3 + 2, True)):
        with monkeypatch.context() as patch:
            kill_after(chunks, patch)
            assert "killed" in next(iter(sweep.sweep(get_config, [run]).values()))
        assert (run.first_stage.is_done, run.is_done) == (is_done, False)
    assert sweep.sweep(get_config, [run]) == {}
    assert run.is_done and run.folder == tmp_path / "runs/aircraft/mwnet/seed0"
    config = run_folder(run.folder).finished_config()
    assert config.model.init == str(run.first_stage.folder)
