"""Options of the commands: those that several commands share, and those that are fields of an options model.

A command whose function takes an options model, such as ``options: RunOptions``, offers one option for each field. Its
name, type, default and help come from the field, so that each is written once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from advrad.data.options import WithDataOptions
from advrad.errors import ConfigError
from advrad.utils.config import Config
from advrad.utils.threads import use_threads

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_DATA = typer.Argument(
    metavar="DATA",
    help="Folder of images, or FILE.py:NAME for a datamodule in a Python file, which is executed.",
    show_default=False,
)
Data = Annotated[Path, _DATA]
OptionalData = Annotated[Path | None, _DATA]
TrainedModel = Annotated[
    Path, typer.Argument(metavar="RUN", help="Model folder of 'advrad train' or advrad.guard; exports are refused.")
]
Model = Annotated[
    Path, typer.Argument(metavar="RUN", help="Model folder of 'advrad train', or export of 'advrad export'.")
]
_ANY_DETECTOR = typer.Argument(
    metavar="RUN",
    help="Model folder or export, or FILE.py:NAME for any other detector in a Python file, which is executed.",
)
AnyDetector = Annotated[str, _ANY_DETECTOR]
DetectorWithGradients = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Model folder, or FILE.py:NAME for any other detector in a Python file, which is executed; exports are"
        " refused.",
    ),
]
ModelOrDetector = Annotated[Path, _ANY_DETECTOR]
Results = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FOLDER", help="Folder for the results.  [default: inside RUN]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Device that computes: auto (a GPU if there is one), cpu, cuda or cuda:N.")
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="torch|openvino|onnxruntime",
        help="What computes: torch for a model folder, another for an export.  [default: what RUN was made for]",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="INTEGER",
        help="Threads that compute and read images.  [default: OMP_NUM_THREADS, or the free processors, at most 8]",
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="INTEGER",
        help="Processes that work at once, each with its share of the processors.  [default: 1, or with ray as many as"
        " the machines take]",
        show_default=False,
    ),
]
TaskEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="Who does the work: processes of this machine, or a Ray cluster. ray needs the extra: pip install"
        " 'advrad[ray]'.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster that this machine belongs to: HOST:PORT, or auto.  [default: RAY_ADDRESS, or one on this"
        " machine alone]",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="INTEGER", help="Seed for all random draws.")]

#: Names of options that are not the names of their fields.
_NAMES = {
    "adversarial_eps": "--harden",
    "radii": "--radius",
    "save_images": "--save-pictures",
    "size_px": "--size",
    "source": "--denoiser",
    "sticker_px": "--sticker",
}
_METAVARS = {int: "INTEGER", float: "FLOAT", str: "TEXT"}


class Command(TyperCommand):
    """A command that shows the names of its options in the errors of the library."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and translate a parameter's name to the option's: ``size_px`` to ``--size``."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            if error.option is None:
                raise
            names = {parameter.name: max(parameter.opts, key=len) for parameter in self.params if parameter.name}
            raise ConfigError(error.named(names.get(error.option, option_name(error.option)))) from error


def add_command(
    app: typer.Typer,
    name: str | None = None,
    *,
    only: Collection[str] | None = None,
    defaults: Mapping[str, object] | None = None,
    shown_defaults: Mapping[str, object] | None = None,
    computes: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a decorator that adds a function to an app as a command.

    A parameter of the function that is annotated with an options model becomes one option for each field.

    Args:
        app: App to add the command to.
        name: Name of the command; None for the function's.
        only: Names of the fields that become options; None for all.
        defaults: Defaults that differ from those of the models, by field name.
        shown_defaults: Defaults that the library sets itself, by field name; they only appear in the help.
        computes: Whether the command computes; then it also gets the option for the number of threads.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        flat = _with_flat_options(function, only, defaults or {}, shown_defaults or {})
        app.command(name, cls=Command)(_with_threads(flat) if computes else flat)
        return function

    return decorate


def _with_flat_options(
    function: Callable[..., Any],
    only: Collection[str] | None,
    defaults: Mapping[str, object],
    shown_defaults: Mapping[str, object],
) -> Callable[..., Any]:
    """Wrap a function so that it takes the fields of its options models as parameters of its own."""
    parameters: dict[str, inspect.Parameter] = {}
    models: dict[str, tuple[type[Config], list[str]]] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        model = parameter.annotation
        if isinstance(model, type) and issubclass(model, Config):
            shown = {key: value for key, value in _fields(model).items() if only is None or key in only}
            models[name] = (model, list(shown))
            default_of = {**defaults, **shown_defaults}
            parameters |= {key: _parameter(key, value, default_of.get(key)) for key, value in shown.items()}
        else:
            parameters[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    def command(**values: Any) -> Any:
        for name, (model, fields) in models.items():
            given = {field: value for field in fields if (value := values.pop(field)) not in (None, False)}
            values[name] = model.parse({**{key: defaults[key] for key in fields if key in defaults}, **given})
        return function(**values)

    _dress(command, function, list(parameters.values()))
    return command


def _with_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that it sets the number of threads first."""

    def command(*, threads: int | None = None, **values: Any) -> Any:
        use_threads(threads)
        return function(**values)

    given = inspect.signature(function).parameters.values()
    option = inspect.Parameter("threads", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Threads)
    _dress(command, function, [*given, option])
    return command


def _dress(command: Callable[..., Any], like: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Give a wrapper the name and text of a function, and parameters for Typer to read."""
    command.__name__, command.__doc__, command.__module__ = like.__name__, like.__doc__, like.__module__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _fields(model: type[Config]) -> Mapping[str, FieldInfo]:
    """The fields of a model, those about the data set last."""
    if not issubclass(model, WithDataOptions):
        return model.model_fields
    return {name: field for name, field in model.model_fields.items() if name != "data"} | model.flat_fields()


def _parameter(name: str, field: FieldInfo, default: Any) -> inspect.Parameter:
    """The parameter of a field: a flag, or text that the model validates; not given means the model's default."""
    flag = field.annotation is bool
    option = typer.Option(
        option_name(field.alias or name),
        help=f"{field.description}{_shown_default(field, default)}",
        metavar=None if flag else _metavar(field.annotation),
        show_default=False,
    )
    kind: Any = bool if flag else str | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if flag else None,
        annotation=Annotated[kind, option],
    )


def option_name(name: str) -> str:
    """The command line's name of a Python parameter.

    Args:
        name: Name of the parameter, or of a field.

    Example:
        >>> option_name("false_alarm_rate"), option_name("size_px")
        ('--false-alarm-rate', '--size')
    """
    return _NAMES.get(name, f"--{name.replace('_', '-')}")


def _shown_default(field: FieldInfo, default: Any) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    value = default if default is not None else extra.get("when_none") if field.default is None else field.default
    return "" if value is None or value is False else f"  [default: {value}]"


def _metavar(annotation: Any) -> str:
    """The kind of value that an option takes, as its help shows it."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kind = next((kind for kind in kinds if kind is not NoneType), str)
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else _METAVARS.get(kind, "TEXT")
