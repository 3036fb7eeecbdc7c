"""How a command ends: every expected error becomes one line and an exit status; an interruption loses no work."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from advrad.cli.terminal import give_up_stdout, is_first_process, printable, say
from advrad.errors import AdvradError, UserError
from advrad.utils.files import explain
from advrad.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from types import FrameType

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

#: Base of all errors about wrong usage. It is click's class, of which newer versions of typer bring a copy.
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]


@contextmanager
def terminated() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C inside this context, so that work in progress is saved."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """End an interrupted command with a message and the exit status for it.

    Args:
        message: What the user should know, in one line.

    Raises:
        SystemExit: The command was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        if is_first_process():
            say(message)
        raise SystemExit(INTERRUPTED) from None


def status_of(command: Callable[[], object]) -> int:
    """Run a command, and print an expected error as one line on standard error.

    Args:
        command: The command; a whole number that it returns is its exit status, anything else counts as 0.

    Returns:
        The exit status.

    Raises:
        Exception: The error is not an expected one.
    """
    try:
        result = command()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as done:
        return done.exit_code
    except _USAGE_ERROR as error:
        context = getattr(error, "ctx", None)
        name = getattr(context, "command_path", "advrad")
        return _fail(f"{error.format_message().rstrip('.')}; see '{name} --help'", BAD_INPUT)
    except UserError as error:
        return _fail(str(error), BAD_INPUT)
    except AdvradError as error:
        return _fail(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        say("advrad: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        give_up_stdout()  # the program that reads our output has ended
        return 0
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            give_up_stdout()
        return _fail(f"{error.filename or 'standard output'}: {explain(error)}", BAD_INPUT)
    except Exception as error:
        if is_out_of_memory(error):
            return _fail("there is not enough memory; use smaller images, or a smaller --size or --batch-size", FAILED)
        raise


def _fail(message: str, status: int) -> int:
    say(f"advrad: error: {printable(' '.join(message.split()))}")
    return status
