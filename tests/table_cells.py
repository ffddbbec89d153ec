"""The cells of the config files in `experiments/`, and the check that one of them trains."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

import cmwnet_jax as cmw
from cmwnet_jax.train import health, parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.trainer import Trainer

RECIPES = ("paper", "published")
WITH_RECIPES = {"table1_long_tail", "table2_noise", "table3_pmd", "table4_hybrid", "transfer"}
WITH_RECIPES |= {"table5_animal10n", "table6_webvision", "table7_webfg"}
FILES = (
    *sorted(WITH_RECIPES),
    "table11_open_set",
    "table13_partial_labels",
    "table15_selective",
    "fig15_ablations",
    "table10_semi_supervised",
    "human_noise",
    "transfer_mnist",
    "oltr_fashion",
    "compare",
    "ablation",
    "digits",
    "own_texts",
    "audit_sets",
)
# Beyond their cells: what the files say can be asked for.
MORE = {
    "compare": [
        *(f"mnist,none,{method}" for method in ("cmwnet_ldam", "ldam_drw", "elr", "mixup")),
        "cifar10,human_worse_label,cmwnet,K=2,meta=held_out,human_labels=human_labels.npz",
    ],
    "own_texts": ["folder,category"],
    "digits": ["", "long_tail_10+symmetric_20,erm", "long_tail_5+asymmetric_60,mwnet"],
}


def args_of(name):
    """What the file's configs are asked for by; what is in a file of its own is in the working directory."""
    module = importlib.import_module(f"experiments.{name}")
    for cell in [*getattr(module, "get_cells", list)(), *MORE.get(name, [])]:
        more = ""
        if name == "table6_webvision":
            more = ",init=c2d.npz"
        elif name in ("transfer", "oltr_fashion"):
            more = ",init=net" + (",stage1=." if "oltr" in cell or "longer" in cell else "")
        elif name == "transfer_mnist":
            more = f",published=net,stage1={'net_of_one' if 'mwnet' in cell.split(',') else 'net'},posteriors=."
        elif name == "table13_partial_labels" and not cell.endswith("proden"):
            more = ",stage1=."
        elif name == "human_noise":
            more = ",human_labels=human_labels.npz"
        elif name == "audit_sets":
            more = ",tables=.,texts=folder,human_labels=human_labels.npz,posterior=probabilities.npy"
        elif "pmd" in cell:
            more = ",posterior=probabilities.npy"
        stages = [cell, module.get_first_stage(cell)] if name == "table7_webfg" else [cell]
        for recipe in RECIPES if name in WITH_RECIPES else ("",):
            yield from (f"{stage}{more}" + (f",recipe={recipe}" if recipe else "") for stage in stages)


def config_of(name, arg):
    return importlib.import_module(f"experiments.{name}").get_config(arg)


def write_nets(folder):
    """Weight nets of three meta-classes and of one, under the names that `args_of` gives."""
    for count, name in ((3, "net"), (1, "net_of_one")):
        net = cmw.WeightNet(count).init(jax.random.key(0, impl="unsafe_rbg"), np.ones(1), np.zeros(1, int))
        cmw.save_weight_net(folder / name, net, centers=range(1, count + 1), loss_range=(0, 9))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def moved(before, after):
    return any(np.any(x != y) for x, y in zip(before, leaves(after), strict=True))


def check_two_steps(config, data):
    """The first two steps after the warm-up, as the launcher takes them: sound, and everything has learned."""
    config.model.name, config.model.hidden, config.model.batch_norm = "mlp", (), False
    # These name another run, and parts of the cell's classifier.
    config.model.pretrained, config.model.init, config.optimizer.slow = "", "", ()
    if config.optimizer.trainable:
        config.optimizer.trainable = ("Dense_0/*",)  # this classifier's head
    recipe = build_recipe(config, data)
    steps_done = config.warmup_epochs * recipe.epoch_steps
    state = recipe.state.replace(step=jnp.full_like(recipe.state.step, steps_done))
    params, teacher = leaves(state.params), leaves(state.teacher)
    trainer = Trainer(config, data, recipe)
    state = parallel.replicate(state)
    state, epoch = trainer.start_epoch(config.warmup_epochs, state, {})
    weights = leaves(parallel.unreplicate(state.weight_params))  # a plan may have changed them
    state, epoch = trainer.run_chunk(state, epoch)
    state = jax.device_get(parallel.unreplicate(state))

    assert epoch.losses.shape == (2, 8)
    health.check_steps(
        epoch.scalars,
        epoch.losses,
        epoch.weights,
        ids=data.biased.ids[epoch.main_rows[:2]],
        is_meta=epoch.is_meta[:2],
        first_step=steps_done,
        may_weigh_nothing=recipe.method.may_weigh_nothing,
    )
    health.check_state(state, steps_done + 2)
    assert state.step == steps_done + 2
    assert moved(params, state.params)
    assert moved(teacher, state.teacher) == (state.teacher != ())
    assert epoch.is_meta[0] == ("meta" in epoch.rows)
    assert moved(weights, state.weight_params) == epoch.is_meta[0]
