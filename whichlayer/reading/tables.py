"""Tables of texts from a file, row by row; what cannot be read is a cli.Problem of one line."""

import contextlib
import csv
import errno
import io
import json
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whichlayer.common import cli, disk
from whichlayer.common.windows import WINDOW, batches_of
from whichlayer.reading import formats

# what reading a damaged file may raise; an OSError with a number is the system's
DAMAGE = (EOFError, OSError, RuntimeError, ValueError, OverflowError)
DAMAGE += (csv.Error, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Table:
    """A table that is open for reading, once."""

    header: list[str]  # names of the columns, as they are written
    places: list[int]  # of the columns that were asked for
    form: formats.Form
    rows: Iterator  # tuples of str


def open_table(path, columns, others=True):
    """The Table in a file, or in a folder of Parquet files.

    CSV with commas, semicolons, tabs or pipes, in UTF-8 or, with a byte order mark, UTF-16; JSON
    Lines and JSON arrays; packed with gzip, bzip2, xz or zip; Parquet. What it is shows in what it
    holds. `columns` must be in its header; without `others`, the table has these alone.
    """
    path = Path(path)
    with reported(path):
        parts = disk.parts_of(path)
        if not parts:
            raise cli.Problem("this is a folder without *.parquet files in it")
        is_parquet = path.is_dir() or formats.first_bytes(path).startswith(b"PAR1")
        source = formats.open_parquet(parts) if is_parquet else formats.open_text(path, columns)
        wrong = fault("".join(source.header))
        if wrong:
            raise cli.Problem(f"the header holds {wrong}; save the file as CSV in UTF-8")
        places = [place_of(column, source.header) for column in columns]
        kept = list(range(len(source.header))) if others else places
        header = [source.header[place] for place in kept]
        places = list(map(kept.index, places))
        return Table(header, places, source.form, rows_of(path, source.rows(kept), header, places))


def place_of(column, header):
    """The place of a column in the header, which must name it once, however accents and spaces are
    encoded.
    """
    names = list(map(formats.folded, header))
    name = formats.folded(column)
    if names.count(name) != 1:
        there = ", ".join(map(cli.quote, header[:20])) or "none, as it is empty"
        must = f"the header must name the column {cli.quote(column)} once; its first names are {there}"
        raise cli.Problem(f"{must}; pass --text-column and --label-column")
    return names.index(name)


def rows_of(path, rows, header, places):
    """Yield the rows with texts as cells, which are checked column by column, some rows at a time."""
    with reported(path):
        for number, block in batches_of(rows, WINDOW):
            first = number * WINDOW + 1
            columns = zip(*block, strict=True)
            checked = [texts_of(cells, header[i], first, i in places) for i, cells in enumerate(columns)]
            yield from zip(*checked, strict=True)


def texts_of(cells, name, first, is_asked):
    """The cells of a column as texts; what is none is a Problem.

    name: of the column; first: number of the first row; is_asked: a list or an object is no text.
    """
    kinds = set(map(type, cells))
    texts = cells if kinds == {str} else list(map(as_text, cells))
    if (is_asked and kinds & {list, dict}) or fault("".join(texts)):
        for row, (cell, text) in enumerate(zip(cells, texts, strict=True), first):
            wrong = "a list or an object" if is_asked and isinstance(cell, list | dict) else fault(text)
            if wrong:
                where = f"row {row:,}: the column {cli.quote(name)} holds {wrong}, which is no text"
                raise cli.Problem(f"{where}; save the file as CSV in UTF-8, or leave that out")
    return texts


def as_text(value):
    """A value as the text of a cell: empty for null and not-a-number, JSON for what is nested."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=as_text)
    # a date, for example
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def fault(text):
    """What keeps a text from being one, or None."""
    if "\0" in text:
        return "a NUL byte"
    if not text.isascii() and SURROGATE.search(text):
        return "bytes that are not UTF-8, or half of a surrogate pair"
    return None


@contextlib.contextmanager
def reported(path):
    """Have whatever is raised while a file is read become a Problem that names it."""
    try:
        yield
    except cli.Problem as error:
        raise cli.Problem(f"{path}: {error}") from None
    except DAMAGE as error:
        # such as a disk that is not there any more; a wrong place in an archive is damage
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        why = f"damaged, or not to be read here ({cli.one_line(error)[:200]})"
        raise cli.Problem(f"{path}: {why}; copy it again, or save it as CSV in UTF-8") from None


def as_csv(rows, delimiter=","):
    """Rows as bytes of CSV; lone signs of both kinds, too, get quotes, as both end a line."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def escape_cell(text):
    """A cell that no spreadsheet runs: an apostrophe in front of what would be a formula. What begins
    with a sign is one if it has no space, or calls a function, another program or file.
    """
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE):
        return text
    is_formula = re.match(r"[=\t\r]|[+@-](\S*$|.*(\w\(|\||'!|\]))", text, re.DOTALL)
    return f"'{text}" if is_formula else text
