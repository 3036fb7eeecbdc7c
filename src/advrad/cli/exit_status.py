"""How a command ends: every error becomes one line and an exit status, a signal saves what is in progress."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from advrad.cli.terminal import give_up_stdout, printable
from advrad.errors import AdvradError, ConfigError, UserError
from advrad.utils.files import explain

if TYPE_CHECKING:
    from types import FrameType

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


#: Options whose name on the command line is not that of the Python parameter.
_NAMES = {"size_px": "--size", "output": "-o", "radii": "--radius", "denoiser_source": "--denoiser", "source": "--from"}


def shown_option(option: str | None) -> str | None:
    """The command line's name of a Python parameter: ``--false-alarm-rate`` for ``false_alarm_rate``.

    Args:
        option: Name of the parameter; None gives None.
    """
    return option and _NAMES.get(option, f"--{option.replace('_', '-')}")


@contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C: what is in progress is saved."""

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


def status_of(command: Callable[[], object]) -> int:
    """Run a command.

    Args:
        command: returns its exit status; anything but a whole number counts as 0.

    Returns:
        The exit status; for every error that has a name one line was printed on standard error.
    """
    try:
        result = command()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as done:
        return done.exit_code
    except ConfigError as error:
        return _fail(error.named(shown_option(error.option)), BAD_INPUT)
    except UserError as error:
        return _fail(str(error), BAD_INPUT)
    except AdvradError as error:
        return _fail(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        print("advrad: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        give_up_stdout()  # whoever read our output has seen enough
        return 0
    except MemoryError:
        return _fail("there is not enough memory; use smaller images or a smaller --size or --batch-size", FAILED)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            give_up_stdout()
        return _fail(f"{error.filename or 'standard output'}: {explain(error)}", BAD_INPUT)
    except Exception as error:
        # Typer's usage errors are of a class that differs between its versions.
        if hasattr(error, "format_message"):
            message = str(error.format_message())
            if type(error).__name__ == "NoArgsIsHelpError":
                print(message, file=sys.stderr)
                return BAD_INPUT
            called = getattr(getattr(error, "ctx", None), "command_path", "advrad")
            return _fail(f"{message.rstrip('.')}; see '{called} --help'", BAD_INPUT)
        if type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
            return _fail("there is not enough memory; use a smaller --size or --batch-size", FAILED)
        raise


def _fail(message: str, status: int) -> int:
    print(f"advrad: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return status
