"""Runs with faults in them, by way of `fault_server.py`, and what every fault has to end in."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_runs import flags

SUPPORT = Path(__file__).parent
LIMIT = 60  # seconds after which a run counts as hanging
TINY = {
    "seq_length": 4,
    "gpt2_size": "1_1_8",
    "batch_size": 4,
    "max_steps": 6,
    "save_every_steps": 2,
    "eval_examples": 8,
    "log_every_steps": 3,
    "save_total_limit": 2,
}


@dataclass(frozen=True)
class Outcome:
    status: int  # negative: the signal that ended it
    said: str
    seconds: float
    hung: bool


class Server:
    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f".:{SUPPORT}", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, SUPPORT / "fault_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout.readline() == "ready\n"

    def carry_out(self, *orders: dict[str, Any]) -> list[Outcome]:
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()
        return [Outcome(**outcome) for outcome in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def order(run_dir: Path, *faults: tuple[str, dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """A tiny run in `run_dir` as an attempt of the server; what is the attempt's own starts with an underscore."""
    own = {name[1:]: keys.pop(name) for name in list(keys) if name.startswith("_")}
    argv = flags(save_dir=run_dir, **{**TINY, "resume": True, **keys})
    return {"module": "procedural_pretraining.cli", "argv": argv, "faults": list(faults), "limit": LIMIT, **own}


def orders_of_ranks(run_dir: Path, size: int, *faults: tuple[str, dict[str, Any]], **keys: Any) -> list[dict[str, Any]]:
    """The same run, carried out by `size` processes, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = ({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size))
    return [order(run_dir, *faults, **{**keys, "_environ": rank}) for rank in ranks]


class Trial:
    """Runs with faults, and what becomes of them afterwards."""

    def __init__(self, server: Server, whole: Path, keys: dict[str, Any]):
        self.server, self.whole, self.keys = server, whole, keys

    def run(self, run_dir: Path, *faults: tuple[str, dict[str, Any]], **keys: Any) -> Outcome:
        (outcome,) = self.server.carry_out(order(run_dir, *faults, **{**self.keys, **keys}))
        assert not outcome.hung, f"no end after {LIMIT} s: {outcome.said}"
        return outcome

    def goes_on(self, run_dir: Path, told: str = "", **keys: Any) -> None:
        """Started once more, without a fault, the run ends as if there had been none, bit for bit."""
        outcome = self.run(run_dir, **keys)
        assert outcome.status == 0, (told, outcome.said)
        assert_same_end(self.whole, run_dir, told)


def in_words(outcome: Outcome, status: int, *words: str) -> None:
    """The run ended with this status, and with a line for people that holds these words."""
    assert outcome.status == status, outcome
    assert "Traceback" not in outcome.said, outcome.said
    last = outcome.said.strip().splitlines()[-1]
    assert last.startswith("error: ") or status not in (1, 2), outcome.said
    assert all(word in last for word in words), (words, last)


def assert_same_end(one: Path, other: Path, told: str = "") -> None:
    """The same metrics, the same last checkpoint, the same best one, and nothing left over."""
    step = max(int(path.name.partition("-")[2]) for path in one.glob("checkpoint-*"))
    for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json"):
        path = Path(f"checkpoint-{step}") / name
        assert (one / path).read_bytes() == (other / path).read_bytes(), (told, path)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes(), told
    assert (one / "best").readlink() == (other / "best").readlink(), told
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"], told
    assert not list(other.glob(".*.partial")), told
