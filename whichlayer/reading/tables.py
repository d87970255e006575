"""Tables of cells, as they come: CSV in its many forms, JSON, Parquet."""

import contextlib
import csv
import io
import itertools
import re
import types
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from whichlayer.common import cli
from whichlayer.reading import records, unpack

# a title may be longer than the 128 kB that Python reads unasked
csv.field_size_limit(1 << 30)
# lines that are looked at to tell what a file is, and characters of each
HEAD_LINES = 32
HEAD_CHARACTERS = 1 << 20
# a byte order mark in the middle keeps quotes from enclosing a name
AROUND = '\ufeff" '
# mostly written without quotes
UNQUOTED = "\t|"


@dataclass
class Form:
    """How a table is written as CSV; the usual way for JSON and Parquet."""

    kind: str = "csv"  # csv, json or parquet
    delimiter: str = ","
    quoting: int = csv.QUOTE_MINIMAL  # or QUOTE_ALL, or QUOTE_NONE where quotes mean nothing
    encoding: str = "utf-8"  # or utf-16
    mark: bool = False  # whether a byte order mark stands at the beginning
    line_end: str = "\r\n"
    hint: bool = False  # whether the first line names the delimiter for Excel, as in sep=;


@dataclass
class Table:
    """A table that is open for reading, once."""

    header: list[str]  # names of the columns, as they are written
    places: list[int]  # of the columns that were asked for
    form: Form
    rows: Iterator[tuple[int, list[str]]]  # (number, cells) from row 1 on; blank lines do not count
    notes: list[str] = field(default_factory=list)  # on how it was read, where that may be wrong


def open_table(path, columns, others=True):
    """The Table in a file, or in a folder of Parquet files.

    CSV with commas, semicolons, tabs or pipes, with quotes or without (see choose_quoting), in
    UTF-8 or, with a byte order mark, UTF-16; JSON Lines and JSON arrays; packed with gzip, bzip2,
    xz or zip; Parquet. What it is shows in what it holds, not in its name. `columns` must be in
    the header; where the `others` are not asked for, they may be missing. Whatever is wrong is a
    cli.Problem that names the row; in the cells of other columns, bytes that are not UTF-8 become
    surrogates.
    """
    path = Path(path)
    place = "the first line"
    try:
        parts = records.parquet_parts(path)
        if parts:
            place = "its schema"
            return open_parquet(path, parts, columns, others)
        if path.is_dir():
            raise cli.Problem(f"{path}: this is a folder without *.parquet files in it")
        head = read_head(path, columns)
        if head.form.kind == "json":
            place = "its objects"
            return open_json(path, columns, head.form)
        return open_csv(path, columns, head)
    except unpack.FAULTS as error:
        raise unpack.problem(path, place, error) from None


def open_parquet(path, parts, columns, others):
    """The Table in Parquet files."""
    names = records.parquet_names(parts)
    places = find_columns(names, columns)
    if not others:
        names = [names[place] for place in places]
        places = list(range(len(names)))
    wanted = [names[place] for place in places]
    cells = records.parquet_cells(parts, names, wanted)
    rows = checked_rows(path, cells, names, places)
    notes = []
    if len(parts) > 1:
        ends = f"{parts[0].name} to {parts[-1].name}"
        notes.append(f"{len(parts):,} files were read as one table, {ends}")
    return Table(names, places, Form("parquet"), rows, notes)


def open_json(path, columns, form):
    """The Table in JSON Lines or a JSON array, which is read twice: keys may first appear late."""
    try:
        keys = records.json_keys(path)
        places = find_columns(keys, columns)
    except cli.Problem:
        # the likeliest mistake has a way out of its own
        records.refuse_array(path)
        raise
    wanted = [keys[place] for place in places]
    rows = checked_rows(path, records.json_cells(path, keys, wanted), keys, places)
    return Table(keys, places, form, rows)


def open_csv(path, columns, head):
    """The Table in CSV."""
    form = head.form
    form.quoting, notes = choose_quoting(path, columns, head)
    cells = csv_cells(path, form, notes)
    header = next(cells, [])
    places = find_columns(header, columns)
    # how it is to be written, which makes no difference for reading
    if form.quoting == csv.QUOTE_MINIMAL and is_all_quoted(header, head):
        form.quoting = csv.QUOTE_ALL
    return Table(header, places, form, checked_rows(path, cells, header, places), notes)


def checked_rows(path, cells, header, places):
    """Yield (number, cells) of each row, from row 1 on. What is wrong is a Problem that names it.

    cells: lists of cells; places: of the columns whose text is checked.
    """
    done = 0
    columns = len(header)
    names = bare(header)
    last = set(names)
    try:
        # blank lines do not count
        for row, found in enumerate(filter(None, cells), 1):
            if len(found) != columns:
                there = f"{len(found)}, not {columns} cells"
                raise cli.Problem(f"has {there}; look for a missing quote")
            for place in places:
                text = found[place]
                if not text.isascii() or "\0" in text:
                    unpack.check_text(text)
            if found[-1].strip(AROUND).casefold() in last:
                check_no_header(found, names)
            yield row, found
            done = row
    except unpack.FAULTS as error:
        raise unpack.problem(path, f"row {done + 1}", error) from None


def bare(cells):
    """Cells in any order and case, without what may stand around names where files were joined."""
    return sorted(cell.strip(AROUND).casefold() for cell in cells)


def check_no_header(cells, names):
    """Refuse a row that names the columns again. names: theirs, bare."""
    joined = cells[0].startswith("\ufeff") or len(names) > 1
    if joined and bare(cells) == names:
        why = "two files seem to have been joined"
        raise cli.Problem(f"names the columns again; {why}: delete that line")


# --- the names of the columns ---------------------------------------------------------------------


def folded(name):
    """A column's name without what is not seen: how accents are encoded, which spaces there are,
    a byte order mark too many.
    """
    seen = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


def find_columns(header, columns):
    """The place of each column in the header; one that it does not name once is a Problem."""
    places = []
    for column in columns:
        found = places_of(column, header)
        if not found:
            found = places_of(folded(column), map(folded, header))
        if len(found) != 1:
            there = ", ".join(map(cli.quote, header[:20]))
            there += ", …" if len(header) > 20 else ""
            must = f"must name the column {cli.quote(column)} once; the names are {there}"
            raise cli.Problem(f"{must}; pass --text-column and --label-column")
        places += found
    return places


def places_of(wanted, names):
    """The places of a name among others."""
    return [place for place, name in enumerate(names) if name == wanted]


def names_all(header, columns):
    """Whether a header names all of these columns."""
    return set(map(folded, columns)) <= set(map(folded, header))


# --- CSV ------------------------------------------------------------------------------------------


@dataclass
class Head:
    """The beginning of a file of text, and what it shows."""

    lines: list[str]  # the first ones, beginning with the header
    form: Form  # without the quoting


def read_head(path, columns):
    """The Head of a file."""
    with unpack.open_text(path) as text:
        first = text.lines.readline(HEAD_CHARACTERS)
        lines = [first]
        # what is damaged below is named with its row where that is read
        with contextlib.suppress(*unpack.DAMAGE):
            lines.extend(text.lines.readline(HEAD_CHARACTERS) for _ in range(HEAD_LINES - 1))
    unpack.check_text(first)
    if records.is_json("".join(lines), text.name):
        return Head(lines, Form("json"))
    line_end = re.search(r"\r?\n?$", first)[0] or "\n"
    form = Form("csv", encoding=text.encoding, mark=text.mark, line_end=line_end)
    hint = re.fullmatch(r'"?sep=([^"\r\n]?)"?\s*', first, re.IGNORECASE)
    if hint and not hint[1]:
        raise cli.Problem("names no delimiter behind sep=; delete it, or write sep=;")
    if hint:
        form.hint = True
        form.delimiter = hint[1]
        lines = lines[1:]
    if not lines or not lines[0].strip():
        raise cli.Problem("is empty; it must hold the column names")
    if hint:
        return Head(lines, form)
    # with which the header names the columns, or else with which it names most
    likely = "\t,;|" if ".tsv" in text.name else ",;\t|"
    form.delimiter = max(likely, key=lambda delimiter: fitness(lines, delimiter, columns))
    return Head(lines, form)


def fitness(lines, delimiter, columns):
    """How well a delimiter fits the header: whether it names the columns, and how many it names."""
    names = header_names(lines, delimiter)
    return names_all(names, columns), len(names)


def header_names(lines, delimiter):
    """The names in the header, which may run over several of the lines where there are quotes."""
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error:
        return next(csv.reader(lines[:1], delimiter=delimiter), [])


def csv_cells(path, form, notes):
    """Yield the cells of each row, the header's first; add to the notes a row that may be several
    which a quote has swallowed.
    """
    with unpack.open_text(path) as text:
        if form.hint:
            text.lines.readline()
        options = {"delimiter": form.delimiter, "quoting": form.quoting, "strict": True}
        reader = csv.reader(text.lines, **options)
        # the header's
        row = -1
        lines = 0
        noted = False
        for cells in reader:
            row += bool(cells)
            if reader.line_num > lines + 1 and not noted and is_doubtful(cells, form):
                noted = True
                doubt = f"row {row:,} runs over lines that may be rows"
                notes.append(f"{doubt}; look for a missing quote")
            lines = reader.line_num
            yield cells


def is_doubtful(cells, form):
    """Whether a row over several lines may be several rows: a cell holds what ends a cell and what
    ends a line, where tabs or pipes do; elsewhere, each line has as many cells as the row.
    """
    if form.delimiter in UNQUOTED:
        return any(form.delimiter in cell and len(cell.splitlines()) > 1 for cell in cells)
    lines = form.delimiter.join(cells).splitlines()
    return all(line.count(form.delimiter) == len(cells) - 1 for line in lines)


def is_all_quoted(header, head):
    """Whether each name in the header has quotes, also where it needs none."""
    line = io.StringIO()
    form = Form(delimiter=head.form.delimiter, quoting=csv.QUOTE_ALL, line_end="")
    row_writer(line, form)(header)
    return "".join(head.lines).startswith(line.getvalue())


def choose_quoting(path, columns, head):
    """(QUOTE_MINIMAL or QUOTE_NONE, notes): whether quotes enclose cells or are part of the text.

    Tabs and pipes mostly come without quotes: there it is what makes every row have as many cells
    as the header, and where both do, rows do not run over lines. A note says what was taken where
    that matters. Commas and semicolons need quotes.
    """
    delimiter = head.form.delimiter
    if delimiter not in UNQUOTED:
        return csv.QUOTE_MINIMAL, []
    plain = next(csv.reader(head.lines[:1], delimiter=delimiter, quoting=csv.QUOTE_NONE))
    quoted = header_names(head.lines, delimiter)
    if names_all(quoted, columns) and not names_all(plain, columns):
        return csv.QUOTE_MINIMAL, []
    lines = odd = 0
    # as above
    with contextlib.suppress(*unpack.DAMAGE):
        if holds_quotes(path):
            lines, odd = count_lines(path, head.form, len(plain))
    # nothing to tell apart
    if not odd:
        return csv.QUOTE_MINIMAL, []
    why = f"row {odd:,} has one that encloses no cell, and each of {lines:,} lines is a row"
    return csv.QUOTE_NONE, [f"quotes are read as part of the text: {why}"]


def holds_quotes(path):
    """Whether there is a quote anywhere in a file."""
    with unpack.open_text(path) as text:
        # bytes, as they need no decoding
        while chunk := text.lines.buffer.read(1 << 20):
            if b'"' in chunk:
                return True
    return False


def count_lines(path, form, columns):
    """(rows, the first with a quote that encloses no cell) where each line is a row of so many
    columns if quotes are text; (0, 0) where one is not.
    """
    delimiter = form.delimiter
    # a row in which quotes enclose cells, or there are none before the text of a cell
    between = re.escape(f"{delimiter}\r\n")
    cell = f'(?:"[^"{between}]*(?:""[^"{between}]*)*"|[^"{between}][^{between}]*|)'
    whole = re.compile(f"{cell}(?:{re.escape(delimiter)}{cell})*[\r\n]*")
    odd = count = 0
    with unpack.open_text(path) as text:
        below = itertools.islice(text.lines, 2 if form.hint else 1, None)
        for line in below:
            if len(line) < 3 and not line.strip("\r\n"):
                continue
            if line.count(delimiter) != columns - 1:
                return 0, 0
            count += 1
            if not odd and '"' in line and not whole.fullmatch(line):
                odd = count
    return count, odd


def row_writer(file, form):
    """A function that writes the cells of a row to a file of text as a Form says."""
    if form.quoting == csv.QUOTE_NONE:
        # nothing can enclose them
        gaps = str.maketrans(dict.fromkeys(f"{form.delimiter}\r\n", " "))

        def write_plain(cells):
            line = form.delimiter.join(cell.translate(gaps) for cell in cells)
            file.write(line + form.line_end)

        return write_plain

    def write(line):
        file.write(line.removesuffix("\r\n") + form.line_end)

    # with both signs at the ends of lines, a lone return in a cell gets quotes
    options = {"delimiter": form.delimiter, "quoting": form.quoting, "lineterminator": "\r\n"}
    return csv.writer(types.SimpleNamespace(write=write), **options).writerow
