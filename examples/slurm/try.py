"""Tries run.sbatch and sweep.sbatch on a cluster of one node that it starts on this machine, and removes again.

    python examples/slurm/try.py [--keep]

Run it from the root of a checkout, by the Python that has cmwnet_jax. It needs Slurm and MUNGE (on Debian and
Ubuntu: apt-get install --no-install-recommends slurm-wlm munge), but no running Slurm and no configuration: its
slurmctld, slurmd and munged have their files in a temporary folder and ports of their own, and run as the user
who calls it. The runs are tiny and take minutes on two cores, without a GPU.

It checks that
- a run of two processes that `scancel --signal=TERM` stops is requeued, and ends with the same numbers, bit by
  bit, as one that nothing disturbs;
- so does one that a job of higher priority displaces (PreemptMode=REQUEUE with a grace time);
- so does a sweep of two array jobs, one of which is stopped;
- a job whose processes are still starting is requeued by that signal, too;
- `scancel` without a signal ends a job for good.

Exit status: 0 if all of it holds; 1 if not, and then the files are kept. --keep keeps them in any case.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")
GRACE_SECONDS = 60
EPOCHS, WARMUP_EPOCHS = 30, 10
PATIENCE_SECONDS = 1200
END = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL")

SLURM_CONF = """\
ClusterName=try
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its old credentials have expired, by default two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MailProg=/bin/true
ReturnToService=2
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=off
"""

# Two cells on the digits, as a config file of one's own.
CONFIG = """\
from experiments import digits


def get_config(arg):
    config = digits.get_config(arg)
    config.num_epochs, config.warmup_epochs = {epochs}, {warmup}
    config.chunk_steps = 2
    config.watch.pictures_every_epochs = 0
    return config


def get_cells():
    return ["long_tail_5+asymmetric_60,mwnet", "long_tail_5+asymmetric_60,cmwnet"]
"""


class Failed(Exception):
    """A check failed, or the cluster did not start; the message says which."""


class Cluster:
    """Commands to the cluster whose slurm.conf is in the folder."""

    def __init__(self, folder: Path):
        """Writes the configuration."""
        self.folder, self._daemons = folder, []
        ports = _free_ports(2)
        fields = {"ctld_port": ports[0], "slurmd_port": ports[1], "grace": GRACE_SECONDS, "folder": folder}
        fields |= {"host": socket.gethostname().split(".")[0], "user": pwd.getpwuid(os.getuid()).pw_name}
        (folder / "slurm.conf").write_text(SLURM_CONF.format(**fields))
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self.host = fields["host"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "PATH": os.environ["PATH"] + ":/usr/sbin",
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the daemons, and ends them and all jobs afterwards."""
        own = {name: self.folder / f"munge.{name}" for name in ("key", "socket", "pid", "log", "seed")}
        files = [f"--{name if name in ('socket',) else f'{name}-file'}={path}" for name, path in own.items()]
        try:
            self._start(["munged", "--foreground", "--force", *files], lambda: own["socket"].exists())
            self._start(["slurmctld", "-D"], lambda: "UP" in self.call("scontrol", "ping", check=False))
            node = ("sinfo", "--noheader", "--format=%T")
            self._start(["slurmd", "-D", "-N", self.host], lambda: "idle" in self.call(*node, check=False))
            yield
        finally:
            self.call("scancel", "--user", str(os.getuid()), check=False)
            with contextlib.suppress(Failed):
                wait("the jobs to end", lambda: not self.call("squeue", "--noheader", check=False), 60)
            for daemon in reversed(self._daemons):
                daemon.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(20)
                daemon.kill()

    def _start(self, command: list[str], is_up: Callable[[], bool]) -> None:
        with (self.folder / f"{command[0]}.out").open("w") as out:
            # In a session of its own, so that Ctrl-C ends it only after its jobs.
            daemon = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        self._daemons.append(daemon)
        wait(f"{command[0]} to start", lambda: daemon.poll() is not None or is_up(), 30)
        if daemon.poll() is not None:
            raise Failed(f"{command[0]} ended at once, see {out.name}: {Path(out.name).read_text()[-500:]}")

    def call(self, *command: str, check: bool = True) -> str:
        """Output of a command; a Failed if it fails and `check`."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Submits one of the scripts here without what this node lacks; returns the job's number."""
        common = ("--parsable", "--nodes=1", "--gres=none", "--cpus-per-task=1")
        return self.call("sbatch", *common, *options, str(HERE / script), *arguments).strip()

    def job(self, number: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        shown = self.call("scontrol", "--oneliner", "show", "job", number).splitlines()[0]
        return dict(field.partition("=")[::2] for field in shown.split() if "=" in field)

    def end_of(self, number: str) -> tuple[str, int]:
        """(state, how often it was requeued) of a job."""
        job = self.job(number)
        return job["JobState"], int(job["Restarts"])

    def was_saved(self, name: str) -> bool:
        """Whether a run that a signal stopped says in its log that it is saved."""
        return "are done and saved in" in (self.folder / f"{name}.log").read_text()

    def ended(self, number: str) -> bool:
        """Whether a job has ended for good."""
        return self.job(number)["JobState"] in END


def wait(what: str, is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until something is so; a Failed if it takes longer."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def check(is_so: bool, what: str) -> None:
    """Prints what is so; a Failed if it is not."""
    if not is_so:
        raise Failed(f"not so: {what}")
    print(f"ok: {what}", flush=True)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def epochs_done(run: Path) -> int:
    """Epochs in a run's metrics."""
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def numbers(run: Path) -> list[dict]:
    """What a run's folder says of all epochs and of the end, without times and paths."""
    lines = [*(run / "metrics.jsonl").read_text().splitlines(), (run / "result.json").read_text()]
    left_out = ("seconds", "overhead", "workdir")
    return [
        {name: value for name, value in json.loads(line).items() if not any(part in name for part in left_out)}
        for line in lines
    ]


def start_run(cluster: Cluster, name: str) -> tuple[str, Path]:
    """Submits a run of two processes; returns the job's number and the run's folder."""
    arguments = [f"--config={cluster.folder}/config.py:long_tail_5+asymmetric_60,cmwnet"]
    options = ("--ntasks-per-node=2", f"--output={cluster.folder}/{name}.log")
    run = cluster.folder / name
    return cluster.submit("run.sbatch", *arguments, f"--workdir={run}", options=options), run


def try_runs(cluster: Cluster) -> None:
    """A run goes on after a signal, and after a job of higher priority."""
    job, whole = start_run(cluster, "whole")
    wait("a run", lambda: cluster.ended(job))
    check(cluster.job(job)["JobState"] == "COMPLETED", "a run of two processes ends")

    job, run = start_run(cluster, "signalled")
    wait("its weight net to learn", lambda: epochs_done(run) > WARMUP_EPOCHS)
    cluster.call("scancel", "--signal=TERM", job)
    wait("the run", lambda: cluster.ended(job))
    check(cluster.was_saved("signalled"), "scancel --signal=TERM stops a run, which saves")
    check(cluster.end_of(job) == ("COMPLETED", 1), "its job is requeued, once, and ends")
    check(numbers(run) == numbers(whole), "with the numbers of the undisturbed run, bit by bit")

    job, run = start_run(cluster, "displaced")
    wait("its weight net to learn", lambda: epochs_done(run) > WARMUP_EPOCHS)
    urgent = ("--partition=urgent", "--ntasks=2", f"--output={cluster.folder}/urgent.log", "--wrap=sleep 1")
    other = cluster.call("sbatch", "--parsable", *urgent).strip()
    wait("the urgent job", lambda: cluster.ended(other))
    check(not (run / "result.json").exists(), "a job of higher priority displaces a run")
    wait("the run", lambda: cluster.ended(job))
    check(cluster.was_saved("displaced"), "which saves")
    check(cluster.end_of(job)[0] == "COMPLETED", "and goes on afterwards")
    check(numbers(run) == numbers(whole), "with the numbers of the undisturbed run, bit by bit")


def try_start(cluster: Cluster) -> None:
    """A signal that comes while the processes start is not lost; scancel without a signal ends a job."""
    job, run = start_run(cluster, "early")
    wait("the job to start", lambda: cluster.job(job)["JobState"] == "RUNNING")
    time.sleep(3)
    cluster.call("scancel", "--signal=TERM", job)
    wait("an epoch", lambda: epochs_done(run) >= 1 or cluster.ended(job))
    check(
        cluster.end_of(job) == ("RUNNING", 1),
        "a job is requeued, too, if the signal comes before the first step",
    )
    cluster.call("scancel", job)
    wait("its end", lambda: cluster.ended(job), 60)
    time.sleep(15)
    check(cluster.end_of(job) == ("CANCELLED", 1), "scancel alone ends a job for good")


def try_sweep(cluster: Cluster) -> None:
    """Two array jobs share two runs; the second one is stopped."""
    config, whole, runs = (cluster.folder / name for name in ("config.py", "cells", "cells_stopped"))
    arguments = (f"--config={config}", "--seeds=1")
    done = subprocess.run(
        [sys.executable, "-m", "cmwnet_jax.sweep", *arguments, f"--workdir={whole}"],
        env=cluster.environment,
        cwd=ROOT,
        check=False,
    )
    check(done.returncode == 0, "a sweep without Slurm, to compare with")
    options = ("--array=1-2", f"--output={cluster.folder}/sweep_%a.log")
    jobs = cluster.submit("sweep.sbatch", *arguments, f"--workdir={runs}", options=options)
    second = runs / "long_tail_5+asymmetric_60/cmwnet/seed0"
    wait("its weight net to learn", lambda: epochs_done(second) > WARMUP_EPOCHS)
    cluster.call("scancel", "--signal=TERM", f"{jobs}_2")
    wait("the sweep", lambda: cluster.ended(f"{jobs}_1") and cluster.ended(f"{jobs}_2"))
    ends = [cluster.end_of(f"{jobs}_{i}") for i in (1, 2)]
    check(ends == [("COMPLETED", 0), ("COMPLETED", 1)], "of two array jobs the stopped one is requeued")
    folders = sorted(path.parent.relative_to(whole) for path in whole.rglob("result.json"))
    same = all(numbers(runs / folder) == numbers(whole / folder) for folder in folders)
    check(len(folders) == 2 and same, "their runs have the numbers of the sweep without Slurm, bit by bit")


def main() -> int:
    """Runs all checks; returns the exit status."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        print(f"error: {', '.join(missing)} not found: apt-get install slurm-wlm munge", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemons end, too
    folder = Path(tempfile.mkdtemp(prefix="slurm_"))
    cluster, status = Cluster(folder), 0
    (folder / "config.py").write_text(CONFIG.format(epochs=EPOCHS, warmup=WARMUP_EPOCHS))
    print(cluster.call("sinfo", "--version").strip(), f"in {folder}", flush=True)
    try:
        with cluster.running():
            try_sweep(cluster)
            try_runs(cluster)
            try_start(cluster)
    except Failed as failed:
        print(f"{failed}\nthe logs are in {folder}", file=sys.stderr)
        status = 1
    if status == 0 and "--keep" not in sys.argv:
        shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    sys.exit(main())
