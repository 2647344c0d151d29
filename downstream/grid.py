"""The experiment people come for: pretraining tasks x weights x downstream tasks x seeds, beside their controls.

Every cell is a run in a folder of its own, started as a command. What is missing is run, what was cut off goes on.
"""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from core import config as configuration
from core.config import Config, home
from core.errors import Interrupted, RunFailed, UserError
from core.files import link, lock, make_folder, write_whole
from core.run_config import LARGEST_SEED
from core.transfer import PATTERNS, Component
from downstream.adaptation import AdaptationConfig
from downstream.algorithmic_tasks.config import AlgorithmicConfig
from downstream.semantic.config import C4Config, CodeParrotConfig, MathConfig, SemanticConfig

CONTROLS = Literal["no_pretraining", "shuffled_tokens", "shuffled_weights"]
POLL_SECONDS = 1.0  # between looks at cells that another process works on
PRETRAIN, ADAPT = ["-m", "procedural_pretraining.cli"], ["-m", "downstream.cli"]
KINDS: dict[str, type[AdaptationConfig]] = {  # of cells, by the verb that runs them
    "algorithmic": AlgorithmicConfig,
    "c4": C4Config,
    "codeparrot": CodeParrotConfig,
    "math": MathConfig,
}
NOTE = "cell.json"  # in the folder of a run: what it was begun with
FINAL = "final"  # a link to the last checkpoint of a donor that has ended
OWN_KEYS = {  # which the grid sets, or a cell would not be what its condition says
    "pretraining": {"seed", "seeds", "save_dir", "run_name", "resume", "shuffle_tokens"},
    "downstream": {"seed", "seeds", "save_dir", "run_name", "resume", "transfer_control"}
    | {"pretrained_model_path", "weights_to_be_transferred", "second_model_path", "second_weights_to_be_transferred"},
}


class GridConfig(Config):
    save_dir: str = Field(min_length=1, description="folder of all cells and the report")
    seeds: list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]] = Field(
        min_length=1, description="of pretraining and of what follows it"
    )
    pretraining: dict[str, dict[str, Any]] = Field(
        {}, description="what is pretrained: by name, keys of procedural_pretraining"
    )
    weights: dict[str, list[Component]] = Field(
        {}, description="what is transferred: by name, such as attention: [attn]"
    )
    controls: list[CONTROLS] = Field(["no_pretraining"], description="what else the cells are compared with")
    downstream: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="what is trained then: by name, keys of `algorithmic`, or of the `verb` c4, codeparrot or math",
    )
    pretraining_keys: dict[str, Any] = Field({}, description="keys that all of `pretraining` share")
    downstream_keys: dict[str, Any] = Field({}, description="keys that all of `downstream` share")

    seeds_at_once: bool = Field(
        False, description="one process trains the seeds of a condition side by side: for small models on a GPU"
    )
    processes: int = Field(1, ge=1, description="processes that work at a time")
    shard: str = Field(
        "0/1",
        pattern=r"^\d+/[1-9]\d*$",
        description="K/N: carry out only every Nth job, from number K on (from 0), and the pretraining that these need",
    )
    slurm: bool = Field(False, description="write a SLURM array script that runs the grid, and nothing else")

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{seeds} names a seed twice")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.pretraining) != bool(self.weights):
            raise ValueError("pretraining and weights belong together: what is trained before, and what is taken of it")
        if not self.pretraining and "no_pretraining" not in self.controls:
            raise ValueError("there is no cell: neither pretraining nor the control no_pretraining")
        nothing = [name for name, parts in self.weights.items() if not parts]
        if nothing:
            raise ValueError(f"weights.{nothing[0]}: [] takes nothing; name at least one of {', '.join(PATTERNS)}")
        number, shards = map(int, self.shard.split("/"))
        if number >= shards:
            raise ValueError(f"shard {self.shard}: the first number counts from 0 to {shards - 1}")
        self._check_entries("pretraining", self.pretraining, self.pretraining_keys)
        self._check_entries("downstream", self.downstream, self.downstream_keys)
        return self

    @staticmethod
    def _check_entries(place: str, entries: dict[str, dict[str, Any]], shared: dict[str, Any]) -> None:
        """Raises ValueError for keys that the grid sets itself, an unknown verb, and names that no folder can bear."""
        for where, keys in {f"{place}_keys": shared, **{f"{place}.{n}": keys for n, keys in entries.items()}}.items():
            own = [key for key in keys if SemanticConfig.other_names.get(key, key) in OWN_KEYS[place]]
            if own:
                raise ValueError(f"{where}.{own[0]}: the grid sets this key itself")
        for name, keys in entries.items():
            if place == "downstream" and keys.get("verb", "algorithmic") not in KINDS:
                raise ValueError(f"downstream.{name}.verb: {keys['verb']!r} is none of {', '.join(KINDS)}")
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{place}.{name}: becomes the name of a folder; use letters, digits, - and _ alone")

    @property
    def root(self) -> Path:
        return home(self.save_dir)


@dataclass(frozen=True)
class Job:
    """What one process does: a run, or several that differ in their seeds alone, of donors or of cells."""

    group: str  # what all seeds share: pretraining/DONOR, or TASK/CONDITION
    folder: Path  # of the group, in which each run has one
    seeds: Sequence[int]
    arguments: list[str]  # but for seeds and folders
    needs: "Job | None" = None  # what must have ended before
    labels: dict[str, str] = field(default_factory=dict)  # of cells: task, condition

    @property
    def name(self) -> str:
        return self.group if len(self.seeds) > 1 else f"{self.group}/seed{self.seeds[0]}"

    def run_dir(self, seed: int) -> Path:
        return self.folder / f"seed{seed}"

    @property
    def command(self) -> list[str]:
        seeds = ",".join(map(str, self.seeds))
        own = {"seed": seeds, "run_name": f"seed{seeds}", "save_dir": self.folder}
        if len(self.seeds) > 1:
            own = {"seeds": seeds, "run_name": self.folder.name, "save_dir": self.folder.parent}
        return [sys.executable, *self.arguments, *(f"--{key}={value}" for key, value in own.items())]

    def ended(self) -> list[int]:
        """The seeds whose runs have ended."""
        return [seed for seed in self.seeds if self.has_ended(self.run_dir(seed))]

    def has_ended(self, run_dir: Path) -> bool:
        if not self.labels:
            return (run_dir / FINAL).exists()
        try:
            summary = json.loads((run_dir / "summary.json").read_text())
        except (OSError, ValueError):
            return False
        return "transfer" in summary  # which is added with the test

    def is_done(self) -> bool:
        return len(self.ended()) == len(self.seeds)


def jobs(config: GridConfig) -> list[Job]:
    """Donors and cells; each donor before the cells that need it."""
    donors: list[Job] = []
    cells = []
    for seeds in [config.seeds] if config.seeds_at_once else [[seed] for seed in config.seeds]:
        of_name: dict[tuple[str, bool], Job] = {}
        for condition, donor, shuffled, keys in conditions(config):
            if donor is not None and (donor, shuffled) not in of_name:
                of_name[donor, shuffled] = _donor(config, donor, shuffled, seeds)
            source = None if donor is None else of_name[donor, shuffled]
            cells += [_cells(config, task, condition, keys, seeds, source) for task in config.downstream]
        donors += of_name.values()
    return donors + cells


def conditions(config: GridConfig) -> Iterator[tuple[str, str | None, bool, dict[str, Any]]]:
    """Name, pretraining, whether its tokens are shuffled, and further keys of the cells."""
    if "no_pretraining" in config.controls:
        yield "no pretraining", None, False, {}
    for donor in config.pretraining:
        for weights, parts in config.weights.items():
            taken = {"weights_to_be_transferred": parts}
            yield f"{donor}, {weights}", donor, False, taken
            if "shuffled_tokens" in config.controls:
                yield f"{donor}, {weights}, shuffled tokens", donor, True, taken
            if "shuffled_weights" in config.controls:
                shuffled = {**taken, "transfer_control": "shuffle_weights"}
                yield f"{donor}, {weights}, shuffled weights", donor, False, shuffled


def _donor(config: GridConfig, name: str, shuffled: bool, seeds: Sequence[int]) -> Job:
    label = f"{name}{'-shuffled_tokens' if shuffled else ''}"
    keys = {**config.pretraining_keys, **config.pretraining[name], "shuffle_tokens": shuffled}
    return Job(f"pretraining/{label}", config.root / "pretraining" / label, seeds, _arguments(PRETRAIN, keys))


def _cells(
    config: GridConfig, task: str, condition: str, keys: dict[str, Any], seeds: Sequence[int], source: Job | None
) -> Job:
    label = condition.replace(", ", "-").replace(" ", "_")
    verb, given = verb_and_keys(config, task)
    given |= keys
    if source is not None:
        given["pretrained_model_path"] = str(source.folder / "seed{seed}" / FINAL)
    arguments, folder = _arguments([*ADAPT, verb], given), config.root / "cells" / task / label
    return Job(f"{task}/{label}", folder, seeds, arguments, source, {"task": task, "condition": condition})


def verb_and_keys(config: GridConfig, task: str) -> tuple[str, dict[str, Any]]:
    """What runs the cells of a downstream task, and with which keys."""
    keys = {**config.downstream_keys, **config.downstream[task]}
    return keys.pop("verb", "algorithmic"), keys


def _arguments(module: list[str], keys: dict[str, Any]) -> list[str]:
    return [*module, *(f"--{key}={_text(value)}" for key, value in {**keys, "resume": True}.items())]


# --- Before anything runs


def check(config: GridConfig, all_jobs: list[Job]) -> None:
    """Raises UserError with a line for each thing that would stop a cell, and for settings that have changed since."""
    problems: list[str] = []
    for task in config.downstream:
        verb, keys = verb_and_keys(config, task)
        kind, flags = KINDS[verb], {key: _text(value) for key, value in keys.items()}
        if config.seeds_at_once and len(config.seeds) > 1:
            flags["seeds"] = ",".join(map(str, config.seeds))
        try:
            configuration.resolve(lambda values, kind=kind: kind, None, flags)  # type: ignore[misc]
        except UserError as error:
            problems += [f"downstream.{task}: {problem.removeprefix('--')}" for problem in error.problems]
    for job in all_jobs:
        for seed in job.seeds:
            noted = job.run_dir(seed) / NOTE
            if noted.exists() and not says(noted, job.arguments, config.root):
                problems.append(f"{noted.parent} holds a run with other settings; use another save_dir, or remove it")
    shared = Counter((job.folder, tuple(job.seeds)) for job in all_jobs)
    problems += [
        f"{folder} would belong to two conditions; change a name" for (folder, _), n in shared.items() if n > 1
    ]
    problems = problems or wrong_donors(all_jobs)
    if problems:
        raise UserError(*dict.fromkeys(problems))


def as_noted(arguments: list[str], root: Path) -> list[str]:
    """What a run is begun with, wherever the grid lies: it may be moved."""
    return [argument.replace(f"={root}/", "=./") for argument in arguments]


def says(note: Path, arguments: list[str], root: Path) -> bool:
    try:  # earlier notes have the whole paths
        return json.loads(note.read_text()) in (as_noted(arguments, root), arguments)
    except ValueError:  # damaged: nobody knows what the run was begun with
        return False


def wrong_donors(all_jobs: list[Job]) -> list[str]:
    """What the command of pretraining, which takes some seconds, says of the donors that are not begun."""
    not_begun = [job for job in all_jobs if not any((job.run_dir(seed) / NOTE).exists() for seed in job.seeds)]
    first_of_each = {job.folder.name: job for job in reversed(not_begun) if not job.labels}
    problems = []
    for name, job in first_of_each.items():
        done = subprocess.run([*job.command, "--print_config"], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            problems += [f"pretraining.{name}: {line.removeprefix('error: --')}" for line in lines]
    return problems


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- Running


class Workers:
    """Threads that each take a job that nobody works on, as long as there is one."""

    def __init__(self, config: GridConfig, all_jobs: list[Job]):
        number, shards = map(int, config.shard.split("/"))
        mine = all_jobs[number::shards]
        needed = [job.needs for job in mine]
        others = [job for job in all_jobs if job in needed and job not in mine]
        self.root, self.jobs = config.root, [*mine, *others]  # whoever comes first trains what several shares need
        self.everything, self.processes = all_jobs, config.processes
        self.failed: dict[str, str] = {}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopping = 0  # the signal that asked for it
        self.lock = threading.Lock()
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        (self.root / "logs").mkdir(exist_ok=True)

    def run(self) -> None:
        """Raises RunFailed, once all else is done, for cells that failed."""
        done, total = self.ended_runs(), sum(len(job.seeds) for job in self.jobs)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda n, frame: self.stop(n))
        threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.processes)]
        with tqdm(total=total, initial=done, unit="run", disable=None) as bar:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.2)
                bar.update(self.ended_runs() - bar.n)
        if self.stopping:
            raise Interrupted("stopped by a signal; the same command goes on where it was", status=75)
        if self.failed:
            raise RunFailed(*(f"{name} failed: {reason}" for name, reason in self.failed.items()))

    def ended_runs(self) -> int:
        return sum(len(job.ended()) for job in self.jobs)

    def stop(self, number: int) -> None:
        """Hands a signal on: runs save and end, and no other is begun."""
        self.stopping = number
        for process in list(self.running):
            process.send_signal(number)

    def work(self) -> None:
        while not self.stopping:
            left = [job for job in self.jobs if not job.is_done() and not self.is_hopeless(job)]
            if not left:
                return
            if not any(self.try_to(job) for job in left):
                time.sleep(POLL_SECONDS)

    def is_hopeless(self, job: Job) -> bool:
        return job.name in self.failed or (job.needs is not None and job.needs.name in self.failed)

    def try_to(self, job: Job) -> bool:
        """Runs a job unless somebody else does, or what it needs is not there yet; whether it ran."""
        if self.stopping or (job.needs is not None and not job.needs.is_done()):
            return False
        try:
            with (self.root / "locks" / job.name.replace("/", ".")).open("w") as claim:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not job.is_done():
                    self.carry_out(job, claim.fileno())
        except BlockingIOError:
            return False
        except OSError as error:  # would end this thread, and what it had left to do would be missed by nobody
            self.failed[job.name] = str(error)
        return True

    def carry_out(self, job: Job, claim: int) -> None:
        """The run holds the claim as well: should this process be killed, the cell stays taken until the run ends."""
        left = sorted(set(job.seeds) - set(job.ended()))
        for run_dir in map(job.run_dir, left):
            run_dir.mkdir(parents=True, exist_ok=True)
            write_whole(run_dir / NOTE, json.dumps(as_noted(job.arguments, self.root)) + "\n")
        log = self.root / "logs" / f"{job.name.replace('/', '.')}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                job.command, stdout=output, stderr=output, pass_fds=[claim], env=self.environment()
            )
            self.running.add(process)
            if self.stopping:  # the signal came in between
                process.send_signal(self.stopping)
            status = process.wait()
            self.running.discard(process)
        if status == 0:
            for seed in left:
                if not job.labels:
                    mark_final(job.run_dir(seed))
                self.note(f"{job.group}/seed{seed}")
        elif not self.stopping:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            reason = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "")
            self.failed[job.name] = f"status {status}; {reason.strip()} ({log})"

    def note(self, line: str) -> None:
        with self.lock, (self.root / "finished.txt").open("a") as file:
            file.write(line + "\n")

    def environment(self) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        return {"OMP_NUM_THREADS": str(threads), **os.environ}


def mark_final(folder: Path) -> None:
    """Links the last checkpoint, for the cells that wait for it."""
    last = Path(json.loads((folder / "summary.json").read_text())["checkpoint"]).name
    link(folder / FINAL, last)


def run(config: GridConfig) -> None:
    """Runs what is missing. Raises UserError before anything runs, RunFailed for cells that failed."""
    all_jobs = jobs(config)
    check(config, all_jobs)
    make_folder(config.root, "save_dir")
    whole = config.model_copy(update={"shard": "0/1", "slurm": False})
    with lock(config.root, waits=True):  # tasks of an array begin together, and read this file
        write_whole(config.root / "grid.yaml", configuration.as_yaml(whole))
    if config.slurm:
        return write_slurm(config, len(all_jobs))
    runs = sum(len(job.seeds) for job in all_jobs)
    cells = sum(len(job.seeds) for job in all_jobs if job.labels)
    print(f"{cells} cells on {runs - cells} pretrained models, in {config.root}")
    Workers(config, all_jobs).run()
    print(f"done; the report: python -m downstream.cli report --grid {shlex.quote(str(config.root))}")


SLURM = """#!/usr/bin/env bash
# Runs the grid in {root}: {shards} array tasks, each with one run in {shards} of it. Preempted or out of time, a task
# saves, is queued again, and goes on where it was.
#SBATCH --job-name=transfer-grid
#SBATCH --array=0-{last}
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output={root}/slurm_%A_%a.log
source "${{SLURM_SUBMIT_DIR:-.}}/scripts/slurm/job.sh"
shard="${{SLURM_ARRAY_TASK_ID:-0}}/{shards}"
carry_out python -m downstream.cli grid --config {root}/grid.yaml --slurm false --shard "$shard"
"""


def write_slurm(config: GridConfig, runs: int) -> None:
    shards = max(int(config.shard.split("/")[1]), 1)
    path = config.root / "grid.sbatch"
    path.write_text(SLURM.format(root=shlex.quote(str(config.root)), shards=shards, last=shards - 1))
    command = f"sbatch {shlex.quote(str(path))}"
    print(f"{runs} processes' work for {shards} array tasks (--shard 0/N for N of them): {command}")
