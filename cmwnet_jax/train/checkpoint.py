"""Checkpoints with Orbax: the whole state, and the weight net as an item that restores alone."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from cmwnet_jax.types import MetaState


class Checkpoints:
    """The newest few states of a run, numbered by how many epochs are done.

    Saved: everything of the state but its base random key, which the seed gives again.
    """

    def __init__(self, folder: Path, keep: int):
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_names=("state", "weight_net"),
        )

    def save(self, epochs_done: int, state: MetaState) -> None:
        """Starts writing an unreplicated state; the next save or `close` waits for it."""
        arrays = _without_rng(state)
        self._manager.save(
            epochs_done,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                weight_net=ocp.args.StandardSave({"params": arrays["weight_params"]}),
            ),
        )

    def restore(self, template: MetaState) -> tuple[int, MetaState]:
        """(epochs done, state) of the newest checkpoint; (0, template) where there is none."""
        newest = self._manager.latest_step()
        if newest is None:
            return 0, template
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_rng(template))
        restored = self._manager.restore(
            newest, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return newest, template.replace(**restored["state"])

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _without_rng(state: MetaState) -> dict:
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__ if name != "rng"}
    return fields
