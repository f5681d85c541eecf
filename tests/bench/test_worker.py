import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import repeat

import pytest

from skipfx.bench.timing import Step
from skipfx.bench.worker import Worker, WorkerError
from skipfx.errors import MediaError


def steps(code: str) -> Iterator[Step]:
    return repeat(partial(exec, code))


def fail() -> Iterator[Step]:
    raise MediaError("no such clip")


def test_times_its_steps_in_a_process_of_its_own() -> None:
    with Worker(steps, f"import os; assert os.getpid() != {os.getpid()}") as worker:
        assert len(worker(2)) == 2
        assert all(seconds >= 0 for seconds in worker(3))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_knows_what_it_holds() -> None:
    """What the steps take counts, and what the process held before does not."""
    with Worker(steps, "bytearray(50_000_000)") as worker:
        before = worker.memory
        worker(1)
        assert before < 40_000_000 < worker.memory < 90_000_000


def test_what_a_worker_prints_stays_off_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with Worker(steps, "print('noise', flush=True)") as worker:
        worker(1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "noise" in captured.err


def test_errors_of_skipfx_come_through() -> None:
    with pytest.raises(MediaError, match="no such clip"):
        Worker(fail)


def test_a_failing_step_is_an_error() -> None:
    with Worker(steps, "1 / 0") as worker, pytest.raises(WorkerError, match="ZeroDivisionError: division by zero"):
        worker(1)


def test_closing_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    Worker(steps, "pass").close()
    assert capfd.readouterr().err == ""


def test_a_process_that_ends_is_an_error() -> None:
    with Worker(steps, "import os; os._exit(7)") as worker, pytest.raises(WorkerError, match="ended with code 7"):
        worker(1)
