"""CSV, JSON and Parquet as rows: lists with a value for each column."""

import bz2
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import re
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import regex  # comes with transformers

from whichlayer.common import cli

# a title may be longer than the 128 kB that Python reads unasked
csv.field_size_limit(1 << 30)
# bytes that tell what a file is
HEAD = 1 << 20
# objects whose keys are the columns
FIRST_OBJECTS = 1 << 15
# rows of Parquet that are in memory together
BATCH = 4096
# what may stand around the first name where files were joined: a byte order mark keeps quotes from enclosing it
AROUND = '\ufeff" '
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh9": bz2.open, b"\xfd7zXZ\0": lzma.open}
# what a Macintosh adds to an archive, and folders
NO_FILE = re.compile(r"/$|(^|/)(__MACOSX/|\._|\.DS_Store$)")
# NaN is how some write null; infinity is none, and stays what is written
DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else name)


@dataclass
class Form:
    """How a table is written; commas for JSON and Parquet."""

    delimiter: str = ","
    quoting: int = csv.QUOTE_MINIMAL  # or QUOTE_NONE, where quotes are part of the text
    spaces: bool = False  # whether spaces stand between a delimiter and a quote
    mark: bool = False  # whether a byte order mark stands at the beginning


@dataclass
class Source:
    """A file that is open for reading, once."""

    header: list[str]
    form: Form
    rows: Callable  # from places in the header to an iterator of rows with the values that stand there


# --- packed files ---------------------------------------------------------------------------------


def opened(path):
    """The bytes of a file, unpacked, as an open file; how it is packed shows in its first bytes."""
    first = first_bytes(path)
    if first.startswith(b"PK\x03\x04"):
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if not NO_FILE.search(name)]
        if len(names) != 1:
            holds = f"this is a zip archive, or a spreadsheet, of {cli.count(len(names), 'file')}"
            raise cli.Problem(f"{holds}, not of one; unpack it, or save it as CSV in UTF-8")
        return archive.open(names[0])
    for magic, opener in OPENERS.items():
        if first.startswith(magic):
            return opener(path, "rb")
    return open(path, "rb")


def first_bytes(path):
    """How a file begins, as it lies on the disk."""
    with open(path, "rb") as file:
        return file.read(8)


# --- text -----------------------------------------------------------------------------------------


def open_text(path, columns):
    """The Source in a file of CSV or JSON that is to have these columns."""
    with opened(path) as file:
        head = file.read(HEAD)
    is_utf16 = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    text = head.decode(encoding, "ignore")
    lines = lines_of(path, encoding)
    if re.match(r"\s*(\{\s*[\"}]|\[\s*\{)", text):
        return open_json(lines)
    form = form_of(text, columns)
    form.mark = is_utf16 or head.startswith(b"\xef\xbb\xbf")
    rows = csv_rows(lines, form)
    header = next(rows)
    return Source(header, form, functools.partial(picked, rows))


def lines_of(path, encoding):
    """Yield the lines of a file; bytes that are no text become surrogates, which are refused later."""
    with opened(path) as file, io.TextIOWrapper(file, encoding, "surrogateescape", newline="") as lines:
        yield from lines


# --- CSV ------------------------------------------------------------------------------------------


def form_of(text, columns):
    """The Form of a CSV file. text: its beginning."""

    def fitness(delimiter):
        """Whether a header with this delimiter names the columns, and how many it names."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = list(map(folded, next(filter(None, reader), [])))
        return set(map(folded, columns)) <= set(names), len(names)

    form = Form(max(",;\t|", key=fitness))
    between = re.escape(form.delimiter)
    # between tabs and pipes, quotes are text where they enclose no cell
    enclosed = rf'(^|{between})"([^"{between}]|"")*"({between}|\r?$)'
    if form.delimiter in "\t|" and not re.search(enclosed, text, re.MULTILINE):
        form.quoting = csv.QUOTE_NONE
    spaced = rf'^[^"\r\n]*{between} +"(?!")'
    form.spaces = bool(re.search(spaced, text, re.MULTILINE))
    return form


def folded(name):
    """A name without what is not seen: how accents are encoded, which spaces there are."""
    seen = regex.sub(r"\p{Cf}", "", unicodedata.normalize("NFC", name))
    return " ".join(seen.split())


def csv_rows(lines, form):
    """Yield the cells of the header, then of each row; blank lines are none.

    Python's parser in its strict form: pandas' own fills short rows in silence, and reads on where
    a quote closes late.
    """
    options = {"delimiter": form.delimiter, "quoting": form.quoting, "skipinitialspace": form.spaces}
    reader = csv.reader(lines, strict=True, **options)
    place = "the first line"
    try:
        header = next(filter(None, reader), [])
        yield header
        ends = reader.line_num
        place = "row 1"
        for row, cells in enumerate(filter(None, reader), 2):
            # looked at more closely where something may be wrong
            over_lines = reader.line_num > ends + 1
            if len(cells) != len(header) or cells[-1] == header[-1] or over_lines:
                check_row(place, cells, header, over_lines and form.delimiter in "\t|")
            yield cells
            ends = reader.line_num
            place = f"row {row:,}"
    except csv.Error as error:
        raise cli.Problem(f"{place} cannot be read ({error}); look for a quote that is not closed") from None


def check_row(place, cells, header, may_be_rows):
    """Refuse a row of another length, the header once more, and rows that a quote has swallowed.

    may_be_rows: whether it runs over several lines of a table with tabs or pipes, which is mostly
    written without quotes.
    """
    if len(cells) != len(header):
        raise cli.Problem(f"{place} has {len(cells)}, not {len(header)} cells; look for a missing quote")
    if cells[1:] == header[1:] and cells[0].strip(AROUND) == header[0] and len(header) > 1:
        raise cli.Problem(f"{place} names the columns again; two files seem to have been joined: delete that line")
    if may_be_rows and any(re.search("[\t|]", cell) and re.search("[\r\n]", cell) for cell in cells):
        raise cli.Problem(f"{place} runs over lines that may be rows; look for a missing quote")


def picked(rows, places):
    """Yield the cells in some places of each row."""
    for cells in rows:
        yield [cells[place] for place in places]


# --- JSON -----------------------------------------------------------------------------------------


def open_json(lines):
    """The Source in JSON Lines or a JSON array; the keys of the first objects are the columns."""
    items = json_objects(lines)
    first = list(itertools.islice(items, FIRST_OBJECTS))
    header = list(dict.fromkeys(key for item in first for key in item))
    rows = cells_of(itertools.chain(first, items), header)
    return Source(header, Form(), functools.partial(picked, rows))


def cells_of(items, header):
    """Yield the cells of each object; a key that is not in the header is a Problem."""
    for row, item in enumerate(items, 1):
        if not item.keys() <= set(header):
            raise cli.Problem(f"row {row} has keys that none of the first {FIRST_OBJECTS} objects has")
        yield [item.get(key) for key in header]


def json_objects(lines):
    """Yield the objects in a file; what is none is a Problem with its row, or its place in the array."""
    place = "the array"
    try:
        items = json_items(lines)
        place = "row 1"
        for row, item in enumerate(items, 2):
            if not isinstance(item, dict):
                raise ValueError("another value")
            yield item
            place = f"row {row:,}"
    except (ValueError, RecursionError) as error:
        wrong = f"cannot be read as JSON objects with a text in each column ({error})"
        raise cli.Problem(f"{place} {wrong}; write one on each line") from None


def json_items(lines):
    """What stands in an array, which is read whole, or on each line."""
    stripped = filter(None, (line.strip("\ufeff \t\r\n") for line in lines))
    first = next(stripped, "")
    if first.startswith("["):
        return iter(DECODER.decode("\n".join([first, *stripped])))
    return map(DECODER.decode, itertools.chain([first], stripped))


# --- Parquet --------------------------------------------------------------------------------------


def open_parquet(parts):
    """The Source in Parquet files, which must have the same columns."""
    try:
        from pyarrow import parquet
    except ImportError:
        remedy = "pip install pyarrow, or save the table as CSV"
        raise cli.Problem(f"pyarrow is needed for Parquet: {remedy}") from None
    files = list(map(parquet.ParquetFile, parts))
    header = files[0].schema_arrow.names
    for part, file in zip(parts, files, strict=True):
        own = file.schema_arrow.names
        if len(set(own)) < len(own) or set(own) != set(header):
            wrong = f"two of its columns have one name, or they are not those of {parts[0].name}"
            raise cli.Problem(f"{part.name}: {wrong}")
    return Source(header, Form(), functools.partial(parquet_rows, files, header))


def parquet_rows(files, header, places):
    """Yield the values of some columns of each row."""
    names = [header[place] for place in places]
    for file in files:
        labels = class_labels(file.schema_arrow)
        for batch in file.iter_batches(BATCH, columns=names):
            values = [batch.column(name).to_pylist() for name in names]
            for place, name in enumerate(names):
                if name in labels:
                    values[place] = [labels[name].get(number, number) for number in values[place]]
            yield from zip(*values, strict=True)


def class_labels(schema):
    """{column: {number: category}} where the schema says so, as the Hugging Face hub writes it."""
    found = {}
    # others may use the key for something else
    with contextlib.suppress(ValueError, AttributeError, LookupError, TypeError):
        described = json.loads(schema.metadata[b"huggingface"])
        for name, feature in described["info"]["features"].items():
            if feature.get("_type") == "ClassLabel":
                found[name] = dict(enumerate(feature["names"]))
    return found
