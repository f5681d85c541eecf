"""A process of its own for each runner, so that runners that take turns cannot disturb each other.

Engines that share a process share more than they should: torch has one number of threads per process, every library
brings a thread pool that spins for a while after a call (torch 10 ms, onnxruntime 50 ms), and OpenVINO pins threads to
cores. Measured on a detector with two threads, the same engines in turns: in one process torch took 12-20 % longer and
the others 4-7 % longer than in processes of their own, which gave the times that each has alone. Passive waiting
(OMP_WAIT_POLICY) would stop the spinning too, and made torch 45-60 % slower.

While others are timed a worker waits in a read and uses no core at all. It reads the clock itself, so the pipe costs
nothing.
"""

import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from skipfx.bench.timing import Step, timed
from skipfx.errors import SkipfxError


class WorkerError(SkipfxError):
    """A worker process that failed or ended."""


class Worker:
    """A runner (see `skipfx.bench.timing`) in a process of its own; a context manager that ends the process.

    Scripts that start workers need the usual `if __name__ == "__main__":` guard.
    """

    def __init__(self, build: Callable[..., Iterator[Step]], *arguments: Any) -> None:
        """Starts the process and waits until its steps are ready.

        Args:
            build: a function at the top of a module; called in the process, it gives the steps to be timed.
            *arguments: what `build` is called with; must pickle.

        Raises:
            WorkerError: `build` failed, or the process ended. Errors of skipfx are raised as they are.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._before = self._answer()[0]

    def __call__(self, frames: int) -> list[float]:
        """Runs the next `frames` steps and returns the seconds of each.

        Raises:
            WorkerError: a step failed, or the process ended.
        """
        with suppress(ConnectionError):  # of a process that has ended; the answer tells
            self._pipe.send(frames)
        return self._answer()

    @property
    def memory(self) -> int:
        """The most bytes that what was built has kept in memory since it was ready; 0 where Linux does not tell."""
        return _status("VmHWM", self._process.pid) - int(self._before)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the process."""
        self.close()

    def _answer(self) -> list[float]:
        try:
            answer: list[float] | SkipfxError = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            answer = WorkerError(f"a worker process ended with code {code}; what it printed says why (-9: no memory)")
        if isinstance(answer, SkipfxError):
            self.close()
            raise answer
        return answer


def _serve(pipe: Connection, build: Callable[..., Iterator[Step]], arguments: tuple[Any, ...]) -> None:
    os.dup2(2, 1)  # standard output belongs to the parent, where it may carry JSON
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        answer: list[float] = [_status("VmRSS")]
        run = timed(build(*arguments))
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        while True:
            pipe.send(answer)
            answer = run(pipe.recv())
    except (EOFError, KeyboardInterrupt):
        pass  # the parent is gone
    except SkipfxError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(WorkerError(f"{type(error).__name__}: {error}"))


def _status(name: str, process: int | str | None = "self") -> int:
    """A number of bytes that Linux tells of a process; 0 elsewhere."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(name):
                return 1024 * int(line.split()[1])
    return 0
