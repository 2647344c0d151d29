"""torchrun for jobs that may be told to stop: signals reach the ranks, and their exit status is the job's.

python -m core.launch [torchrun's options] -m MODULE [ARGUMENT ...]

torchrun itself would end at SIGUSR1, kill at SIGTERM after 30 seconds whoever is still saving, and turn every status
into 1. Here both are handed on, the ranks save, and 75 comes out, for a scheduler to requeue.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from core.signals import StopSignals

HANDED_ON = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = StopSignals.STATUS[signal.SIGTERM]


def main(argv: list[str] | None = None) -> int:
    """Runs torchrun. Returns the exit status of the rank that ended first, or 75 after a signal that was handed on."""
    for number in HANDED_ON:
        signal.signal(number, hand_on)
    arguments = ["--signals_to_handle", "SIGINT", *(sys.argv[1:] if argv is None else argv)]
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except SignalException:
        return StopSignals.STATUS[signal.SIGINT]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in (STOPPED, *(-number for number in HANDED_ON)):  # by one while Python was still starting
            return STOPPED
        how = f"status {failure.exitcode}" if failure.exitcode >= 0 else signal.Signals(-failure.exitcode).name
        print(f"error: rank {rank} was the first to end, with {how}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


def hand_on(number: int, frame: FrameType | None) -> None:
    """Sends a signal to every child; without any, ends this process with the status that asks to be queued again."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    ranks = [int(pid) for of_thread in children for pid in of_thread]
    if not ranks:  # they are still to be started, or have all ended
        os._exit(STOPPED)
    for pid in ranks:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # ended by itself


if __name__ == "__main__":
    sys.exit(main())
