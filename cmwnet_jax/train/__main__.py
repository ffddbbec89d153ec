"""`python -m cmwnet_jax.train --config=FILE.py[:args] --workdir=DIR [--config.a.b=x] [--print_config]`.

Exit status: 0 when the run is finished, 2 after a user error, 75 when SIGTERM or SIGINT stopped the run.

After the first signal the run saves a checkpoint and stops; the same command resumes it. A second signal stops
it at once, and so does the first one while no steps are running. As after SIGKILL, the run then resumes from
the newest checkpoint.
"""

from cmwnet_jax.train import signals

if __name__ == "__main__":
    signals.stop_at_once()  # before the imports, which take seconds

from absl import flags
from ml_collections import config_flags

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py or FILE.py:ARGS", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that the run writes")
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "check the config, print it as config.json has it, and exit"
)
_EXPLAIN_CONFIG = flags.DEFINE_bool(
    "explain_config", False, "check the config, print every field with its meaning, and exit"
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the run's other processes; SLURM, Open MPI, GKE and TPU pods are detected"
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if it is not detected")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes, with --coordinator")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "this process's number, with --coordinator")


def main(argv: list[str]) -> None:
    """Checks the flags, trains, and prints the table of results."""
    # JAX and the launcher take seconds to import; --help and wrong flags need neither.
    from cmwnet_jax.train import parallel
    from cmwnet_jax.train.check_config import check_config
    from cmwnet_jax.train.config import as_json, explained
    from cmwnet_jax.train.loop import train
    from cmwnet_jax.train.show import print_result

    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    config = command.required(_CONFIG.value, "config", "a config file, e.g. --config=experiments/digits.py")
    check_config(config)
    if _PRINT_CONFIG.value:
        print(as_json(config), end="")
        return
    if _EXPLAIN_CONFIG.value:
        print(explained(config), end="")
        return
    workdir = command.required(_WORKDIR.value, "workdir", "the folder that the run should be written to")
    if not _DISTRIBUTED.value and (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value) != (None,) * 3:
        raise UsageError("--coordinator, --num_processes and --process_id go with --distributed: add it")
    if _DISTRIBUTED.value:
        parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        signals.stop_at_once()  # JAX's coordination takes SIGTERM for itself
    result = train(config, workdir)
    if parallel.is_first():
        print_result(result)


if __name__ == "__main__":
    command.run(main)
