"""The watchdog: which rank stands still, in which phase, and whether it waits for the others."""

import threading

from geomrl.train.watchdog import Watchdog


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_line_comes_when_nothing_moves_and_then_ever_more_rarely():
    clock = Clock()
    dog = Watchdog(3, clock=clock)
    dog.see("generate 1", 17, 640)
    said = []
    for clock.now in range(101):
        line = dog.look(10)
        if line:
            said.append(clock.now)
            assert "rank 3 on " in line
            assert f"for {clock.now} s in phase 'generate 1, 17 of 640 done'" in line
            assert line.endswith("it works, or waits within DeepSpeed")
    assert said == [10, 20, 40, 80]


def test_any_progress_begins_anew():
    clock = Clock()
    dog = Watchdog(clock=clock)
    for clock.now in range(0, 100, 9):
        assert dog.look(10) is None
        dog.see("update", clock.now, 100)


def test_a_rank_that_waits_says_so_as_long_as_it_does():
    clock = Clock()
    dog = Watchdog(clock=clock)
    dog.see("old logprobs")
    with dog.waiting():
        clock.now = 11
        assert dog.look(10).endswith("in phase 'old logprobs'; it waits for the other ranks")
    clock.now = 22
    assert dog.look(10).endswith("it works, or waits within DeepSpeed")


def test_its_thread_writes_and_ends_with_the_block():
    spoke, threads = threading.Event(), threading.active_count()
    with Watchdog(write=lambda line: spoke.set()).watch(0.001):
        assert spoke.wait(60)
    assert threading.active_count() == threads
    with Watchdog().watch(None):
        assert threading.active_count() == threads
