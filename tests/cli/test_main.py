"""The program as a whole: help, version and wrong usage."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from trained_run import MAIN, Cli

import advrad

#: Prints the processor time of the help; other processes slow the clock on the wall.
HELP_TIMED = f"""
import atexit, time
atexit.register(lambda: print(time.process_time()))
{MAIN.replace("main()", "")}
import sys
sys.argv[1:] = ["--help"]
main()
"""


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.status, done.out.strip()) == (0, f"advrad {advrad.__version__}")


DATA = "layout category max-pixels value-range"
#: Options that scripts of users may contain.
OPTIONS = {
    "data inspect": f"{DATA} false-alarm-rate size seed json",
    "train": f"{DATA} skip-bad output minutes steps preset denoiser size seed batch-size learning-rate false-alarm-rate"
    " shape tile score optimise-for-radius harden precision features backbone resume products jobs engine address",
    "calibrate": "output false-alarm-rate norm radius score optimise-for-radius draws confidence",
    "demo": "output minutes steps size seed open",
    "predict": "output json csv threshold skip-bad certify norm radius draws confidence seed max-pixels value-range"
    " image-column jobs engine address device",
    "evaluate": f"{DATA} skip-bad json scores save seed engine device",
    "report": f"{DATA} skip-bad output seed device",
    "info": "json all",
    "attack": f"{DATA} attack norm eps budget steps restarts eot surrogate noise gradients limit from save-pictures"
    " output json size seed engine device",
    "checks": f"{DATA} norm eps steps eot limit output json size seed device",
    "curve": f"{DATA} over values attack norm eps budget steps restarts eot surrogate noise gradients limit output json"
    " size seed device",
    "certify": f"{DATA} norm radius sticker draws confidence method sigma limit size own-size output save json seed"
    " from device",
    "export": "output to precision data",
    "bench": "output data only dry-run jobs engine address",
}
COMMANDS = tuple(OPTIONS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_keeps_its_options(cli: Cli, command: str) -> None:
    shown = re.findall(r"^  (?:-\w, )?--([\w-]+)", cli(*command.split(), "--help").out, re.MULTILINE)
    everywhere = ["help"] if command == "info" else ["help", "threads"]
    assert sorted(shown) == sorted([*OPTIONS[command].split(), *everywhere])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--help")
    assert done.status == 0 and done.err == ""
    assert done.out.startswith(f"Usage: advrad {command}")
    assert f"Example: advrad {command}" in done.out


def test_the_help_of_the_program_lists_every_command_in_full(cli: Cli) -> None:
    shown = cli("--help").out
    for command in {command.split()[0] for command in COMMANDS}:
        assert f"\n  {command} " in shown
    assert "..." not in shown.partition("Commands:")[2], "a summary is too long for a line"


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", HELP_TIMED], capture_output=True, text=True, check=True)
        seconds.append(float(done.stdout.splitlines()[-1]))
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", [[], ["data"]])
def test_without_a_command_the_help_is_an_error(cli: Cli, command: list[str]) -> None:
    done = cli(*command)
    assert done.status == 2
    assert done.out == "" and done.err.startswith("Usage: advrad")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--nonsense"], "No such option"),
        (["paint"], "No such command"),
        (["train", "x", "-o", "y", "--steps", "many"], "--steps"),
        (["train", "x", "-o", "y", "--score", "best"], "choose auto, robust, paper"),
        (["train", "x", "-o", "y", "--precision", "int8"], "--precision int8"),
        (["train", "x", "-o", "y", "--steps", "1", "--minutes", "1"], "give one of them"),
        (["train", "x", "-o", "y", "--false-alarm-rate", "2"], "--false-alarm-rate 2"),
        (["data", "inspect", ".", "--layout", "zip"], "--layout zip: is unknown"),
        (["data", "inspect", ".", "--max-pixels", "-1"], "--max-pixels -1: must be"),
        (["data", "inspect", "--size", "8", "."], "--size"),
        (["train"], "Missing option '-o'"),
        (["predict", "x", "y", "--radius", "0.1"], "--radius: can only be used with certification; add --certify"),
        (["attack", "x", "y", "--attack", "transfer"], "--from"),
        (["attack", "x", "y", "--noise", "loud"], "--noise loud: is unknown; choose unknown, known"),
        (["curve", "x", "y", "--values", ","], "--values: holds no value"),
        (["certify", "x", "y", "--draws", "some"], "--draws some: must be a valid integer"),
        (["bench", "x.toml", "-o", "y"], "there is no such file"),
    ],
)
def test_wrong_usage_gives_one_line_and_status_2(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli(*arguments)
    assert done.status == 2
    assert words in done.one_error_line()
    assert done.out == ""
