"""The state of a pool: against a plain model with random orders of events, and the figures of the specification."""

from __future__ import annotations

from typing import Any, Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtimed_ffi.daemon.environments.pool_state import (
    BACKOFF,
    CONCURRENT_BUILDS,
    MAXIMUM_AGE,
    WAITER_LIMIT,
    PoolError,
    PoolState,
)


class Clock:
    """Time that a test advances, and timers that are due then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def __call__(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        assert delay >= 0
        timer = Timer(self.now + delay, callback, self)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers:
            timer = min(self.timers, key=lambda timer: timer.due)
            if timer.due > end:
                break
            self.timers.remove(timer)
            self.now = timer.due
            timer.callback()
        self.now = end


class Timer:
    def __init__(self, due: float, callback: Callable[[], None], clock: Clock) -> None:
        self.due, self.callback, self.clock = due, callback, clock

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


class Item:
    def __init__(self, born: float) -> None:
        self.born = born
        self.usable = True
        self.place = "made"

    def end(self) -> None:
        assert self.place == "made", "removed twice, or although it is in use"
        self.place = "removed"


class Scene:
    def __init__(self, target: int) -> None:
        self.clock = Clock()
        self.builds: list[int] = []
        """The generations of the builds that were started and have not ended."""
        self.changes = 0
        self.state = PoolState(target, self.builds.append, self.count_change, self.clock, self.clock.call_later)

    def count_change(self) -> None:
        self.changes += 1

    def built(self) -> Item:
        item = Item(self.clock.now)
        self.state.built(item, self.builds.pop(0))
        return item

    def failed(self) -> None:
        self.state.failed("no", None, self.builds.pop(0))

    def wait(self) -> list[Any]:
        answers: list[Any] = []
        self.state.wait(lambda item, error: answers.append(item or error))
        return answers


def test_a_launch_that_finds_it_empty_gets_the_next_one() -> None:
    scene = Scene(1)
    scene.state.start([])
    first, second = scene.wait(), scene.wait()
    assert first == second == []
    one, two = scene.built(), scene.built()
    assert (first, second) == ([one], [two]), "in request order"
    three = scene.built()
    assert list(scene.state.available) == [three]
    assert scene.builds == []


def test_without_a_target_it_builds_on_demand_only() -> None:
    scene = Scene(0)
    scene.state.start([])
    assert scene.builds == []
    answers = scene.wait()
    assert len(scene.builds) == 1
    item = scene.built()
    assert answers == [item]
    assert scene.builds == []


def test_backoff_is_that_of_the_specification() -> None:
    scene = Scene(1)
    scene.state.start([])
    for failures, delay in enumerate((*BACKOFF, BACKOFF[-1]), 1):
        scene.failed()
        error = scene.state.error
        assert error is not None
        assert error.as_json(scene.clock.now) == {
            "message": "no",
            "consecutive_failures": failures,
            "retry_in_secs": int(delay),
        }
        scene.clock.advance(delay - 1)
        assert scene.builds == []
        assert error.as_json(scene.clock.now)["retry_in_secs"] == 1
        scene.clock.advance(1)
        assert len(scene.builds) == 1
        assert error.as_json(scene.clock.now)["retry_in_secs"] == 0
    assert BACKOFF == (30, 60, 120, 240, 300)
    scene.built()
    assert scene.state.error is None
    assert scene.changes == len(BACKOFF) + 2


def test_a_failure_fails_waiting_launches_and_the_next_at_once() -> None:
    scene = Scene(1)
    scene.state.start([])
    waiting = scene.wait()
    scene.failed()
    late = scene.wait()
    assert isinstance(waiting[0], PoolError)
    assert isinstance(late[0], PoolError)
    scene.state.retry_now()
    assert scene.state.error is None
    again = scene.wait()
    assert again == [] and len(scene.builds) == 1


def test_old_environments_are_replaced_when_they_are_old_and_not_before() -> None:
    scene = Scene(1)
    scene.state.start([])
    item = scene.built()
    scene.clock.advance(MAXIMUM_AGE - 1)
    assert item.place == "made"
    assert scene.builds == []
    scene.clock.advance(1)
    assert item.place == "removed"
    assert len(scene.builds) == 1


def test_what_was_built_with_old_ingredients_is_not_handed_out() -> None:
    scene = Scene(1)
    scene.state.start([])
    answers = scene.wait()
    assert scene.state.flush() == []
    stale = scene.built()
    assert (answers, stale.place) == ([], "removed")
    fresh = scene.built()
    assert answers == [fresh]


def test_every_generation_ages() -> None:
    scene = Scene(1)
    scene.state.start([])
    for _ in range(3):
        item = scene.built()
        scene.clock.advance(MAXIMUM_AGE - 1)
        assert item.place == "made" and scene.builds == []
        scene.clock.advance(1)
        assert item.place == "removed" and len(scene.builds) == 1


def test_after_a_success_the_backoff_starts_anew() -> None:
    scene = Scene(1)
    scene.state.start([])
    for _ in range(2):
        for failures in (1, 2):
            scene.failed()
            assert scene.state.error is not None and scene.state.error.consecutive_failures == failures
            scene.clock.advance(BACKOFF[failures - 1])
        item = scene.built()
        assert scene.state.error is None and scene.state.take() is item


def test_launches_that_wait_are_bounded() -> None:
    scene = Scene(0)
    scene.state.start([])
    answers = [scene.wait() for _ in range(WAITER_LIMIT)]
    assert not any(answers)
    (refused,) = scene.wait()
    assert "more than 256 kernels wait" in refused.message
    item = scene.built()
    assert answers[0] == [item]
    assert scene.wait() == [], "there is room again"
    assert len(scene.wait()) == 1


class PoolMachine(RuleBasedStateMachine):
    """Every environment is in exactly one place, the target is kept, no launch waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(2)
        self.items: list[Item] = []
        self.waiting: list[Any] = []
        self.closed = False
        adopted = [Item(self.scene.clock.now - 5) for _ in range(3)]
        self.items += adopted
        self.scene.state.start(adopted)

    @property
    def state(self) -> PoolState:
        return self.scene.state

    @precondition(lambda self: self.scene.builds)
    @rule(number=st.integers(0, 3))
    def build_ends_well(self, number: int) -> None:
        builds = self.scene.builds
        item = Item(self.scene.clock.now)
        self.items.append(item)
        self.state.built(item, builds.pop(number % len(builds)))

    @precondition(lambda self: self.scene.builds)
    @rule()
    def build_fails(self) -> None:
        self.scene.failed()

    @rule()
    def take(self) -> None:
        item = self.state.take()
        if item is not None:
            assert item.usable and self.scene.clock.now - item.born < MAXIMUM_AGE
            assert item.place == "made"
            item.place = "taken"

    @rule()
    def launch(self) -> None:
        record: dict[str, Any] = {"answers": 0}

        def waiter(item: Item | None, error: PoolError | None) -> None:
            record["answers"] += 1
            assert (item is None) != (error is None)
            if item is not None:
                assert item.place == "made"
                item.place = "taken"

        record["waiter"] = waiter
        self.waiting.append(record)
        self.state.wait(waiter)

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 5))
    def give_up(self, number: int) -> None:
        record = self.waiting.pop(number % len(self.waiting))
        before = record["answers"]
        self.state.withdraw(record["waiter"])
        record["withdrawn"] = before

    @precondition(lambda self: any(item.place == "taken" for item in self.items))
    @rule()
    def give_back(self) -> None:
        item = next(item for item in self.items if item.place == "taken")
        item.place = "made"
        self.state.give_back(item)

    @precondition(lambda self: self.state.available)
    @rule()
    def break_one(self) -> None:
        self.state.available[0].usable = False

    @rule()
    def flush(self) -> None:
        for item in self.state.flush():
            assert item.place == "made"
            item.place = "flushed"

    @rule(seconds=st.sampled_from([1.0, 30.0, 300.0, MAXIMUM_AGE / 2, MAXIMUM_AGE]))
    def time_passes(self, seconds: float) -> None:
        self.scene.clock.advance(seconds)

    @precondition(lambda self: not self.closed)
    @rule(really=st.integers(0, 20))
    def close(self, really: int) -> None:
        if really == 0:
            self.closed = True
            for item in self.state.close():
                item.place = "kept"

    @invariant()
    def every_environment_is_in_one_place(self) -> None:
        made = [item for item in self.items if item.place == "made"]
        assert sorted(map(id, made)) == sorted(map(id, self.state.available)), "lost, or in two places"
        assert len(made) <= self.state.target
        assert len(self.scene.builds) == self.state.building <= CONCURRENT_BUILDS

    @invariant()
    def no_launch_waits_in_vain(self) -> None:
        for record in self.waiting:
            assert record["answers"] <= 1
        open_ends = [record for record in self.waiting if record["answers"] == 0]
        if self.closed:
            assert not open_ends
            assert not self.scene.clock.timers
        elif self.state.missing or open_ends:
            assert self.state.building or self.scene.clock.timers, "the pool is stuck"
        if open_ends:
            assert not self.state.available


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase
