"""Titles: find or download, read, check."""

import array
import hashlib
import http.client
import re
import time
import types
import unicodedata
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.reading import records, tables, unpack

HERE = Path(__file__).resolve().parent
YOUTUBE_SHA256 = "97ae8e26fa727faabbb9713b0b6eaeacd71e119eddfa5803e9e9c8865403aada"
YOUTUBE_URL = (
    "https://raw.githubusercontent.com/rajatrc1705/DS_ML_Projects/"
    "41e03270cc2e049d514b6354b1dd20e365c89d30/Youtube%20Classification/youtube.csv"
)
# kinds of characters that leave nothing to read: spaces, control and format characters
BLANK = ("Zs", "Zl", "Zp", "Cc", "Cf")


def find_titles(data):
    """The path of the titles that `--data` names: youtube (downloaded once), sample, a file, or a
    folder of Parquet files.
    """
    path = Path(data)
    if data in ("youtube", "sample"):
        path = HERE / "titles" / f"{data}.csv"
    if data == "youtube" and not path.exists():
        download(YOUTUBE_URL, path, YOUTUBE_SHA256)
    elif data == "youtube" and disk.sha256(path) != YOUTUBE_SHA256:
        wrong = "not the report's data set (its sha256 differs)"
        raise cli.Problem(f"{path}: {wrong}; delete it, or give it another name")
    # a pipe can be read once only, and we read more often
    if not path.is_file() and not records.parquet_parts(path):
        wrong = "there is no such file, or it is not a plain file"
        if path.is_dir():
            wrong = "this is a folder without *.parquet in it, not a plain file"
        remedy = "name a file of titles, or use `youtube` or `sample`"
        raise cli.Problem(f"--data {data}: {wrong}; {remedy}")
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

    The files are those that tables.open_table reads; `columns` are in the header by these names.
    """
    table = tables.open_table(path, columns)
    header = list(table.header)
    for place, column in zip(table.places, columns, strict=True):
        header[place] = column
    yield header
    yield from table.rows


def fault(text):
    """What keeps a text from being one, or None."""
    return unpack.fault(text)


def is_blank(text):
    """True where nothing is left to read: spaces, control and format characters only."""
    return all(unicodedata.category(c) in BLANK for c in text)


@dataclass
class Checked:
    """What copy_titles found in a file of titles."""

    rows: int
    titles: str  # sha256 of what was written
    classes: dict[str, int]  # titles of each category, by name
    notes: list[str]  # sentences on likely mistakes, and on how the file was read
    words: int = 0  # of all titles, as spaces part them
    characters: int = 0  # of these words


def copy_titles(path, text_column, label_column, out, least=2):
    """Check a file of titles, write titles and labels (without spaces around) to the binary file
    `out` as CSV, and return Checked. Empty cells or fewer than `least` classes are a Problem.
    """
    text_name = cli.quote(text_column)
    label_name = cli.quote(label_column)
    if text_column == label_column:
        raise cli.Problem(f"--text-column and --label-column are both {text_name}; name two columns")

    # copy row by row: no more than a few bytes of each row stay in memory
    hashes = array.array("q")  # of titles
    labels = array.array("i")  # numbers of categories
    numbers = {}  # by name
    empty = []  # rows that lack something
    words = 0
    characters = 0
    hasher = hashlib.sha256()

    def write(text):
        encoded = text.encode()
        hasher.update(encoded)
        out.write(encoded)

    write_row = tables.row_writer(types.SimpleNamespace(write=write), tables.Form())
    write_row(["title", "label"])
    table = tables.open_table(path, [text_column, label_column], others=False)
    text, label = table.places
    for row, cells in table.rows:
        title = cells[text]
        name = " ".join(cells[label].split())
        if is_blank(title) or is_blank(name):
            empty.append(str(row))
        write_row([title, name])
        parts = title.split()
        words += len(parts)
        characters += sum(map(len, parts))
        hashes.append(hash(title))
        labels.append(numbers.setdefault(name, len(numbers)))

    # refuse what cannot be trained on
    if empty:
        lack = f"have no {text_name} or no {label_name}, first row {', '.join(empty[:5])}"
        where = f"{len(empty):,} of {len(labels):,} rows"
        raise cli.Problem(f"{path}: {where} {lack}; fill them in or delete them")
    if len(numbers) < least:
        none = "no category, as there is no row below the header"
        there = f"one category only ({cli.quote(name)})" if numbers else none
        needed = "one is needed" if least == 1 else f"at least {least} are needed"
        raise cli.Problem(f"{path}: column {label_name} holds {there}; {needed}")

    # what there is, and what may be a mistake
    counts = np.bincount(labels).tolist()
    classes = {name: counts[numbers[name]] for name in sorted(numbers)}
    doubts = similar_names(classes) + ambiguous_titles(np.asarray(hashes), np.asarray(labels))
    notes = table.notes + doubts
    return Checked(len(labels), hasher.hexdigest(), classes, notes, words, characters)


# what may make two names of one, in the order in which it is undone, with the words for it
SPELLINGS = [
    ("case or by encoding of accents", lambda name: unicodedata.normalize("NFC", name).casefold()),
    ("characters that are not seen", lambda name: "".join(filter(is_seen, name)).strip()),
    ("quotes", lambda name: name.strip("\"'“”„‘’‚«» ")),
    ("how a number is written", lambda name: re.sub(r"^(-?\d+)\.0+$", r"\1", name)),
]


def is_seen(character):
    """False for zero-width spaces, joiners, marks of direction and their like."""
    return unicodedata.category(character) not in ("Cf", "Cc")


def similar_names(names):
    """Sentences on the first three sets of categories that may be meant as one."""
    alike = {}
    for name in names:
        alike.setdefault(spellings(name)[-1], []).append(name)
    notes = []
    for each in alike.values():
        if len(each) > 1 and len(notes) < 3:
            # what is not seen is escaped, as that may be what differs
            named = cli.listing([repr(name[:60]) for name in each[:3]])
            notes.append(f"categories {named} differ only by {difference(each)}")
    return notes


def spellings(name):
    """A name after each of the SPELLINGS has been undone."""
    undone = []
    for _, undo in SPELLINGS:
        name = undo(name)
        undone.append(name)
    return undone


def difference(names):
    """What makes names differ that are one after all SPELLINGS are undone, in words."""
    steps = zip(*map(spellings, names), strict=True)
    needed = next(number for number, same in enumerate(steps) if len(set(same)) == 1)
    return SPELLINGS[needed][0]


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
    named = [f"{cli.quote(name)} {number}" for number, name in rare[:5]]
    if len(rare) > len(named):
        named.append("…")
    have = "have" if len(rare) > 1 else "has"
    part = f"{len(rare):,} of {len(classes):,} categories"
    lack = f"{part} {have} fewer titles than {folds} folds need"
    them = "them" if len(rare) > 1 else "it"
    remedy = f"merge or drop {them} in the file of titles and run extract.py again"
    # features of the titles that stay are kept
    cost = "which takes seconds"
    fewest = rare[0][0]
    if fewest > 1:
        cost += f", or train with --folds {fewest}"
    return f"{lack}: {', '.join(named)}; {remedy}, {cost}"
