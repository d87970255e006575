"""Titles: find or download, read, check."""

import array
import hashlib
import http.client
import re
import time
import unicodedata
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.reading import tables

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
    if not path.is_file() and not path.is_dir():
        wrong = "there is no such file, or it is not a plain file"
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
    """Yield `columns`, then (row number, their cells) for each row of a file of titles, from row 1
    on. The files are those that tables.open_table reads.
    """
    yield list(columns)
    for frame in tables.open_table(path, columns, others=False).frames:
        yield from zip(frame.index, frame.to_numpy().tolist(), strict=True)


# --- checks ---------------------------------------------------------------------------------------


def fault(text):
    """What keeps a text from being one, or None."""
    return tables.fault(text)


def is_blank(text):
    """True where nothing is left to read: spaces, control and format characters only."""
    return all(unicodedata.category(c) in BLANK for c in text)


@dataclass
class Checked:
    """What copy_titles found in a file of titles."""

    rows: int
    titles: str  # sha256 of what was written
    classes: dict[str, int]  # titles of each category, by name
    notes: list[str]  # sentences on likely mistakes
    words: int = 0  # of all titles, as spaces part them
    characters: int = 0  # of these words


def copy_titles(path, text_column, label_column, out, least=2):
    """Check a file of titles, write titles and labels (without spaces around) to the binary file
    `out` as CSV, and return Checked. Empty cells, fewer than `least` classes, and classes of one
    title each, from which nothing can be learned, are a Problem.
    """
    import pandas as pd

    if text_column == label_column:
        both = f"both {cli.quote(text_column)}"
        raise cli.Problem(f"--text-column and --label-column are {both}; name two columns")
    # a few bytes of each row stay in memory
    hashes = array.array("q")  # of titles
    labels = array.array("i")  # numbers of categories
    numbers = {}  # by name
    empty = []  # rows that lack something
    words = characters = 0
    hasher = hashlib.sha256()
    table = tables.open_table(path, [text_column, label_column], others=False)
    for frame in table.frames:
        titles = frame[0].tolist()
        names = [" ".join(label.split()) for label in frame[1]]
        checked = pd.DataFrame({"title": titles, "label": names}, dtype=object)
        # with both signs at the ends of lines, a lone one in a title gets quotes
        text = checked.to_csv(index=False, header=not labels, lineterminator="\r\n").encode()
        hasher.update(text)
        out.write(text)
        parts = " ".join(titles).split()
        words += len(parts)
        characters += sum(map(len, parts))
        hashes.extend(map(hash, titles))
        labels.extend(numbers.setdefault(name, len(numbers)) for name in names)
        rows = zip(frame.index, titles, names, strict=True)
        empty += [row for row, title, name in rows if is_blank(title) or is_blank(name)]

    if empty:
        names = f"no {cli.quote(text_column)} or no {cli.quote(label_column)}"
        lack = f"{len(empty):,} of {len(labels):,} rows have {names}, first row"
        raise cli.Problem(f"{path}: {lack} {', '.join(map(str, empty[:5]))}; fill them in or delete them")
    counts = np.bincount(labels, minlength=len(numbers)).tolist()
    classes = {name: counts[numbers[name]] for name in sorted(numbers)}
    check_classes(f"{path}: column {cli.quote(label_column)}", classes, least)
    notes = similar_names(classes) + ambiguous_titles(hashes, labels)
    return Checked(len(labels), hasher.hexdigest(), classes, notes, words, characters)


def check_classes(where, classes, least):
    """Refuse a column from whose categories nothing can be learned. classes: {name: titles}."""
    if len(classes) < least:
        none = "no category, as there is no row below the header"
        there = f"one category only ({cli.quote(*classes)})" if classes else none
        raise cli.Problem(f"{where} holds {there}; needed: at least {least}")
    if least > 1 and max(classes.values()) == 1:
        wrong = "no category in it has two titles, so nothing can be learned"
        raise cli.Problem(f"{where}: {wrong}; name another --label-column")


def similar_names(names):
    """Sentences on the first three sets of categories that may be meant as one."""
    alike = {}
    for name in names:
        alike.setdefault(spelling(name), []).append(name)
    several = [same for same in alike.values() if len(same) > 1]
    notes = []
    for same in several[:3]:
        # what is not seen is escaped, as that may be what differs
        named = cli.listing([repr(name[:60]) for name in same[:3]])
        notes.append(f"categories {named} differ only by how they are written")
    return notes


def spelling(name):
    """A name without what may make two of one: case, how accents are encoded, quotes, characters
    that are not seen, and 1.0 for 1.
    """
    composed = unicodedata.normalize("NFC", name).casefold()
    # zero-width spaces, joiners, marks of direction and their like
    seen = "".join(c for c in composed if unicodedata.category(c) not in ("Cf", "Cc"))
    return re.sub(r"^(-?\d+)\.0+$", r"\1", seen.strip("\"'“”„‘’‚«» "))


def ambiguous_titles(hashes, labels):
    """A sentence, if any, on titles with several labels. hashes, labels: ints of all titles."""
    import pandas as pd

    pairs = pd.DataFrame({"title": hashes, "label": labels}).drop_duplicates()
    several = pairs[pairs["title"].duplicated(keep=False)]
    if several.empty:
        return []
    first, second, *_ = several.index[several["title"] == several["title"].iloc[0]] + 1
    where = f"first in rows {first:,} and {second:,}"
    return [f"titles that stand in more than one category: {several['title'].nunique():,}, {where}"]


def rare_categories(classes, folds):
    """A sentence on categories that have fewer titles than there are folds, or None.

    classes: {name: titles}. Each fold needs a title of every category.
    """
    rare = sorted((number, name) for name, number in classes.items() if number < folds)
    if not rare:
        return None
    named = ", ".join(f"{cli.quote(name)} {number}" for number, name in rare[:5])
    more = ", …" if len(rare) > 5 else ""
    part = f"{len(rare):,} of {len(classes):,} categories, with fewer titles than {folds} folds need"
    # features of the titles that stay are kept
    remedy = "merge or drop such in the file of titles and run extract.py again, which takes seconds"
    fewest = rare[0][0]
    if fewest > 1:
        remedy += f", or train with --folds {fewest}"
    return f"too rare: {part}: {named}{more}; {remedy}"
