"""First come, first served."""

import threading

from finetune_jobs.agent.turnstile import Turnstile


def test_places_are_in_the_order_of_asking():
    stile = Turnstile()
    first, second, third = stile.enter(), stile.enter(), stile.enter()
    assert [place.ahead for place in (first, second, third)] == [0, 1, 2]
    assert first.wait(0)
    assert not second.wait(0)


def test_one_who_leaves_from_the_midst_lets_the_others_up():
    stile = Turnstile()
    first, second, third = stile.enter(), stile.enter(), stile.enter()
    second.leave()
    assert third.ahead == 1
    first.leave()
    first.leave()
    assert third.wait(0)


def test_eight_threads_pass_one_by_one_in_order():
    stile = Turnstile()
    places = [stile.enter() for _ in range(8)]
    passed: list[int] = []

    def go(number: int) -> None:
        assert places[number].wait(30)
        passed.append(number)
        places[number].leave()

    threads = [threading.Thread(target=go, args=(number,)) for number in reversed(range(8))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert passed == list(range(8))
