from collections.abc import Iterator
from itertools import count

import pytest

from skipfx.bench.timing import Spread, Step, Timing, interleave, machine, ratio, timed
from skipfx.errors import UsageError


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def no_sleep(seconds: float) -> None:
    pass


def test_timed_counts_the_step_and_not_its_preparation() -> None:
    clock = FakeClock()

    def steps() -> Iterator[Step]:
        for index in count(1):
            clock.pass_by(100)
            yield lambda index=index: clock.pass_by(index)  # type: ignore[misc]

    run = timed(steps(), clock)
    assert run(2) == [1, 2]
    assert run(3) == [3, 4, 5]


def test_timed_gives_what_there_is_when_the_steps_end() -> None:
    assert len(timed(iter([lambda: None]))(5)) == 1


def test_interleave_takes_turns_forwards_and_backwards() -> None:
    calls: list[tuple[str, int]] = []

    def runner(name: str, seconds: float) -> list[float]:
        calls.append((name, int(seconds)))
        return [seconds] * 5

    runners = {name: lambda frames, name=name: runner(name, frames) for name in "abc"}
    timings = interleave(runners, frames=3, rounds=2, warmup=2, sleep=no_sleep)
    assert [name for name, _ in calls] == ["a", "b", "c", "c", "b", "a"]
    assert {frames for _, frames in calls} == {5}
    assert list(timings) == ["a", "b", "c"]


def test_interleave_drops_the_warm_up_of_every_block() -> None:
    clip = count()
    timings = interleave(
        {"a": lambda frames: [float(next(clip)) for _ in range(frames)]}, 2, 2, warmup=1, sleep=no_sleep
    )
    assert timings["a"].rounds == ((1, 2), (4, 5))
    assert timings["a"].seconds == Spread((1, 2, 4, 5))


def test_interleave_rests_before_every_block() -> None:
    rests: list[float] = []
    runners = {"a": lambda frames: [1.0] * frames, "b": lambda frames: [1.0] * frames}
    interleave(runners, frames=1, rounds=3, pause=0.25, sleep=rests.append)
    assert rests == [0.25] * 6


def test_interleave_refuses_a_clip_that_ends() -> None:
    with pytest.raises(UsageError, match="a ran 2 of 6 frames: its clip must not end"):
        interleave({"a": lambda frames: [1.0, 1.0]}, frames=4, rounds=1, sleep=no_sleep)


@pytest.mark.parametrize(("names", "frames", "rounds"), [("", 1, 1), ("a", 0, 1), ("a", 1, 0)])
def test_interleave_refuses_to_time_nothing(names: str, frames: int, rounds: int) -> None:
    with pytest.raises(UsageError, match="nothing to time"):
        interleave({name: lambda frames: [1.0] * frames for name in names}, frames, rounds, sleep=no_sleep)


def test_spread() -> None:
    spread = Spread(tuple(float(value) for value in range(101)))
    assert (spread.p10, spread.median, spread.p90, spread.mean) == (10, 50, 90, 50)


def test_ratio_compares_round_by_round() -> None:
    slow = Timing(((2.0, 4.0), (30.0, 30.0), (4.0, 4.0)))
    fast = Timing(((1.0, 1.0), (10.0, 10.0), (1.0, 1.0)))  # the second round met a busy machine
    assert ratio(slow, fast).values == (3, 3, 4)
    assert ratio(slow, fast).median == 3


def test_ratio_counts_rare_slow_frames() -> None:
    assert ratio(Timing(((1.0, 1.0, 1.0, 9.0),)), Timing(((1.0,) * 4,))).median == 3


def test_ratio_refuses_timings_of_different_rounds() -> None:
    with pytest.raises(UsageError, match="got 2 and 1 rounds"):
        ratio(Timing(((1.0,), (1.0,))), Timing(((1.0,),)))


def test_machine_says_what_a_timing_depends_on() -> None:
    facts = machine()
    assert list(facts) == ["cpu", "cores", "load", "flags", "python", "libraries"]
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert set(facts["flags"]) <= {"avx2", "avx512", "neon"}
    assert "numpy" in facts["libraries"]
