"""Titles: find or download, read, check."""

import array
import contextlib
import csv
import gzip
import hashlib
import http.client
import io
import itertools
import json
import re
import time
import types
import unicodedata
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
import disk

# a title may be longer than the 128 kB that Python reads unasked
csv.field_size_limit(1 << 30)
HERE = Path(__file__).resolve().parent
YOUTUBE_SHA256 = "97ae8e26fa727faabbb9713b0b6eaeacd71e119eddfa5803e9e9c8865403aada"
YOUTUBE_URL = (
    "https://raw.githubusercontent.com/rajatrc1705/DS_ML_Projects/"
    "41e03270cc2e049d514b6354b1dd20e365c89d30/Youtube%20Classification/youtube.csv"
)


def find_titles(data):
    """The path of the titles that `--data` names: youtube (downloaded once), sample, or a file."""
    path = Path(data)
    if data in ("youtube", "sample"):
        path = HERE / "titles" / f"{data}.csv"
    if data == "youtube" and not path.exists():
        download(YOUTUBE_URL, path, YOUTUBE_SHA256)
    elif data == "youtube" and disk.sha256(path) != YOUTUBE_SHA256:
        wrong = "not the report's data set (its sha256 differs)"
        raise cli.Problem(f"{path}: {wrong}; delete it, or give it another name")
    # a pipe can be read once only, and we read more often
    if not path.is_file():
        wrong = "there is no such file, or it is not a plain file"
        raise cli.Problem(f"--data {data}: {wrong}; name a file of titles, or use `youtube` or `sample`")
    return path


def download(url, path, checksum):
    """Download a file of a few MB with this sha256, in three attempts; whole or not at all."""
    if not re.match(r"https://|http://127\.0\.0\.1:\d+/", url):
        raise cli.Problem(f"{url}: only https addresses are downloaded")
    cli.say(f"downloading {url}")
    for attempt in range(3):
        time.sleep(attempt)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                # raises IncompleteRead where the answer is cut
                content = answer.read()
            if hashlib.sha256(content).hexdigest() == checksum:
                with disk.atomic(path) as file:
                    file.write(content)
                return
        except (OSError, http.client.HTTPException) as error:  # answers such as 404 are OSErrors
            reason = error
        else:  # another file came, as it would the next time
            is_page = b"<html" in content[:512].lower()
            kind = "a web page (a proxy or a login?)" if is_page else "wrong"
            reason = f"what came is {kind}, its sha256 differs"
            break
    remedy = f"fetch it by hand from {url} and save it as {path}"
    raise cli.Problem(f"download failed ({reason}); {remedy}, or elsewhere and pass that file to --data")


def read_table(path, columns):
    """Yield the header of a file of titles, then (row number, cells) for each row, from row 1 on.

    CSV with commas, semicolons, tabs or pipes, or JSON Lines (see json_rows) if the name says
    .jsonl; UTF-8, UTF-16 with a byte order mark, and gzip. `columns` must be in the header.
    Whatever is wrong is a Problem that names the row.
    """
    # what is being read, for whatever goes wrong there
    place = "the first line"
    try:
        with open_text(path) as text:
            table = split_cells(text, Path(path).suffixes, columns)
            header = next(table)
            check_header(header, columns)
            yield header
            place = "row 1"
            read = [header.index(column) for column in columns]
            # blank lines do not count
            for row, cells in enumerate(filter(None, table), 1):
                if len(cells) != len(header):
                    there = f"{len(cells)}, not {len(header)} cells"
                    raise cli.Problem(f"has {there}; look for a missing quote")
                for number in read:
                    check_text(cells[number])
                yield row, cells
                place = f"row {row + 1}"
    except cli.Problem as error:
        raise cli.Problem(f"{path}: {place} {error}") from None
    except (csv.Error, UnicodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        hint = "look for a quote that is not closed, or copy or save the file again"
        raise cli.Problem(f"{path}: damaged near {place} ({error}); {hint}") from None


@contextlib.contextmanager
def open_text(path):
    """Open text, zipped or not, in UTF-8 or UTF-16; what cannot be decoded becomes surrogates."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if zipped else open
    with opener(path, "rb") as file:
        encoding = "utf-16" if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        yield io.TextIOWrapper(file, encoding, "surrogateescape", newline="")


def split_cells(text, suffixes, columns):
    """An iterator over rows, lists of cells. suffixes: of the file's name; columns: to look for."""
    first = text.readline()
    if not first.strip():
        raise cli.Problem("is empty; it must hold the column names")
    check_text(first)
    lines = itertools.chain([first], text)
    if ".jsonl" in suffixes:
        return json_rows(lines, columns)

    # the delimiter with which the first line names the columns, or else with which it names most
    def fitness(delimiter):
        names = next(csv.reader([first], delimiter=delimiter), [])
        return set(columns) <= set(names), len(names)

    likely = "\t,;|" if ".tsv" in suffixes else ",;\t|"
    return csv.reader(lines, delimiter=max(likely, key=fitness), strict=True)


def json_rows(lines, columns):
    """Yield the keys of the first of the JSON objects on these lines, then each object's cells.

    What is no text becomes its JSON text (but no list or object in `columns`); null or a missing
    key becomes an empty cell.
    """
    header = None
    for line in filter(str.strip, lines):
        try:
            # NaN is how some write null
            item = json.loads(line, parse_constant=lambda name: None)
        except (ValueError, RecursionError):
            item = None
        nested = (isinstance(item.get(key), dict | list) for key in columns)
        if not isinstance(item, dict) or any(nested):
            raise cli.Problem("is not a JSON object with a text in each column; write one on each line")
        if header is None:
            header = list(item)
            yield header
        cells = ["" if item.get(key) is None else item[key] for key in header]
        yield [cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]


def check_header(header, columns):
    """Refuse a header that does not name each of the columns once."""
    for column in columns:
        if header.count(column) != 1:
            there = ", ".join(repr(name[:60]) for name in header[:20])
            there += ", …" if len(header) > 20 else ""
            hint = "pass --text-column and --label-column"
            raise cli.Problem(f"must name the column {column!r} once; it names {there}; {hint}")


def check_text(text):
    """Refuse what has been decoded, but is no text."""
    if fault(text):
        raise cli.Problem(f"holds {fault(text)}; save the file as CSV in UTF-8")


def fault(text):
    """What keeps a text that read_table has decoded from being text, or None."""
    if "\0" in text:
        return "a NUL byte"
    # a surrogate comes from open_text, or is half of a pair in JSON
    if not text.isascii() and re.search(r"[\ud800-\udfff]", text):
        return "bytes that are not UTF-8"


def is_blank(text):
    """True where nothing is left to read: spaces and control characters only."""
    return not any(c.isprintable() and not c.isspace() for c in text)


@dataclass
class Checked:
    """What copy_titles found in a file of titles."""

    rows: int
    titles: str  # sha256 of what was written
    classes: dict[str, int]  # titles of each category, by name
    notes: list[str]  # sentences on likely mistakes


def copy_titles(path, text_column, label_column, out, least=2):
    """Check a file of titles, write titles and labels (without spaces around) to the binary file
    `out` as CSV, and return Checked. Empty cells or fewer than `least` classes are a Problem.
    """
    if text_column == label_column:
        raise cli.Problem(f"--text-column and --label-column are both {text_column!r}; name two columns")

    # copy row by row: no more than a few bytes of each row stay in memory
    hashes = array.array("q")  # of titles
    labels = array.array("i")  # numbers of categories
    numbers = {}  # by name
    empty = []  # rows that lack something
    hasher = hashlib.sha256()

    def write(text):
        hasher.update(text.encode())
        out.write(text.encode())

    # with this line terminator, returns in titles get quotes, too
    writer = csv.writer(types.SimpleNamespace(write=write), lineterminator="\r\n")
    writer.writerow(["title", "label"])
    table = read_table(path, [text_column, label_column])
    header = next(table)
    for row, cells in table:
        title = cells[header.index(text_column)]
        name = " ".join(cells[header.index(label_column)].split())
        if is_blank(title) or is_blank(name):
            empty.append(str(row))
        writer.writerow([title, name])
        hashes.append(hash(title))
        labels.append(numbers.setdefault(name, len(numbers)))

    # refuse what cannot be trained on
    if empty:
        lack = f"have no {text_column!r} or no {label_column!r}, first row {', '.join(empty[:5])}"
        where = f"{len(empty):,} of {len(labels):,} rows"
        raise cli.Problem(f"{path}: {where} {lack}; fill them in or delete them")
    if len(numbers) < least:
        none = "no category, as there is no row below the header"
        there = f"one category only ({name!r})" if numbers else none
        raise cli.Problem(f"{path}: column {label_column!r} holds {there}; at least {least} are needed")

    # what there is, and what may be a mistake
    counts = np.bincount(labels).tolist()
    classes = {name: counts[numbers[name]] for name in sorted(numbers)}
    notes = similar_names(classes) + ambiguous_titles(np.asarray(hashes), np.asarray(labels))
    return Checked(len(labels), hasher.hexdigest(), classes, notes)


def similar_names(names):
    """Sentences on the first three sets of categories that may be meant as one."""
    spellings = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        spellings.setdefault(folded, []).append(repr(name[:60]))
    alike = [" and ".join(each[:3]) for each in spellings.values() if len(each) > 1]
    differ = "differ only by case or by encoding of accents"
    return [f"categories {each} {differ}" for each in alike[:3]]


def ambiguous_titles(hashes, labels):
    """A sentence, if any, on titles with several labels. hashes, labels: (n,) int of all titles."""
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    # for each row, the first row of its title
    earlier = first[number]
    other = np.flatnonzero(labels != labels[earlier])
    if not len(other):
        return []
    titles = len(np.unique(number[other]))
    where = f"first in rows {earlier[other[0]] + 1:,} and {other[0] + 1:,}"
    return [f"titles that stand in more than one category: {titles:,}, {where}"]


def rare_categories(classes, folds):
    """A sentence on categories that have fewer titles than there are folds, or None.

    classes: {name: titles}. Each fold needs a title of every category.
    """
    rare = sorted((number, name) for name, number in classes.items() if number < folds)
    if not rare:
        return None
    named = [f"{name[:60]!r} {number}" for number, name in rare[:5]]
    if len(rare) > len(named):
        named.append("…")
    have = "have" if len(rare) > 1 else "has"
    lack = f"{len(rare):,} of {len(classes):,} categories {have} fewer titles than {folds} folds need"
    them = "them" if len(rare) > 1 else "it"
    remedy = f"merge or drop {them} in the file of titles and run extract.py again"
    # features of the titles that stay are kept
    cost = "which takes seconds"
    fewest = rare[0][0]
    if fewest > 1:
        cost += f", or train with --folds {fewest}"
    return f"{lack}: {', '.join(named)}; {remedy}, {cost}"
