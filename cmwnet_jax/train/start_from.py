"""A classifier's initial variables: from another run, from ImageNet weights, or random."""

import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import UsageError, first_line, naming_field
from cmwnet_jax.files import local_path, refused
from cmwnet_jax.methods import METHODS
from cmwnet_jax.models import at_random
from cmwnet_jax.models.pretrained import load_pretrained
from cmwnet_jax.runs import stored
from cmwnet_jax.train import parallel
from cmwnet_jax.transfer import array_facts, orbax_folder


def start_variables(config: ConfigDict, model: nn.Module, inputs: jax.Array) -> PyTree | None:
    """Reads the variables that the config names as a start; None for random ones.

    With pretrained weights, lists on stderr the arrays that stay random.

    Args:
        config: the run's config.
        model: the classifier.
        inputs: one example as the network sees it, [1, ...].

    Raises:
        UsageError: the variables cannot be read, or do not fit the model.
    """
    other_head = METHODS[config.method].starts_from
    if config.model.init:
        source = model if other_head is None else model.clone(make_head=other_head(config))
        init = partial(source.init, train=False)
        read = read_classifier(config.model.init, jax.eval_shape(init, jax.random.key(0), inputs))
        return read if source is model else with_arrays(at_random(model, inputs, config.seed), read)
    if not config.model.pretrained:
        return None
    blank = at_random(model, inputs, config.seed)
    with naming_field("model.pretrained"):
        variables, report = load_pretrained(config.model.pretrained, config.model.name, blank)
    if parallel.is_first():
        kept = ", ".join(report.as_initialised) or "nothing"
        print(f"{len(report.loaded)} arrays are pretrained; at random as before: {kept}", file=sys.stderr)
    return variables


def with_arrays(variables: PyTree, some: PyTree) -> PyTree:
    """Replaces some of a classifier's variables.

    Args:
        variables: nested dictionaries of arrays.
        some: the new arrays, a part of `variables`.
    """
    return unflatten_dict(flatten_dict(variables) | flatten_dict(some))


def read_classifier(run: str, expected: PyTree) -> PyTree:
    """Reads the final classifier of a run as it was tested, parameters and running statistics, to the host.

    Args:
        run: a finished run's folder.
        expected: the result of `init`, or its shapes and dtypes.

    Raises:
        UsageError: there is no finished run with a checkpoint, the newest checkpoint is damaged, or its arrays
            differ from the expected ones in name, shape or dtype.
    """
    checkpoint = finished_checkpoint(run)
    parts = {name: value for name, value in expected.items() if name != "params"}
    wanted = {"params": expected["params"], "model_state": parts}
    method = METHODS.get(stored.read_config(checkpoint.parent.parent)["method"])
    try:
        arrays = _read(checkpoint, wanted, within=method.classifier_field if method else "")
    except _OtherArrays as error:
        raise UsageError(
            f"model.init is {run!r}, whose classifier is not the config's ({error}): set the model, the "
            f"method's head and the data set as they were there, or choose another run"
        ) from None
    except Exception as error:  # Orbax's and TensorStore's errors have nothing else in common
        raise UsageError(
            f"model.init is {run!r}, whose newest checkpoint, {checkpoint.name}, is damaged "
            f"({first_line(error)}): bring back a copy of it, or choose another run"
        ) from error
    return {"params": arrays["params"], **arrays["model_state"]}


def finished_checkpoint(run: str) -> Path:
    """The newest checkpoint's folder of a finished run.

    Args:
        run: the run's folder.

    Raises:
        UsageError: there is no finished run with a checkpoint.
    """
    folder = local_path("model.init", run).absolute()
    with refused("model.init", folder, "cannot be read"):
        finished = stored.is_finished(folder)
        steps = [int(path.name) for path in folder.glob(f"{stored.CHECKPOINTS}/*") if path.name.isdecimal()]
    if not finished or not steps:
        raise UsageError(
            f"model.init is {run!r}, which holds no finished run with a checkpoint, expected the folder of "
            f"one: check the path, or train it to its end first"
        )
    return folder / stored.CHECKPOINTS / str(max(steps))


class _OtherArrays(Exception):
    """A checkpoint's arrays differ from the expected ones; the message lists them."""


def _read(checkpoint: Path, expected: PyTree, within: str) -> PyTree:
    """Reads part of a checkpoint's state, or of a field of it.

    Any error other than `_OtherArrays` means that the checkpoint is damaged.
    """
    for name in ("contents", "state"):
        item = checkpoint / name
        broken = orbax_folder.is_sealed(item) and orbax_folder.broken_seal(
            item, steps_done=int(checkpoint.name)
        )
        if broken:
            raise ValueError(broken)
    with orbax_folder.plainly_named(checkpoint) as plain:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            contents = checkpointer.restore(plain / "contents")["state"]
        start = f"{within}/" if within else ""
        facts = {
            name.removeprefix(start): fact
            for name, fact in contents.items()
            if name.startswith((f"{start}params/", f"{start}model_state/"))
        }
        if different := array_facts.mismatches(facts, expected):
            raise _OtherArrays(different)
        blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), expected)
        blank = {within: blank} if within else blank
        args = ocp.args.PyTreeRestore(
            blank,
            restore_args=ocp.checkpoint_utils.construct_restore_args(blank),
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            arrays = checkpointer.restore(plain / "state", args=args)
    arrays = arrays[within] if within else arrays
    if damaged := array_facts.damaged(facts, arrays):
        raise ValueError(f"other values than were saved in {', '.join(damaged[:3])}")
    return arrays
