"""What the launcher reads from SLURM's environment variables, where JAX's own choice does not fit."""

import re
from collections.abc import Mapping


def gpus_of_task(environ: Mapping[str, str]) -> list[int] | None:
    """Numbers of the GPUs that a SLURM task should use, among those that it sees; None for JAX's own choice.

    JAX takes one GPU, that of the task's number on its node. A single task on a node would leave the others
    unused, and tasks that SLURM has bound to a GPU each would look for one that they do not see.

    Args:
        environ: environment variables, as srun sets them.
    """
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE")
    if not all(environ.get(name) for name in names) or "JAX_LOCAL_DEVICE_IDS" in environ:
        return None
    visible, (place, node) = environ[names[0]].count(",") + 1, (int(environ[name]) for name in names[1:3])
    # E.g. 4(x2),3: four tasks on each of the first two nodes, three on the next.
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ[names[3]])
    tasks = [int(count) for count, nodes in groups for _ in range(int(nodes or 1))][node]
    if tasks > visible or "SLURM_GPUS_PER_TASK" in environ:  # each sees its own alone
        return list(range(visible))
    if visible % tasks:
        return None
    return list(range(place * visible // tasks, (place + 1) * visible // tasks))
