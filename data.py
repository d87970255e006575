"""Titles: find or download, read, check."""

import array
import hashlib
import http.client
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex  # comes with transformers

from whichlayer.common import cli, disk, windows
from whichlayer.reading import formats, tables

HERE = Path(__file__).resolve().parent
YOUTUBE_SHA256 = "97ae8e26fa727faabbb9713b0b6eaeacd71e119eddfa5803e9e9c8865403aada"
YOUTUBE_URL = (
    "https://raw.githubusercontent.com/rajatrc1705/DS_ML_Projects/"
    "41e03270cc2e049d514b6354b1dd20e365c89d30/Youtube%20Classification/youtube.csv"
)
# spaces, control and format characters, which leave nothing to read
BLANK = regex.compile(r"[\p{Z}\p{Cc}\p{Cf}]*")


def find_titles(data):
    """The path of the titles that an option names: youtube (downloaded once), sample, a file, or a
    folder of Parquet files.
    """
    path = Path(data)
    if data in ("youtube", "sample"):
        path = HERE / "titles" / f"{data}.csv"
    if data == "youtube" and not path.exists():
        download(YOUTUBE_URL, path, YOUTUBE_SHA256)
    elif data == "youtube" and disk.sha256(path) != YOUTUBE_SHA256:
        raise cli.Problem(f"{path}: not the report's data set (its sha256 differs); give it another name")
    # a pipe can be read once only, and we read more often
    if not path.is_file() and not path.is_dir():
        wrong = "there is no such file, or it is not a plain file; name one, or use `youtube` or `sample`"
        raise cli.Problem(f"{data}: {wrong}")
    return path


def download(url, path, checksum):
    """Download a file of a few MB with this sha256; whole or not at all."""
    cli.say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            # raises IncompleteRead where the answer is cut
            content = answer.read()
        # it may be the page of a proxy
        if hashlib.sha256(content).hexdigest() != checksum:
            raise OSError("what came is something else, its sha256 differs")
        with disk.atomic(path) as file:
            file.write(content)
    except (OSError, http.client.HTTPException) as error:  # answers such as 404 are OSErrors
        remedy = f"try again, or fetch it by hand from {url} and pass that file to --data"
        raise cli.Problem(f"download failed ({error}); {remedy}") from None


# --- checks ---------------------------------------------------------------------------------------


def is_blank(text):
    """Whether nothing is left to read."""
    return BLANK.fullmatch(text) is not None


@dataclass
class Checked:
    """What copy_titles found in a file of titles."""

    rows: int
    titles: str  # sha256 of what was written
    classes: dict[str, int]  # titles of each category, by name
    notes: list[str]  # sentences on likely mistakes


def copy_titles(path, text_column, label_column, out, group_column=None, least=2):
    """Check a file of titles, write titles and labels (without spaces around), and what group_column
    holds, if one is named, to the binary file `out` as CSV, and return Checked. Titles or labels
    that are empty, fewer than `least` classes, and classes of one title each, from which nothing
    can be learned, are a Problem.
    """
    columns = [name for name in (text_column, label_column, group_column) if name is not None]
    if len(set(columns)) < len(columns):
        named = cli.listing(map(cli.quote, columns))
        raise cli.Problem(f"--text-column, --label-column and --group-column must differ; they name {named}")
    # a few bytes of each row stay in memory
    hashes = array.array("q")  # of titles
    labels = array.array("i")  # numbers of categories
    numbers = {}  # by name
    empty = []  # rows that lack something
    hasher = hashlib.sha256()

    def write(rows):
        text = tables.as_csv(rows)
        hasher.update(text)
        out.write(text)

    write([("title", "label", "group")[: len(columns)]])
    table = tables.open_table(path, columns, others=False)
    for _, block in windows.batches_of(table.rows, windows.WINDOW):
        rows = [(title, " ".join(label.split()), *group) for title, label, *group in block]
        write(rows)
        for title, name, *_ in rows:
            hashes.append(hash(title))
            labels.append(numbers.setdefault(name, len(numbers)))
            if is_blank(title) or is_blank(name):
                empty.append(len(labels))

    if empty:
        names = f"no {cli.quote(text_column)} or no {cli.quote(label_column)}"
        lack = f"{len(empty):,} of {len(labels):,} rows have {names}, first row"
        raise cli.Problem(f"{path}: {lack} {', '.join(map(str, empty[:5]))}; fill them in or delete them")
    counts = np.bincount(labels, minlength=len(numbers)).tolist()
    classes = {name: counts[numbers[name]] for name in sorted(numbers)}
    check_classes(f"{path}: column {cli.quote(label_column)}", classes, least)
    notes = similar_names(classes) + ambiguous_titles(np.asarray(hashes), np.asarray(labels))
    return Checked(len(labels), hasher.hexdigest(), classes, notes)


def check_classes(where, classes, least):
    """Refuse a column from whose categories nothing can be learned. classes: {name: titles}."""
    most = max(classes.values(), default=0)
    if len(classes) < least or most < least:
        holds = f"{cli.count(len(classes), 'different value')} in {cli.count(sum(classes.values()), 'row')}"
        needed = f"at least {least}, one of them in {least} rows"
        raise cli.Problem(f"{where} holds {holds}; needed: {needed}; name another --label-column")


def similar_names(names):
    """Sentences on the first three sets of categories that may be meant as one."""
    alike = {}
    for name in names:
        alike.setdefault(formats.folded(name).casefold(), []).append(name)
    # what is not seen is escaped, as that may be what differs
    named = [cli.listing([repr(name[:60]) for name in same[:3]]) for same in alike.values() if len(same) > 1]
    return [f"categories {names} differ only by how they are written" for names in named[:3]]


def ambiguous_titles(hashes, labels):
    """A sentence, if any, on titles with several labels. hashes, labels: (n,) int of all titles."""
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    # for each row, the first row of its title
    earlier = first[number]
    other = np.flatnonzero(labels != labels[earlier])
    if not len(other):
        return []
    titles = len(np.unique(hashes[other]))
    where = f"first in rows {earlier[other[0]] + 1:,} and {other[0] + 1:,}"
    return [f"titles that stand in more than one category: {titles:,}, {where}"]


def rare_categories(classes, folds):
    """A sentence on categories that have fewer titles than there are folds, or None.

    classes: {name: titles}. Each fold needs a title of every category.
    """
    rare = sorted((number, name) for name, number in classes.items() if number < folds)
    if not rare:
        return None
    named = ", ".join(f"{cli.quote(name)} {number}" for number, name in rare[:5])
    part = f"{len(rare):,} of {len(classes):,} categories, with fewer titles than {folds} folds need"
    # features of the titles that stay are kept
    remedy = "merge or drop such in the file of titles and run extract.py again, or train with fewer --folds"
    return f"too rare: {part}, such as {named}; {remedy}"
