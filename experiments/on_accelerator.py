"""What an accelerator can answer in half an hour, the largest question first.

    python -m experiments.on_accelerator --output=FOLDER [--minutes=30] [--data_dir=DIR | --cifar10=ARCHIVE]

1. How much does a meta step cost there, in float32 and in bfloat16, and how much in PyTorch, where that is
   installed? (`experiments.benchmark_step`, one model after the other; with a profile of ResNet-32.)
2. How long does a cell of Table 1 take, CIFAR-10-LT 100 with 200 epochs, and how accurate is it, with plain
   training and with CMW-Net?
3. How far does Table 2 come, CIFAR-10 with asymmetric noise of 60%, PreAct ResNet-18 and CMW-Net?

Each command gets a process of its own and a share of the time, and leaves what it does not need to the next
ones. At its end it gets SIGTERM: a run then saves a checkpoint, a benchmark is lost. The same call, with more
minutes, skips what is finished and continues the runs. The exit status is 0 if all is finished, 75 if time was
too short, and 2 if a command failed; the others are run nevertheless.

FOLDER/on_accelerator.md has the tables, with machine, versions and commands, and FOLDER/on_accelerator.json the
same as numbers; both are written after each command. FOLDER/logs has what the commands printed.

--data_dir=DIR: CIFAR-10 as prepared by tfds in ArrayRecord format (default: TFDS_DATA_DIR). --cifar10=ARCHIVE:
a folder or archive of images instead, SPLIT/CLASS/*.jpg. Neither needs TensorFlow. Run it from the repository's
root; of several cards, select one by CUDA_VISIBLE_DEVICES. --miniature runs the same with an MLP, and with the
digits in place of CIFAR-10, to try this script on a CPU.
"""

import dataclasses
import datetime
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cmwnet_jax import command
from cmwnet_jax.errors import Preempted, UsageError
from cmwnet_jax.files import folder_to_write, local_path, read_json, replace_file
from cmwnet_jax.runs import lock, stored
from cmwnet_jax.train.preemption import StopRequests
from experiments.accelerator_report import markdown, summary_of_run
from experiments.setting import setting

ROOT = Path(__file__).parent.parent
NAME = "on_accelerator"

_GRACE = 60.0  # seconds to save a checkpoint
_LEAST = 20.0  # seconds without which no command is started
_CHUNKS = "--config.chunk_steps=195"  # an epoch of Table 2 has 390 steps: one program serves both halves
_MODELS = (
    "resnet32",
    "preact_resnet18",
    "mlp_1024",
    "transformer",
    "vit",
    "mlp",
    "small_cnn",
    "wrn_28_10",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command in a process of its own.

    Attributes:
        name: its name, also of its logs.
        arguments: what follows `python -m`.
        output: the file that it writes when it is finished.
        run: folder of the run that it trains; None for other commands.
    """

    name: str
    arguments: tuple[str, ...]
    output: Path
    run: Path | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is finished."""
        return self.output.exists()


@dataclasses.dataclass(frozen=True)
class Question:
    """Commands that share a part of the time.

    Attributes:
        share: their part, in units common to all questions.
        commands: in order.
    """

    share: float
    commands: tuple[Command, ...]

    @property
    def left(self) -> list[Command]:
        """The commands that are not finished."""
        return [one for one in self.commands if not one.is_done]


def plan(folder: Path, data: Sequence[str] = (), *, miniature: bool = False) -> list[Question]:
    """The questions, in order; shares are about minutes on a fast card.

    Args:
        folder: the folder of all outputs, absolute.
        data: flags of the launcher that say where CIFAR-10 is.
        miniature: whether to ask small models on the bundled digits.
    """
    if miniature:
        data = ("--config.data.name=digits", "--config.model.name=mlp", "--config.num_epochs=6")
        data += ("--config.warmup_epochs=3",)
    long_tail = [*data, *(("--config.data.bias=long_tail_10",) if miniature else ())]
    models = ("mlp",) if miniature else _MODELS

    def step(model, dtype):
        name = f"step_{model}_{dtype}"
        output = folder / f"{name}.json"
        options = [f"--models={model}", f"--dtype={dtype}", f"--rounds={1 if miniature else 10}"]
        if (model, dtype) == (models[0], "float32"):
            options.append(f"--profile={folder / 'profile'}")
        return Command(name, ("experiments.benchmark_step", *options, f"--output={output}"), output)

    def train(name, config, *changes):
        run = folder / name
        arguments = ("cmwnet_jax.train", f"--config=experiments/{config}", f"--workdir={run}", *changes)
        return Command(name, arguments, run / stored.RESULT, run)

    table1 = "table1_long_tail.py:cifar10,100"
    picture = folder / "examples.png"
    look = ("cmwnet_jax.data", "describe", f"--config=experiments/{table1}", f"--picture={picture}", *long_tail)
    table2 = train("table2_cmwnet", "table2_noise.py:cifar10,asymmetric_60,cmwnet", *data, _CHUNKS)
    return [
        Question(3, (Command("data", look, picture),)),
        Question(10, tuple(step(model, "float32") for model in models)),
        Question(5, tuple(step(model, "bfloat16") for model in models)),
        Question(2, (train("table1_erm", f"{table1},erm", *long_tail),)),
        Question(4, (train("table1_cmwnet", f"{table1},cmwnet", *long_tail),)),
        Question(8, (table2,)),
    ]


class Record:
    """What has been run so far, in the folder's JSON and Markdown files."""

    def __init__(self, folder: Path, questions: Sequence[Question]):
        """Reads the record of earlier calls.

        Args:
            folder: the folder of all outputs.
            questions: as in `plan`.

        Raises:
            UsageError: the JSON file is damaged.
        """
        self._folder, self._commands = folder, [one for each in questions for one in each.commands]
        self._file = folder / f"{NAME}.json"
        self._calls, self._launches = [], {}
        if self._file.exists():
            try:
                before = read_json(self._file)
                self._calls = before["calls"]
                self._launches = {one["name"]: one["launches"] for one in before["commands"]}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{self._file} cannot be used ({error}): remove it, finished commands are known without it"
                ) from error

    def begin(self, call: dict) -> None:
        """Adds a call of this script."""
        self._calls.append(call)
        self.write()

    def add(self, name: str, launch: dict) -> None:
        """Adds a launch of a command, and writes the files."""
        self._launches.setdefault(name, []).append(launch)
        self.write()

    def state(self, one: Command) -> str:
        """What became of a command: finished, stopped (at its time's end), failed or not begun."""
        launches = self._launches.get(one.name, [])
        if one.is_done:
            return "finished"
        if not launches:
            return "not begun"
        return "stopped" if launches[-1]["stopped"] else "failed"

    def contents(self) -> dict:
        """The contents of the JSON file."""
        steps = [one for one in self._commands if one.output.suffix == ".json" and one.run is None]
        runs = [one for one in self._commands if one.run is not None]
        return {
            "calls": self._calls,
            "commands": [
                {
                    "name": one.name,
                    "command": shlex.join(["python", "-m", *one.arguments]),
                    "state": self.state(one),
                    "launches": self._launches.get(one.name, []),
                }
                for one in self._commands
            ],
            "steps": {one.name: read_json(one.output) for one in steps if one.is_done},
            "runs": {one.name: summary for one in runs if (summary := summary_of_run(one.run)) is not None},
        }

    def write(self) -> None:
        """Writes both files."""
        contents = self.contents()
        replace_file(self._file, json.dumps(contents, indent=2) + "\n")
        printed = {one.name: self._folder / "logs" / f"{one.name}.txt" for one in self._commands if one.is_done}
        shown = {name: file.read_text(errors="replace") for name, file in printed.items() if file.exists()}
        replace_file(self._folder / f"{NAME}.md", markdown(contents, shown))


def launch(one: Command, until: float, logs: Path, stop: StopRequests) -> dict:
    """Runs a command, and stops it when its time is over or this process is asked to stop.

    Args:
        one: the command.
        until: when it must have ended, as `time.monotonic`.
        logs: folder for NAME.txt, what it prints, and NAME.err, what it says on the way.
        stop: whether to stop all.

    Returns:
        `started` (ISO 8601), `seconds`, `exit_status`, and whether it was `stopped`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    begun, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    ask = until - min(_GRACE, (until - begun) / 4)
    stopped = False
    with (logs / f"{one.name}.txt").open("wb") as out, (logs / f"{one.name}.err").open("ab") as err:
        # In a session of its own: Ctrl-C reaches this process alone, which then asks the command once.
        process = subprocess.Popen(
            [sys.executable, "-m", *one.arguments], cwd=ROOT, stdout=out, stderr=err, start_new_session=True
        )
        while process.poll() is None:
            now = time.monotonic()
            if not stopped and (stop.requested or now >= ask):
                stopped, until = True, min(until, now + _GRACE)
                process.terminate()
            elif stopped and now >= until:
                process.kill()
            time.sleep(0.05)
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "exit_status": process.returncode,
        "stopped": stopped,
    }


def run(questions: Sequence[Question], record: Record, until: float, logs: Path, stop: StopRequests) -> None:
    """Runs what is not finished, each question within its share of the time that is left.

    Args:
        questions: as in `plan`.
        record: gets each launch.
        until: when all must have ended, as `time.monotonic`.
        logs: as in `launch`.
        stop: whether to stop all.
    """
    asked = [each for each in questions if each.left]
    for place, each in enumerate(asked):
        now = time.monotonic()
        share = (until - now) * each.share / sum(later.share for later in asked[place:])
        end = min(until, now + max(share, _LEAST))
        for one in each.left:
            if stop.requested or end - time.monotonic() < _LEAST:
                break
            print(f"{one.name}: begun", file=sys.stderr, flush=True)
            took = launch(one, end, logs, stop)
            record.add(one.name, took)
            print(f"{one.name}: {record.state(one)}, {took['seconds']:.0f} s", file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    """Runs the plan within the minutes, and says what is left."""
    until = time.monotonic() + 60 * _MINUTES.value
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    given = command.required(_OUTPUT.value, "output", "the folder for the numbers and the runs")
    folder = folder_to_write("--output", given).absolute()
    questions = plan(folder, _data(), miniature=_MINIATURE.value)
    folder.mkdir(parents=True, exist_ok=True)
    call = {"command": shlex.join(["python", "-m", f"experiments.{NAME}", *sys.argv[1:]])}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with lock.hold(folder / ".lock"), StopRequests() as stop:
        record = Record(folder, questions)
        record.begin({**call, "started": now, "minutes": _MINUTES.value, **setting()})
        run(questions, record, until, folder / "logs", stop)
    print(f"written to {folder / NAME}.md")
    states = {one.name: record.state(one) for each in questions for one in each.commands}
    failed = [name for name, state in states.items() if state == "failed"]
    left = [name for name, state in states.items() if state != "finished"]
    if failed:
        raise UsageError(f"{len(failed)} of {len(states)} commands failed, see {folder}/logs/{failed[0]}.err")
    if left:
        raise Preempted(f"{len(left)} of {len(states)} commands are not finished: the same command goes on")


def _data() -> tuple[str, ...]:
    """The launcher's flags for CIFAR-10."""
    found = ()
    if _DATA_DIR.value:
        found += (f"--config.data.dir={_existing('--data_dir', _DATA_DIR.value)}",)
    if _CIFAR10.value:
        archive = _existing("--cifar10", _CIFAR10.value)
        found += ("--config.data.name=image_folder", "--config.data.known_as=cifar10")
        found += (f"--config.data.raw_dir={archive}",)
    return found


def _existing(flag: str, given: str) -> Path:
    path = local_path(flag, given).absolute()
    if not path.exists():
        raise UsageError(f"{flag} is {given!r}, which does not exist: check the path")
    return path


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", None, "folder for the numbers and the runs")
    _MINUTES = flags.DEFINE_float("minutes", 30, "when to stop", lower_bound=0.1, upper_bound=1e6)
    _DATA_DIR = flags.DEFINE_string("data_dir", "", "folder of tfds's prepared sets; empty: TFDS_DATA_DIR")
    _CIFAR10 = flags.DEFINE_string("cifar10", "", "folder or archive of CIFAR-10's images, in place of tfds's")
    _MINIATURE = flags.DEFINE_bool("miniature", False, "small models on the digits, to try this script")
    command.run(main)
