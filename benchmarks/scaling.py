"""How fast training is against model, batch, sequence and number of processes, and against what the machine could do.

python -m benchmarks.scaling [--json FILE] [--sizes 2_2_64,4_4_128,4_4_256] [--processes 1,2]
    [--vocabulary 512] [--device auto]

Each case is our loop on tokens of which every one is predicted. Its floating-point operations are counted as
6 N per token, N being the parameters in matrices, and 6 L C T for causal attention over T tokens (L layers, width C);
their share of what a large matrix product reaches here, or of `--peak`, is the model FLOPs utilisation. (That of PaLM,
Chowdhery et al., 2022, appendix B, counts attention as if it were not causal: 12 L C T.) "wait" is the share of the
time that the main process waited for data. Then the seconds an update are fitted, with coefficients that cannot be
negative, as

    t = a + b * FLOPs of matrices + c * FLOPs of attention + d * tokens * L * C + e * bytes to all-reduce

of which a is what an update costs whatever its size, b and c are the inverse of rates, d is what passes through memory,
and e the inverse of the network's bandwidth: 2 (W - 1) / W * 4 N bytes among W processes. gloo on a CPU, NCCL on GPUs.
"""

import argparse
import io
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import multiprocessing

from benchmarks import arguments, report
from core.batch import Batch
from core.distributed import join
from core.model import GPT, GPTConfig, parse_size
from core.prefetch import Prefetcher
from core.source import Source
from core.tracking import Tracker
from core.trainer import Phase, Run, Settings

WARM_UP_STEPS, TURNS = 3, 5
CPU_DEFAULTS = {"sizes": "2_2_64,4_4_128,4_4_256", "batches": "4,16", "lengths": "64,256", "processes": "1,2"}
GPU_DEFAULTS = {"sizes": "4_4_256,12_12_768", "batches": "8,32", "lengths": "512,1024", "processes": "1"}


class RandomTokens(Source):
    """Rows that cost nothing to make, of which every token but the last is followed by one to predict."""

    def __init__(self, vocabulary: int, length: int):
        self.vocabulary, self.length = vocabulary, length

    def batch(self, split: str, start: int, stop: int) -> Batch:
        draw = np.random.default_rng(start)
        ids = torch.from_numpy(draw.integers(0, self.vocabulary, (stop - start, self.length + 1)))
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


class Case(NamedTuple):
    size: str
    batch_size: int  # rows of each process
    length: int  # T
    processes: int
    vocabulary: int
    device: str
    precision: Literal["fp32", "bf16"]
    parallel: Literal["ddp", "fsdp"]
    compile: bool

    @property
    def shape(self) -> GPTConfig:
        return GPTConfig(self.vocabulary, self.length, *parse_size(self.size))

    @property
    def tokens(self) -> int:
        """Of all processes, in an update."""
        return self.batch_size * self.length * self.processes

    @property
    def matrix_parameters(self) -> int:
        """N: 12 C^2 in each block, and the output projection."""
        L, _, C = parse_size(self.size)
        return 12 * L * C**2 + self.vocabulary * C

    @property
    def terms(self) -> dict[str, float]:
        """What the seconds of an update are fitted with, for one process."""
        L, _, C = parse_size(self.size)
        own, W = self.tokens / self.processes, self.processes
        return {
            "update": 1.0,
            "matrix FLOPs": 6.0 * self.matrix_parameters * own,
            "attention FLOPs": 6.0 * L * C * self.length * own,
            "tokens * L * C": own * L * C,
            "all-reduced bytes": 2 * (W - 1) / W * 4 * self.matrix_parameters,
        }

    @property
    def flops(self) -> float:
        """Of one process, in an update."""
        return self.terms["matrix FLOPs"] + self.terms["attention FLOPs"]


def train(rank: int, case: Case, seconds: float, port: int, answer: Any) -> None:
    """In a process of its own: takes steps for some seconds; the main rank answers with the seconds of each."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    plan = [Phase("random", RandomTokens(case.vocabulary, case.length), 10**9, case.batch_size, lambda step: 1e-4)]
    settings = Settings(precision=case.precision, parallel=case.parallel, compile=case.compile)
    with ExitStack() as stack:
        world = stack.enter_context(join(case.device if case.processes == 1 else case.device.partition(":")[0]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = Run(GPT(case.shape), plan, lambda model, step: [], settings, folder, world)
        with redirect_stderr(io.StringIO()):
            run.tracker = stack.enter_context(Tracker(folder, 0, run.total, world.is_main))
        run.batches = stack.enter_context(Prefetcher(run.make_pinned, start=0, stop=run.total, workers=1))

        def timed(steps: int) -> float:
            started = time.perf_counter()
            for _ in range(steps):
                run.update(run.next_batches(), 1e-4, 0)
            run.read()
            return (time.perf_counter() - started) / steps

        (slowest,) = world.sum([timed(WARM_UP_STEPS) / case.processes])  # alike on all, so that all take as many steps
        steps = max(1, round(seconds / TURNS / slowest))
        run.batches.waited = 0.0
        times = [timed(steps) for _ in range(TURNS)]
        waited = run.batches.waited / (steps * sum(times))
    if rank == 0:
        answer.put((min(times), waited))


def measure(case: Case, seconds: float) -> tuple[float, float]:
    """The seconds an update in the fastest of some turns, as what else a shared machine does only makes them slower;
    and the share of all turns that the main process waited for data."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answer = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(train, (case, seconds, port, answer), case.processes)  # raises if one of them fails
    return answer.get()


def matmul_peak(device: torch.device, precision: str) -> float:
    """FLOPs a second of the fastest of some square matrix products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for n in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        x = torch.randn(n, n, device=device, dtype=dtype)
        for _ in range(7):
            started = time.perf_counter()
            (x @ x)[0, 0].item()  # waits for a GPU
            best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def fit(cases: Sequence[Case], times: Sequence[float]) -> tuple[dict[str, float], list[float]]:
    """The coefficients, by least squares of relative errors, and the seconds that they predict for each case."""
    terms = np.array([list(case.terms.values()) for case in cases])
    measured = np.array(times)
    scale = terms.max(axis=0)
    scale[scale == 0] = 1.0
    coefficients, _ = nnls(terms / scale / measured[:, None], np.ones(len(cases)))
    coefficients /= scale
    return dict(zip(cases[0].terms, coefficients.tolist(), strict=True)), (terms @ coefficients).tolist()


COLUMNS = {
    "size": 9,
    "rows": 4,
    "T": 5,
    "W": 2,
    "ms": 9,
    "tokens/s": 10,
    "MFU": 6,
    "wait": 6,
    "fitted ms": 9,
    "error": 6,
}


def row(result: dict[str, Any]) -> list[str]:
    case = [result["size"], *(str(result[name]) for name in ("batch_size", "length", "processes"))]
    speed = [f"{1e3 * result['seconds']:.1f}", f"{result['tokens_per_second']:,.0f}", f"{result['mfu']:.1%}"]
    speed.append(f"{result['data_wait_share']:.2%}")
    error = result["fitted_seconds"] / result["seconds"] - 1
    return [*case, *speed, f"{1e3 * result['fitted_seconds']:.1f}", f"{error:+.0%}"]


def cases_of(options: argparse.Namespace, device: torch.device, precision: Literal["fp32", "bf16"]) -> list[Case]:
    """All combinations of what the options list. Raises ValueError for what is no number, no model, or nothing."""
    defaults = GPU_DEFAULTS if device.type == "cuda" else CPU_DEFAULTS
    lists = [(getattr(options, name) or defaults[name]).split(",") for name in defaults]
    cases = [
        Case(
            size=size,
            batch_size=int(batch),
            length=int(length),
            processes=int(W),
            vocabulary=options.vocabulary,
            device=str(device),
            precision=precision,
            parallel=options.parallel,
            compile=options.compile,
        )
        for size, batch, length, W in product(*lists)
    ]
    for case in cases:
        _ = case.shape
        if case.batch_size < 1 or case.processes < 1:  # no process would answer
            raise ValueError(f"{case.batch_size} rows in {case.processes} processes: both need at least 1")
    return cases


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the number of a GPU")
    for name, what in [("sizes", "models"), ("batches", "rows"), ("lengths", "tokens"), ("processes", "numbers of")]:
        parser.add_argument(f"--{name}", metavar="A,B", help=f"{what} (defaults: {CPU_DEFAULTS[name]} on a CPU)")
    parser.add_argument("--vocabulary", type=int, default=512, help="tokens that there are (default: %(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="of the data sheet, to state the utilisation of")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case, about (default: %(default)s)")
    options = parser.parse_args(argv)

    torch.set_num_threads(1)
    device = report.device_of(parser, options)
    precision: Literal["fp32", "bf16"] = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    try:
        cases = cases_of(options, device, precision)
    except ValueError as error:
        parser.error(str(error))
    machine = report.machine("torch")
    torch.set_float32_matmul_precision("high")  # TF32, which training has, too
    peak = matmul_peak(device, precision)
    print(report.sentence(machine))
    print(f"{precision} on {device}, {options.parallel}; a matrix product reaches {peak / 1e9:,.0f} GFLOP/s a process")
    measured = []
    for number, case in enumerate(cases, start=1):
        measured.append(measure(case, options.seconds))
        what = f"{case.size}, {case.batch_size} x {case.length}, {case.processes} processes"
        print(f"{number} of {len(cases)}: {what}", flush=True)
    times, waits = zip(*measured, strict=True)
    coefficients, fitted = fit(cases, times)
    peak = max(peak, matmul_peak(device, precision))  # others may have used the machine the first time
    peak = 1e12 * options.peak if options.peak else peak

    results = []
    print("\n" + report.line(list(COLUMNS), list(COLUMNS.values())))
    for case, seconds, waited, predicted in zip(cases, times, waits, fitted, strict=True):
        rates = {"tokens_per_second": case.tokens / seconds, "mfu": case.flops / seconds / peak}
        rates["data_wait_share"] = waited
        results.append({**case._asdict(), "seconds": seconds, **rates, "fitted_seconds": predicted})
        print(report.line(row(results[-1]), list(COLUMNS.values())))
    errors = [abs(predicted / seconds - 1) for predicted, seconds in zip(fitted, times, strict=True)]
    print(f"\nfitted; median error {statistics.median(errors):.0%}, largest {max(errors):.0%}")
    for name, value in coefficients.items():
        rate = f" = 1 / {1 / value / 1e9:,.2f} G/s" if value and name != "update" else ""
        print(f"  {name:<18}{value:.3g} s{rate}")
    if options.json:
        facts = {"machine": machine, "peak_flops_per_second": peak, "coefficients": coefficients}
        report.write(options.json, facts, results)


if __name__ == "__main__":
    main()
