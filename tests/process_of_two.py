"""One process of a run of several: `python process_of_two.py PORT PROCESSES PROCESS OUTPUT`.

Takes 20 meta steps of the float64 problem, four devices in all, with each of two normalisations, and the first
process writes the ends.
"""

import os
import sys

port, processes, process, output = sys.argv[1:]
processes, process = int(processes), int(process)
os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={4 // processes}"  # the last one counts
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import jax  # noqa: E402  (reads the environment when it is imported)
import numpy as np  # noqa: E402

from cmwnet_jax.train import parallel  # noqa: E402

if processes > 1:  # before the imports below, which compute
    parallel.initialize(f"localhost:{port}", processes, process)

from problems import batch, flat  # noqa: E402
from test_meta_step import make  # noqa: E402


def end_of(normalize: str) -> dict[str, np.ndarray]:
    step, state = make(normalize, axis_name=parallel.AXIS)
    program, state = parallel.pmap(step), parallel.replicate(state)
    for seed in range(20):
        pair = batch(seed, 16), batch(seed + 100, 8)
        rows = [parallel.share(np.arange(len(b["label"]))) for b in pair]
        shares = [jax.tree.map(lambda x, r=r: np.asarray(x)[r], b) for b, r in zip(pair, rows, strict=True)]
        state, metrics = program(state, *shares)
    end, metrics = parallel.unreplicate((state, metrics))
    arrays = {name: flat(getattr(end, name)) for name in ("params", "weight_params", "model_state")}
    arrays |= {name: metrics[name] for name in ("meta_loss", "objective")}
    return {f"{normalize}/{name}": array for name, array in arrays.items()}


assert parallel.device_count() == 4
ends = end_of("sum") | end_of("mean")
if parallel.is_first():
    np.savez(output, **ends)
