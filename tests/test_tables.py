"""The configs of the paper's tables: every cell is sound, and none is another's."""

import importlib
import itertools
import re

import numpy as np
import pytest
from test_train import ROOT

from cmwnet_jax.core.schedules import warm_restarts
from cmwnet_jax.errors import UsageError
from cmwnet_jax.report.paper import read_paper
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.config import as_json

FILES = (
    "table1_long_tail",
    "table2_noise",
    "table3_pmd",
    "table4_hybrid",
    "table5_animal10n",
    "table6_webvision",
    "table7_webfg",
    "table11_open_set",
    "table15_selective",
    "fig15_ablations",
    "transfer",
    "transfer_mnist",
    "oltr_fashion",
)
HAS_RECIPES = {"table1_long_tail", "table2_noise", "table3_pmd", "table4_hybrid", "transfer"}
HAS_RECIPES |= {"table5_animal10n", "table6_webvision", "table7_webfg"}


DATASETS = {"table5_animal10n": "animal10n", "table6_webvision": "webvision_mini"}
"""Of files whose cells are methods alone; the report has the data set as their column."""


def load(name):
    return importlib.import_module(f"experiments.{name}")


def cells_of(name):
    start = f"{DATASETS[name]}," if name in DATASETS else ""
    return [start + cell for cell in load(name).get_cells()]


def with_init(name, arg):
    own_run = "_".join(arg.split(",")[:2])
    files = dict.fromkeys(("transfer", "oltr_fashion"), ",init=net")
    files["table6_webvision"] = ",init=c2d.npz" if "c2d" in arg else ""
    files["transfer_mnist"] = f",published=net,stage1={own_run}"
    stage1 = f",stage1={own_run}" if "oltr" in arg or "longer" in arg else ""
    return arg + files.get(name, "") + stage1


@pytest.mark.parametrize("name", FILES)
def test_every_cell_is_a_config_of_its_own(name):
    module = load(name)
    seen = {}
    for cell in module.get_cells():
        config = module.get_config(with_init(name, f"{cell},seed=3"))
        check_config(config)
        assert config.seed == 3
        # K = 3 and generated meta data are cmwnet itself, which the ablations name once.
        assert seen.setdefault(as_json(config), cell) == cell
    check_config(module.get_config(with_init(name, "seed=0")))
    with pytest.raises(UsageError, match="expected one of"):
        check_config(module.get_config(with_init(name, "digits")))


def test_a_transfer_without_its_weight_net_says_how_to_name_it():
    module = load("transfer_mnist")
    for cell, name in (("mnist,published", "published=PATH"), ("mnist,mwnet", "stage1=RUN of learn,mwnet")):
        with pytest.raises(UsageError, match=f"{cell} has no weight net: append {name}"):
            module.get_config(cell)
    first_stages = {cell: module.get_first_stage(cell) for cell in module.get_cells()}
    assert first_stages["mnist,untrained"] == "learn,untrained" and first_stages["mnist,published"] == ""
    assert set(first_stages.values()) - {""} <= set(first_stages)


@pytest.mark.parametrize("name", sorted(HAS_RECIPES))
def test_the_recipes_differ(name):
    module, differs = load(name), False
    for cell in module.get_cells():
        arg = with_init(name, cell)
        configs = [module.get_config(f"{arg},recipe={recipe}") for recipe in ("paper", "published")]
        for config in configs:
            check_config(config)
        differs |= as_json(configs[0]) != as_json(configs[1])
    assert differs
    with pytest.raises(UsageError, match="recipe is 'papr', .* did you mean 'paper'"):
        module.get_config("recipe=papr")


def test_settings_that_papers_and_code_give_in_epochs():
    """A few, as they stand in B.1 to B.4 and in the published scripts."""
    config = load("table1_long_tail").get_config("cifar100,20,cmwnet_ldam")
    assert (config.method, config.loss.name, config.data.bias) == ("cmwnet", "ldam", "long_tail_20")
    assert config.optimizer.decay_at_percent == (80, 90)
    config = load("table2_noise").get_config("cifar100,symmetric_80,cmwnet_sl,recipe=published")
    assert (config.num_epochs, config.warmup_epochs, config.mixup_alpha) == (345, 30, 0.1)
    config = load("table3_pmd").get_config("cifar10,pmd2_70,cmwnet,recipe=published")
    assert config.data.bias == "pmd2_plc_70"
    config = load("table4_hybrid").get_config("cifar10,pmd1_35+uniform_30,cmwnet,recipe=published")
    assert config.data.bias == "pmd1_plc_35+uniform_30"
    config = load("transfer").get_config("webvision,erm,init=x")
    assert (config.weight_net.init, config.weight_net.frozen) == ("", False)


def test_a_self_supervised_start_is_for_the_cells_that_name_it():
    get_config = load("table6_webvision").get_config
    starts = {cell: get_config(f"{cell},init=c2d.npz").model.pretrained for cell in ("erm", "erm_c2d")}
    assert starts == {"erm": "", "erm_c2d": "c2d.npz"}
    with pytest.raises(UsageError, match="init is empty, but erm_c2d starts from"):
        get_config("erm_c2d")


@pytest.mark.parametrize(
    ("name", "arg", "warmup"),
    [
        ("table5_animal10n", "cmwnet", 1),
        ("table6_webvision", "cmwnet", 1),
        ("table7_webfg", "bird,cmwnet_stage1", 1),
        ("transfer", "imagenet_lt,oltr,stage1=.", 0),
    ],
)
def test_a_trial_is_a_short_run_of_few_images(name, arg, warmup):
    whole, trial = (load(name).get_config(f"{arg},recipe=published{more}") for more in ("", ",trial=2000"))
    check_config(trial)
    assert (trial.data.bias, trial.num_epochs, trial.warmup_epochs) == ("subset_2000", 4, warmup)
    fields = ("decay_at_percent", "schedule")
    assert [trial.optimizer[name] for name in fields] == [whole.optimizer[name] for name in fields]
    assert trial.optimizer.linear_warmup_epochs <= 1


def by_cell(*arguments):
    """The paper's numbers without the names of the config files."""
    numbers = read_paper(*arguments, of_unknown=False)
    return {key.partition(":")[2]: number for key, number in numbers.items()}


def test_the_papers_numbers_are_of_cells_that_there_are():
    path = ROOT / "experiments/paper_numbers.json"
    files = (*FILES, "table10_semi_supervised", "table13_partial_labels")
    cells = {f"{name}:{cell}" for name in files for cell in cells_of(name)}
    quoted = ("pi_model", "pseudo_labeling", "mean_teacher", "mixmatch", "uda")  # Table 14, without cells
    named = {key for key in read_paper(path, of_unknown=False) if key.rpartition(",")[2] not in quoted}
    assert named - {"table6_webvision:webvision_mini,dividemix"} <= cells
    paper = by_cell(path)
    assert all(0 < mean < 100 for mean, _ in paper.values())
    assert paper["cifar10,100,cmwnet"] == (78.85, None)
    assert paper["cifar10,asymmetric_60,cmwnet_sl"] == (94.18, 0.21)
    assert paper["cifar100,pmd3_70,cmwnet"] == (47.38, 0.65)
    assert paper["cifar100,pmd3_35+asymmetric_plc_30,erm"] == (45.70, 0.12)
    assert paper["cifar10,open_set_40,cmwnet"] == (84.81, 0.51)
    assert paper["cifar10,40,fixmatch_cmwnet"] == (90.4, 0.62)
    assert paper["cifar10,250,mixmatch"] == (88.95, 0.86)
    assert paper["imagenet2012,128000,fixmatch"] == (67.1, None)
    few = read_paper(path, ("test_few_shot_accuracy",), of_unknown=False)
    assert few.keys() <= cells and few["transfer:imagenet_lt,oltr_cmwnet"] == (19.7, None)
    errors = by_cell(path, ("selective_error",))
    networks = {re.sub("coverage=", "", cell) for cell in load("table15_selective").get_cells()}
    assert errors.keys() == {cell for cell in networks if "selectivenet" in cell and "cifar" in cell}
    assert errors["cifar10,200,selectivenet,100"] == (55.50, 0.44)
    assert errors["cifar100,20,selectivenet_cmwnet,85"] == (40.05, 0.13)
    assert errors["cifar100,0,selectivenet_cmwnet,70"] == (10.69, 0.05)


def test_warm_restarts_are_cosines_of_doubled_length():
    """Sec. 4.3: constant for 45 epochs, then 5, 10, 20 and 40 of them; here ten steps an epoch."""
    schedule = warm_restarts(0.1, 1200, constant_steps=450, first_cycle_steps=50, least=1e-4)
    edges = [450, 500, 600, 800, 1200]
    for start, end in itertools.pairwise(edges):
        steps = np.arange(start, end)
        expected = 1e-4 + (0.1 - 1e-4) * (1 + np.cos(np.pi * (steps - start) / (end - start))) / 2
        np.testing.assert_allclose([schedule(step) for step in steps[::7]], expected[::7], rtol=1e-4)
    assert float(schedule(0)) == float(schedule(449)) == pytest.approx(0.1)
