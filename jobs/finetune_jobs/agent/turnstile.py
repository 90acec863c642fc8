"""First come, first served, with everyone's place in sight."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Place:
    """One who waits at a `Turnstile`."""

    def __init__(self, turnstile: "Turnstile") -> None:
        self._turnstile = turnstile

    @property
    def ahead(self) -> int:
        """How many go first; 0 when it is one's own turn."""
        return self._turnstile.ahead(self)

    def wait(self, timeout: float | None = None) -> bool:
        """True when it is one's turn; False after `timeout` seconds."""
        return self._turnstile.wait(self, timeout)

    def leave(self) -> None:
        """Let the next one through, from the head or from the midst of the queue. Leaving twice is allowed."""
        self._turnstile.leave(self)


class Turnstile:
    """A lock that is taken in the order of asking."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._places: deque[Place] = deque()

    def enter(self) -> Place:
        """Join the queue's end."""
        place = Place(self)
        with self._changed:
            self._places.append(place)
        return place

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait as long as it takes."""
        place = self.enter()
        try:
            place.wait()
            yield
        finally:
            place.leave()

    def ahead(self, place: Place) -> int:
        with self._changed:
            return self._places.index(place)

    def wait(self, place: Place, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._places[0] is place, timeout)

    def leave(self, place: Place) -> None:
        with self._changed:
            if place in self._places:
                self._places.remove(place)
                self._changed.notify_all()
