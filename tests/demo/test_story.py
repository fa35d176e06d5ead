"""The demo never passes a step that is not there, and never hides one that failed."""

from __future__ import annotations

import io

from e2e.demo.story import Console, Step, StepFailed, closing, play, table


def _fails(_: Console) -> str:
    raise StepFailed("the wall is in the way")


def _story(*runs: object) -> tuple[list[Step], io.StringIO, Console]:
    stream = io.StringIO()
    steps = [Step(i, f"step {i}", run) for i, run in enumerate(runs, 1)]  # type: ignore[arg-type]
    return steps, stream, Console(stream=stream)


def test_all_proved_is_a_zero() -> None:
    steps, stream, console = _story(lambda _: "one", lambda _: "two")
    outcomes = play(steps, console)
    assert closing(outcomes) == ("2 of 2 steps", 0)
    assert "✓  two" in stream.getvalue()


def test_a_step_that_is_not_built_is_named_and_not_counted() -> None:
    steps, _, console = _story(lambda _: "one", None, lambda _: "three")
    assert closing(play(steps, console)) == ("2 of 3 steps; not built yet: 2", 0)


def test_after_a_failure_only_the_last_step_runs() -> None:
    ran: list[int] = []

    def last(_: Console) -> str:
        ran.append(4)
        return "down"

    steps, stream, console = _story(lambda _: "one", _fails, lambda _: "three", last)
    outcomes = play(steps, console)
    assert [o.state for o in outcomes] == ["proved", "failed", "not reached", "proved"]
    assert ran == [4]
    assert closing(outcomes) == ("2 of 4 steps; failed or not reached: 2, 3", 1)
    assert "the wall is in the way" in stream.getvalue()
    assert "the wall is in the way" in table(outcomes)
