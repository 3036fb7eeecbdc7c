"""The table of products: a CSV file with one row for each, checked as a whole before anything is trained."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from advrad.errors import ConfigError, DataError
from advrad.exporting.options import ExportOptions
from advrad.training.option_checks import check_options
from advrad.training.options import RunOptions
from advrad.utils.imports import is_file_name

#: Forms of an export.
ExportForm = Literal["openvino", "onnx"]

#: Columns that are no options of a training.
NAME, FOLDER, EXPORT, REPORT = "name", "folder", "export", "report"
#: What a name may be: it becomes the name of a folder, and of a product of the service.
_NAME = re.compile(r"\w[\w .+()-]{0,98}\w|\w")
#: Most bytes of a name: names of files take 255, and ends such as ``.html`` are added to it.
_MOST_BYTES = 240
#: Words for a flag.
_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class TableError(ConfigError):
    """A table of products cannot be used.

    Args:
        path: The table.
        problems: What is wrong, one line for each place.

    Example:
        >>> str(TableError(Path("table.csv"), ["line 2, column name: is empty"]))
        'table.csv: line 2, column name: is empty'
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        shown = [_one_line(problem) for problem in problems]
        super().__init__(f"{path}: {'; '.join(shown)}")
        self.path, self.problems = path, shown


def _one_line(text: str) -> str:
    r"""A text with line ends and other characters that cannot be shown as escapes, such as ``\n``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@dataclass(frozen=True, slots=True)
class Product:
    """A row of the table.

    Attributes:
        name: Name of the product.
        data: Folder of its images, or a datamodule in a Python file.
        options: Options of its training.
        export: Form in which the detector is exported; None for no export.
        report: Whether an HTML report is written where there are test images.
        line: Line of the row in the table, from 1.
        columns: Fields of the options by name of the column, where the two differ; for messages.

    Example:
        >>> Product("bottle", Path("images/bottle")).export is None
        True
    """

    name: str
    data: Path
    options: RunOptions = field(default_factory=RunOptions)
    export: ExportForm | None = None
    report: bool = False
    line: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)

    def column_of(self, option: str) -> str:
        """Name under which an option is known to who wrote the table: that of its column.

        Args:
            option: Name of the field.
        """
        return next((column for column, name in self.columns.items() if name == option), option)

    @property
    def settings(self) -> dict[str, Any]:
        """Options that decide how its model is made, as plain JSON values."""
        return self.options.model_dump(mode="json")


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a product; None for a name that can be used.

    Args:
        name: The name.

    Example:
        >>> name_problem("bolt M6") is None, name_problem("../bolt") is None
        (True, False)
    """
    if not name:
        return "is empty; give each product a name"
    if _NAME.fullmatch(name) is None:
        return "is the name of a folder, too: use at most 100 letters, digits and . - _ + ( ), and no slash"
    if (size := len(name.encode())) > _MOST_BYTES:
        return f"is the name of a folder, too, and takes {size} bytes of at most {_MOST_BYTES}; use fewer letters"
    return None


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> tuple[Product, ...]:
    r"""Read a table of products, and check all of it.

    The first line names the columns: ``name``, ``folder`` (relative to the table's folder), ``export`` (empty,
    ``openvino`` or ``onnx``), ``report`` (``yes`` or ``no``), and any options of a training. An empty field stands for
    the default. Fields are separated by commas or by semicolons, as spreadsheets write them.

    Args:
        path: CSV file, UTF-8.
        columns: Field of :class:`advrad.training.options.RunOptions` or of its data options by name of its column; None
            where the columns are called as the fields.

    Returns:
        The products in the order of the table.

    Raises:
        DataError: The file cannot be read.
        TableError: A column is unknown or missing, or an entry is wrong. It names each of them.

    Example:
        >>> _ = Path("table.csv").write_text("name,folder,seed\nbottle,.,3\n", encoding="utf-8")
        >>> [(product.name, product.options.seed) for product in read_table(Path("table.csv"))]
        [('bottle', 3)]
    """
    path = Path(path)
    names = {name: name for name in RunOptions.flat_fields()} if columns is None else dict(columns)
    rows = _rows(path)
    head, lines = rows[0][1], rows[1:]
    if problems := _wrong_columns(head, names):
        raise TableError(path, problems)
    if not lines:
        raise TableError(path, ["holds no product; add one row for each below the names of the columns"])
    products: list[Product] = []
    taken: dict[str, int] = {}
    for line, fields in lines:
        if len(fields) > len(head):
            problems.append(f"line {line}: has {len(fields)} fields, but there are {len(head)} columns; mend the row")
            continue
        entries = dict(zip(head, (*fields, *[""] * (len(head) - len(fields))), strict=True))
        made = _Row(path.parent, line, entries, names, taken)
        products.append(made.product())
        problems += made.problems
    if problems:
        raise TableError(path, problems)
    return tuple(products)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line on which it begins; the first names the columns."""
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=";" if ";" in first and "," not in first else ",", strict=True)
            for row in reader:
                if any(map(str.strip, row)):
                    rows.append((line, [field.strip() for field in row]))
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not a text in UTF-8 ({error.reason}); save the table as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {line}: {error}; save the table as CSV again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    if not rows:
        raise DataError(f"{path}: is empty; the first line names the columns, such as {NAME},{FOLDER}")
    return rows


def _wrong_columns(head: list[str], names: Mapping[str, str]) -> list[str]:
    """What is wrong with the names of the columns."""
    known = {NAME, FOLDER, EXPORT, REPORT, *names}
    problems = [f"line 1: column {name} is missing" for name in (NAME, FOLDER) if name not in head]
    for column in dict.fromkeys(head):
        if not column:
            problems.append("line 1: a column has no name; name or remove it")
        elif column not in known:
            choice = ", ".join(sorted(known))
            problems.append(f"line 1: column {column} is unknown; the columns may be {choice}")
        elif head.count(column) > 1:
            problems.append(f"line 1: column {column} is there twice; remove one")
    return problems


class _Row:
    """Reads one row.

    Args:
        base: Folder of the table.
        line: Line of the row.
        entries: Entries by name of the column.
        names: Fields of the options by name of the column.
        taken: Names of the rows before, in small letters, with their lines; this one's is added.
    """

    def __init__(
        self, base: Path, line: int, entries: Mapping[str, str], names: Mapping[str, str], taken: dict[str, int]
    ) -> None:
        self._base, self._line, self._entries, self._names, self._taken = base, line, entries, names, taken
        self.problems: list[str] = []

    def product(self) -> Product:
        """The product; whatever is wrong is in ``problems``."""
        export, report = self._export(), self._report()
        return Product(self._name(), self._data(), self._options(), export, report, self._line, self._names)

    def _refuse(self, column: str, words: str) -> None:
        value = self._entries.get(column, "")
        self.problems.append(f"line {self._line}, column {column}{f' {value}' if value else ''}: {words}")

    def _name(self) -> str:
        name = self._entries[NAME]
        if (words := name_problem(name)) is not None:
            self._refuse(NAME, words)
        elif (before := self._taken.setdefault(name.casefold(), self._line)) != self._line:
            self._refuse(NAME, f"is the name in line {before}, too; give each product its own")
        return name

    def _data(self) -> Path:
        text = self._entries[FOLDER]
        data = self._base / text
        if not text:
            self._refuse(FOLDER, "is empty; name the folder of the images")
        elif not is_file_name(text) and not data.is_dir():
            words = "is a file" if data.is_file() else "there is no such folder"
            self._refuse(FOLDER, f"{words} ({data}); name the folder of the images, from the table's folder on")
        return data

    def _export(self) -> ExportForm | None:
        text = self._entries.get(EXPORT, "")
        if not text:
            return None
        try:
            return ExportOptions.parse({"to": text}).to
        except ConfigError as error:
            self._refuse(EXPORT, error.message)
            return None

    def _report(self) -> bool:
        try:
            return _flag(self._entries.get(REPORT) or "no")
        except ConfigError as error:
            self._refuse(REPORT, error.message)
            return False

    def _options(self) -> RunOptions:
        """The options, each checked by itself, and all together if each is right."""
        fields, values, wrong = RunOptions.flat_fields(), {}, len(self.problems)
        for column, text in self._entries.items():
            if column not in self._names or not text:
                continue
            name = self._names[column]
            try:
                values[name] = _value(text, fields[name])
                RunOptions.parse({name: values[name]})
            except ConfigError as error:
                self._refuse(column, error.message)
        if len(self.problems) > wrong:
            return RunOptions()
        try:
            options = RunOptions.parse(values)
            check_options(options)
        except ConfigError as error:
            column = next((column for column, name in self._names.items() if name == error.option), error.option or "")
            if column in self._entries:
                self._refuse(column, error.message)
            else:
                self.problems.append(f"line {self._line}: {error.named(column or None)}")
            return RunOptions()
        return options


def _value(text: str, field: FieldInfo) -> str | bool:
    """An entry as the options take it: a flag, or text that they read themselves."""
    return _flag(text) if field.annotation is bool else text


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ConfigError("must be yes or no")
    return _FLAGS[text.lower()]
