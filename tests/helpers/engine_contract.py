"""What every engine does alike, as checks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import engine_work
import pytest
from engine_work import Squares

from advrad.engine import Engine
from advrad.errors import EngineError, ImageError

Check = Callable[[Engine], None]


def gives_the_items_of_all_tasks(engine: Engine) -> None:
    tasks = [Squares(10 * number, 10 * number + 4) for number in range(6)]
    given = list(engine.run(engine_work.squares, tasks))
    assert sorted(given) == [(number, number**2) for task in tasks for number in range(task.first, task.end)]
    for task in tasks:  # those of one task come in order
        mine = [number for number, _ in given if task.first <= number < task.end]
        assert mine == sorted(mine)


def does_nothing_without_tasks(engine: Engine) -> None:
    assert list(engine.run(engine_work.squares, [])) == []


def takes_tasks_that_give_nothing(engine: Engine) -> None:
    assert list(engine.run(engine_work.squares, [Squares(0, 0)] * 5)) == []


def draws_tasks_as_they_can_be_begun(engine: Engine) -> None:
    drawn = 0

    def endless() -> Iterator[Squares]:
        nonlocal drawn
        while True:
            drawn += 1
            yield Squares(0, 1)

    running = engine.run(engine_work.squares, endless())
    assert drawn == 0
    for taken in range(1, 8):
        assert next(running) == (0, 0)
        assert drawn <= taken + engine.workers
    running.close()


def carries_items_of_any_size(engine: Engine) -> None:
    sizes = [0, 5_000_000, 1]
    assert sorted(map(len, engine.run(engine_work.big, sizes))) == sorted(sizes)


def raises_what_work_raises(engine: Engine) -> None:
    running = engine.run(engine_work.fail, ["image"])
    assert next(running) == 1
    with pytest.raises(ImageError, match=r"^part.png: the file is empty$") as caught:
        next(running)
    assert caught.value.reason == "the file is empty"


def raises_errors_of_python(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError, match="by zero"):
        list(engine.run(engine_work.fail, ["zero"]))


def can_be_used_again_after_an_error(engine: Engine) -> None:
    with pytest.raises(SystemExit, match="enough"):
        list(engine.run(engine_work.fail, ["exit"]))
    assert list(engine.run(engine_work.squares, [Squares(2, 3)])) == [(2, 4)]


def says_where_an_error_of_python_was_raised(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(engine.run(engine_work.fail, ["zero"]))
    assert "print(1 // 0)" in caught.value.__notes__[0]


def keeps_the_text_of_an_error_that_cannot_arrive(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        list(engine.run(engine_work.fail, ["parts"]))
    assert str(caught.value) == "TwoPartsError: this and that"
    assert "raise TwoPartsError" in caught.value.__notes__[0]


def says_that_an_item_cannot_be_sent(engine: Engine) -> None:
    with pytest.raises((AttributeError, EngineError, TypeError), match=r"pickle.*unsendable"):
        list(engine.run(engine_work.unsendable, [1]))


def says_that_work_cannot_be_loaded(engine: Engine) -> None:
    with pytest.raises(ImportError, match="no module of that name here"):
        list(engine.run(engine_work.Unreadable(), [1]))


CHECKS: tuple[Check, ...] = (
    gives_the_items_of_all_tasks,
    does_nothing_without_tasks,
    takes_tasks_that_give_nothing,
    draws_tasks_as_they_can_be_begun,
    carries_items_of_any_size,
    raises_what_work_raises,
    raises_errors_of_python,
    can_be_used_again_after_an_error,
)
#: What only concerns engines whose work is in other processes.
OTHER_PROCESS_CHECKS: tuple[Check, ...] = (
    says_where_an_error_of_python_was_raised,
    keeps_the_text_of_an_error_that_cannot_arrive,
    says_that_an_item_cannot_be_sent,
    says_that_work_cannot_be_loaded,
)
