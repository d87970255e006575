"""Tables of texts from a file, as pandas DataFrames; what cannot be read is a cli.Problem of one line."""

import contextlib
import csv
import errno
import itertools
import json
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whichlayer.common import cli
from whichlayer.reading import formats

# rows that are in memory together
CHUNK = 1 << 15
# what reading a damaged file may raise; an OSError with a number is the system's
DAMAGE = (EOFError, OSError, RuntimeError, ValueError, OverflowError)
DAMAGE += (csv.Error, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
SURROGATE = re.compile("[\ud800-\udfff]")
# those that reading does not make of bytes
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@dataclass
class Table:
    """A table that is open for reading, once."""

    header: list[str]  # names of the columns, as they are written
    places: list[int]  # of the columns that were asked for
    form: formats.Form
    frames: Iterator  # DataFrames of str, some rows each; see frames_of


def open_table(path, columns, others=True):
    """The Table in a file, or in a folder of Parquet files.

    CSV with commas, semicolons, tabs or pipes, in UTF-8 or, with a byte order mark, UTF-16; JSON
    Lines and JSON arrays; packed with gzip, bzip2, xz or zip; Parquet. What it is shows in what it
    holds. `columns` must be in its header; without `others`, the table has these alone.
    """
    path = Path(path)
    with reported(path):
        parts = formats.parquet_parts(path)
        if path.is_dir() and not parts:
            raise cli.Problem("this is a folder without *.parquet files in it")
        source = formats.open_parquet(parts) if parts else formats.open_text(path, columns)
        check_header(source.header)
        places = [place_of(column, source.header) for column in columns]
        kept = list(range(len(source.header))) if others else places
        header = [source.header[place] for place in kept]
        places = list(map(kept.index, places))
        return Table(header, places, source.form, frames_of(path, source.rows(kept), header, places))


def check_header(header):
    """Refuse a header that is empty or no text."""
    wrong = fault("".join(header))
    if wrong:
        raise cli.Problem(f"the header holds {wrong}; save the file as CSV in UTF-8")
    if not "".join(header).strip():
        raise cli.Problem("is empty; its first line must hold the column names")


def place_of(column, header):
    """The place of a column in the header, which must name it once, however accents and spaces are
    encoded.
    """
    names = list(map(formats.folded, header))
    name = formats.folded(column)
    if names.count(name) != 1:
        there = ", ".join(map(cli.quote, header[:20])) + (", …" if len(header) > 20 else "")
        must = f"the header must name the column {cli.quote(column)} once; the names are {there}"
        raise cli.Problem(f"{must}; pass --text-column and --label-column")
    return names.index(name)


def frames_of(path, rows, header, places):
    """Yield DataFrames of str, whose columns are numbered as in the header.

    Their index is the number of the row below the header, from 1 on; blank lines do not count.
    """
    # half a second, which nobody waits for who types a title
    import pandas as pd

    first = 1
    with reported(path):
        while block := list(itertools.islice(rows, CHUNK)):
            columns = {}
            for place, values in enumerate(zip(*block, strict=True)):
                nested = (dict, list) if place in places else ()
                columns[place] = texts_of(values, header[place], first, nested)
            index = pd.RangeIndex(first, first + len(block))
            yield pd.DataFrame(columns, index, dtype=object)
            first += len(block)


def texts_of(values, name, first, nested):
    """The cells of a column as texts; what is none is a Problem.

    name: of the column; first: number of the first row; nested: types that are refused.
    """
    for row, value in enumerate(values, first):
        if isinstance(value, nested):
            kind = "an object" if isinstance(value, dict) else "a list"
            raise cli.Problem(f"row {row:,}: {cli.quote(name)} holds {kind}, not a text; write one for each title")
    texts = list(map(as_text, values))
    if fault("".join(texts)):
        row, wrong = next((row, fault(text)) for row, text in enumerate(texts, first) if fault(text))
        where = f"row {row:,} holds {wrong}, in column {cli.quote(name)}"
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
    if text.isascii() or not SURROGATE.search(text):
        return None
    return "half of a surrogate pair, which is no character" if HALF.search(text) else "bytes that are not UTF-8"


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
