"""How the demo talks: a line when a step starts, progress while it takes long, what it proved, and a table at the end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from chrysalis.clock import Clock, SystemClock

HEARTBEAT_SECONDS = 10.0


class StepFailed(Exception):
    """A step did not prove what it is there to prove; the text says what was seen and where to look."""


def expect(condition: object, message: str) -> None:
    """Raise StepFailed with this message unless the condition holds."""
    if not condition:
        raise StepFailed(message)


@dataclass(frozen=True)
class Step:
    """One of the twelve: what it is called, and what runs it (None while it is not built)."""

    number: int
    title: str
    run: Callable[[Console], str] | None  # returns what was proved, one line


@dataclass
class Outcome:
    """How a step ended."""

    step: Step
    state: str  # proved, failed, not built, not reached
    proved: str = ""
    seconds: float = 0.0


@dataclass
class Console:
    """Where the story is told.  Lines go to one stream; progress is overwritten on a terminal, and sparse elsewhere."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    clock: Clock = field(default_factory=SystemClock)
    _doing: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, text: str) -> None:
        """A line of the running step."""
        with self._lock:
            self._clear()
            print(f"      {text}", file=self.stream, flush=True)

    def doing(self, text: str) -> None:
        """What the step is busy with now; shown with the time it takes."""
        self._doing = text
        if self.stream.isatty():
            with self._lock:
                self._clear()
                print(f"      … {text}", end="", file=self.stream, flush=True)

    def head(self, text: str) -> None:
        """A line of the story itself."""
        with self._lock:
            self._clear()
            print(text, file=self.stream, flush=True)

    def _clear(self) -> None:
        if self.stream.isatty():
            print("\r\033[K", end="", file=self.stream)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """While inside: every ten seconds a sign of life with the current activity and the seconds so far."""
        self._doing = ""
        started = self.clock.monotonic()
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                seconds = self.clock.monotonic() - started
                with self._lock:
                    self._clear()
                    end = "" if self.stream.isatty() else "\n"
                    print(f"      … {self._doing or 'still working'} ({seconds:.0f} s)", end=end, file=self.stream, flush=True)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with self._lock:
                self._clear()


def play(steps: list[Step], console: Console) -> list[Outcome]:
    """Run the steps in order.  After a failure only the last step (going down again) still runs."""
    outcomes: list[Outcome] = []
    failed = False
    for step in steps:
        name = f"[{step.number:2}/{len(steps)}] {step.title}"
        if step.run is None:
            outcomes.append(Outcome(step, "not built"))
            console.head(f"{name}: not built yet")
            continue
        if failed and step is not steps[-1]:
            outcomes.append(Outcome(step, "not reached"))
            continue
        console.head(name)
        started = console.clock.monotonic()
        try:
            with console.heartbeat():
                proved = step.run(console)
        except Exception as error:
            failed = True
            words = str(error) or type(error).__name__
            outcomes.append(Outcome(step, "failed", words, console.clock.monotonic() - started))
            console.head(f"   ✗  {words}")
            if not isinstance(error, StepFailed):
                import traceback

                traceback.print_exception(error, file=console.stream)
            continue
        seconds = console.clock.monotonic() - started
        outcomes.append(Outcome(step, "proved", proved, seconds))
        console.head(f"   ✓  {proved} ({seconds:.1f} s)")
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """The summary that a person would show to a colleague."""
    signs = {"proved": "✓", "failed": "✗", "not built": "·", "not reached": "-"}
    title_width = max(len(o.step.title) for o in outcomes)
    lines = [f"{'':2} {'step':{title_width + 3}} {'time':>8}  what it proved"]
    for o in outcomes:
        what = o.proved if o.state in ("proved", "failed") else o.state
        time = f"{o.seconds:.1f} s" if o.seconds else ""
        lines.append(f"{signs[o.state]:2} {o.step.number:2} {o.step.title:{title_width}} {time:>8}  {what.splitlines()[0] if what else ''}")
    return "\n".join(lines)


def closing(outcomes: list[Outcome]) -> tuple[str, int]:
    """The last line and the exit code: 0 only when every step that is built has proved its point."""
    proved = sum(o.state == "proved" for o in outcomes)
    line = f"{proved} of {len(outcomes)} steps"
    missing = [str(o.step.number) for o in outcomes if o.state == "not built"]
    if missing:
        line += f"; not built yet: {', '.join(missing)}"
    broken = [str(o.step.number) for o in outcomes if o.state in ("failed", "not reached")]
    if broken:
        line += f"; failed or not reached: {', '.join(broken)}"
    return line, 1 if broken else 0
