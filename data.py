"""Titles: find or download, read, check."""

import array
import csv
import gzip
import hashlib
import http.client
import io
import itertools
import json
import re
import time
import unicodedata
import urllib.request
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import cli
import store

HERE = Path(__file__).resolve().parent
YOUTUBE_SHA256 = "97ae8e26fa727faabbb9713b0b6eaeacd71e119eddfa5803e9e9c8865403aada"
YOUTUBE_URL = (
    "https://raw.githubusercontent.com/rajatrc1705/DS_ML_Projects/"
    "41e03270cc2e049d514b6354b1dd20e365c89d30/Youtube%20Classification/youtube.csv"
)


def find_titles(data):
    """The path of the titles that `--data` names: youtube (downloaded once), sample, or a file."""
    path = HERE / "titles" / f"{data}.csv" if data in ("youtube", "sample") else Path(data)
    if data == "youtube" and not path.exists():
        download(YOUTUBE_URL, path, YOUTUBE_SHA256)
    elif data == "youtube" and store.sha256(path) != YOUTUBE_SHA256:
        raise cli.Problem(f"{path}: not the report's data set (its sha256 differs); delete it, or give it another name")
    if not path.is_file():  # a pipe can be read once only, and we read more often
        hint = "name a file of titles, or use `youtube` or `sample`"
        raise cli.Problem(f"--data {data}: there is no such file, or it is not a plain file; {hint}")
    return path


def download(url, path, checksum):
    """Download a file of a few MB that has this sha256, in three attempts; else a Problem says how to get it by hand.

    Only HTTPS is accepted, and plain HTTP from this machine itself. A failure leaves nothing at `path`.
    """
    if not re.match(r"https://|http://127\.0\.0\.1:\d+/", url):
        raise cli.Problem(f"{url}: only https addresses are downloaded")
    cli.say(f"downloading {url}")
    for attempt in range(3):
        time.sleep(attempt)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()  # raises IncompleteRead where the answer is cut
            if hashlib.sha256(content).hexdigest() == checksum:
                with store.atomic(path) as file:
                    file.write(content)
                return
            page = b"<html" in content[:512].lower()
            reason = f"what came is {'a web page (a proxy or a login?)' if page else 'wrong'}, its sha256 differs"
            break
        except (OSError, http.client.HTTPException) as error:  # time-outs and answers such as 404 are OSErrors too
            reason = error
    by_hand = f"fetch it by hand from {url} and save it as {path}, or elsewhere and pass that file to --data"
    raise cli.Problem(f"download failed ({reason}); {by_hand}")


def read_table(path, columns):
    """Yield the header of a file of titles, then (row number, cells) for each row; row 1 is the first that holds data.

    CSV with commas, semicolons, tabs or pipes between the cells, or JSON Lines (see json_rows) where the name says
    .jsonl. UTF-8 with or without a byte order mark, UTF-16 with one, and gzip are recognised. `columns` must be in the
    header. Whatever is wrong is a Problem that names the row.
    """
    place, suffixes = "the first line", Path(path).suffixes
    try:
        with open(path, "rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rb") as stream:
            wide = stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
            # what cannot be decoded passes the reader as surrogates, so that the row that holds it can be named
            text = io.TextIOWrapper(stream, "utf-16" if wide else "utf-8-sig", "surrogateescape", newline="")
            first = text.readline()
            if not first.strip():
                raise cli.Problem("is empty; it must hold the column names")
            if fault(first):
                raise cli.Problem(f"holds {fault(first)}; save the file as CSV in UTF-8")
            lines = itertools.chain([first], text)
            likely = "\t,;|" if ".tsv" in suffixes else ",;\t|"
            names = {d: next(csv.reader([first], delimiter=d), []) for d in likely}
            delimiter = max(likely, key=lambda d: (set(columns) <= set(names[d]), len(names[d])))
            table = csv.reader(lines, delimiter=delimiter, strict=True)
            if ".jsonl" in suffixes:
                table = json_rows(lines, columns)
            header = next(table)
            for column in columns:
                if header.count(column) != 1:
                    there = ", ".join(repr(name[:60]) for name in header[:20]) + ", …" * (len(header) > 20)
                    hint = "pass --text-column and --label-column"
                    raise cli.Problem(f"must name the column {column!r} once; it names {there}; {hint}")
            where = [header.index(column) for column in columns]
            yield header
            place = "row 1"
            for row, cells in enumerate(filter(None, table), 1):  # blank lines do not count
                if len(cells) != len(header):
                    raise cli.Problem(f"has {len(cells)}, not {len(header)} cells; look for a missing quote")
                for wrong in filter(None, (fault(cells[i]) for i in where)):
                    raise cli.Problem(f"holds {wrong}; save the file as CSV in UTF-8")
                yield row, cells
                place = f"row {row + 1}"
    except cli.Problem as error:
        raise cli.Problem(f"{path}: {place} {error}") from None
    except (csv.Error, UnicodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        hint = "look for a quote that is not closed, or copy or save the file again"
        raise cli.Problem(f"{path}: damaged near {place} ({error}); {hint}") from None


def json_rows(lines, columns):
    """Yield the keys of the first of the JSON objects on these lines, then for each object its texts under those keys.

    Numbers, and lists and objects outside `columns`, become their JSON text; null or a missing key is an empty cell.
    """
    header = None
    for line in filter(str.strip, lines):
        try:
            item = json.loads(line, parse_constant=lambda name: None)  # NaN is how some write null
        except (ValueError, RecursionError):
            item = None
        if not isinstance(item, dict) or any(isinstance(item.get(column), dict | list) for column in columns):
            raise cli.Problem("is not a JSON object with a text in each column; write one on each line")
        if header is None:
            yield (header := list(item))
        values = ("" if item.get(key) is None else item[key] for key in header)
        yield [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]


def fault(text):
    """What keeps a text that read_table has decoded from being text, or None."""
    if "\0" in text:
        return "a NUL byte"
    if not text.isascii() and re.search(r"[\ud800-\udfff]", text):  # from surrogateescape, or half a pair in JSON
        return "bytes that are not UTF-8"


def is_blank(text):
    """True where nothing is left to read: spaces and control characters only."""
    return not any(c.isprintable() and not c.isspace() for c in text)


def copy_titles(path, text_column, label_column, out, least=2):
    """Check a file of titles and write its titles and labels to the binary file `out`, as CSV, in bounded memory.

    Returns {"rows", "titles" (sha256 of what was written), "classes" (name: count, by name), "notes" (see doubts)}.
    Labels lose the spaces around them, titles stay as they are. Empty titles or labels, or fewer than `least` classes,
    are a cli.Problem.
    """
    if text_column == label_column:
        raise cli.Problem(f"--text-column and --label-column are both {text_column!r}; name two columns")
    titles, labels = array.array("q"), array.array("i")  # of each row: the hash of its title, the number of its class
    rows, numbers, empty, hasher = 0, {}, [], hashlib.sha256()

    def write(line):
        hasher.update(line.encode())
        out.write(line.encode())

    writer = csv.writer(SimpleNamespace(write=write), lineterminator="\r\n")  # then returns in titles get quotes, too
    writer.writerow(["title", "label"])
    table = read_table(path, [text_column, label_column])
    text, label = map(next(table).index, [text_column, label_column])
    for rows, cells in table:
        title, name = cells[text], " ".join(cells[label].split())
        if is_blank(title) or is_blank(name):
            empty.append(str(rows))
        writer.writerow([title, name])
        titles.append(hash(title))
        labels.append(numbers.setdefault(name, len(numbers)))
    if empty:
        where = f"{len(empty):,} of {rows:,} rows have no {text_column!r} or no {label_column!r}"
        raise cli.Problem(f"{path}: {where}, first row {', '.join(empty[:5])}; fill them in or delete them")
    if len(numbers) < least:
        there = f"one category only ({name!r})" if rows else "no category, as there is no row below the header"
        raise cli.Problem(f"{path}: column {label_column!r} holds {there}; at least {least} are needed")
    classes = dict(sorted(zip(numbers, np.bincount(labels).tolist(), strict=True)))
    notes = doubts(classes, np.asarray(titles), np.asarray(labels))
    return {"rows": rows, "titles": hasher.hexdigest(), "classes": classes, "notes": notes}


def doubts(names, titles, labels):
    """A few sentences on categories that may be meant as one, and on titles, (n,) int64 hashes, with several labels."""
    alike = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(repr(name[:60]))
    groups = [" and ".join(names[:3]) for names in alike.values() if len(names) > 1]
    notes = [f"categories {group} differ only by case or by encoding of accents" for group in groups[:3]]
    _, first, number = np.unique(titles, return_index=True, return_inverse=True)
    other = np.flatnonzero(labels != labels[first[number]])  # rows whose title stood in another category before
    if len(other):
        several, rows = len(np.unique(number[other])), (first[number[other[0]]] + 1, other[0] + 1)
        notes.append(
            f"titles that stand in more than one category: {several:,}, first in rows {rows[0]:,} and {rows[1]:,}"
        )
    return notes
