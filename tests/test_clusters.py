"""The files for clusters: they parse, and name flags, files and numbers that fit each other.

examples/slurm/try.py tries those for SLURM on a cluster of one node.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from cmwnet_jax.train.slurm import gpus_of_task

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples/slurm").glob("*.sbatch"))
MANIFESTS = sorted((ROOT / "examples/kubernetes").glob("*.yaml"))


def check_command(words):
    """`-m MODULE --flag=value ...`: the module has the flags, and the config exists."""
    module, given = words[words.index("-m") + 1], [word for word in words if word.startswith("--")]
    place = ROOT / module.replace(".", "/")
    source = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
    known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
    names = {word[2:].partition("=")[0] for word in given}
    assert names <= known, names - known
    for word in given:
        if word.startswith("--config="):
            assert (ROOT / word.partition("=")[2].partition(":")[0]).is_file()
    return dict(word[2:].partition("=")[::2] for word in given)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_for_slurm_parses_and_names_what_exists(path):
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    [launched] = re.findall(r"^srun (.*)", text, re.MULTILINE)
    check_command(shlex.split(launched))
    for usage in re.findall(r"^#\s+sbatch (examples/\S+) (--config.*)", text, re.MULTILINE):
        assert ROOT / usage[0] == path
        check_command(["-m", re.search(r"-m (\S+)", launched)[1], *shlex.split(usage[1])])
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", text, re.MULTILINE))
    assert {"requeue", "signal", "open-mode", "output", "gres", "time"} <= options.keys()
    assert options["signal"].startswith("TERM@")  # to what srun started, and not to the script
    assert "JAX_COMPILATION_CACHE_DIR" in text
    array = "array" in options
    assert f'requeue "{"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if array else "$SLURM_JOB_ID"}"' in text


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_has_what_it_needs_and_its_numbers_agree(path):
    manifest = yaml.safe_load(path.read_text())
    is_set = manifest["kind"] == "JobSet"
    assert manifest["apiVersion"] == ("jobset.x-k8s.io/v1alpha2" if is_set else "batch/v1")
    name = manifest["metadata"]["name"]
    [part] = manifest["spec"]["replicatedJobs"] if is_set else [{"template": manifest}]
    job = part["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    [line] = container["args"]
    assert line.startswith("exec python ")
    given = check_command(shlex.split(line))
    assert job["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"  # as podFailurePolicy asks
    codes = [
        rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule
    ]
    assert codes[0] == [75]
    [mount], [volume] = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    on_disk = (given["workdir"], *(v for n, v in environment.items() if n.endswith("_DIR")))
    assert all(folder.startswith(f"{mount['mountPath']}/") for folder in on_disk)
    processes = int(environment["PROCESSES" if is_set else "PODS"])
    assert processes == job["completions"] == job["parallelism"]
    if is_set:
        [port] = (entry["containerPort"] for entry in container["ports"])
        assert given["coordinator"] == f"{name}-{part['name']}-0-0.{name}:{port}"
        assert (given["num_processes"], given["process_id"]) == ("$PROCESSES", "$JOB_COMPLETION_INDEX")
    else:
        assert given["shard"] == "$((JOB_COMPLETION_INDEX + 1))/$PODS"


@pytest.mark.parametrize(
    ("visible", "tasks", "place", "node", "more", "expected"),
    [
        ("0,1,2,3", "4(x2)", 2, 1, {}, [2]),  # one process per GPU
        ("0,1,2,3", "1(x2)", 0, 1, {}, [0, 1, 2, 3]),  # one per node
        ("0,1,2,3", "2", 1, 0, {}, [2, 3]),
        ("0", "4", 3, 0, {}, [0]),  # SLURM shows each its own
        ("0,1", "2", 1, 0, {"SLURM_GPUS_PER_TASK": "2"}, [0, 1]),
        ("0,1,2", "2(x2),3", 2, 2, {}, [2]),
        ("0,1,2", "2", 1, 0, {}, None),  # no even share
        ("0,1", "1", 0, 0, {"JAX_LOCAL_DEVICE_IDS": "1"}, None),
        ("", "2", 0, 0, {}, None),  # no GPUs
    ],
)
def test_the_gpus_of_a_slurm_task(visible, tasks, place, node, more, expected):
    environ = {
        "CUDA_VISIBLE_DEVICES": visible,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_LOCALID": str(place),
        "SLURM_NODEID": str(node),
    }
    assert gpus_of_task(environ | more) == expected


def test_outside_of_slurm_jax_decides():
    assert gpus_of_task({"CUDA_VISIBLE_DEVICES": "0,1"}) is None
