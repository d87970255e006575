"""Titles: find or download, read, check, copies, folds."""

import contextlib
import csv
import gzip
import hashlib
import http.client
import io
import itertools
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

import numpy as np

import cli
import store

csv.field_size_limit(1 << 30)  # a title may be longer than the 128 kB that Python reads unasked
HERE = Path(__file__).resolve().parent


YOUTUBE_SHA256 = "97ae8e26fa727faabbb9713b0b6eaeacd71e119eddfa5803e9e9c8865403aada"


YOUTUBE_URL = (
    "https://raw.githubusercontent.com/rajatrc1705/DS_ML_Projects/"
    "41e03270cc2e049d514b6354b1dd20e365c89d30/Youtube%20Classification/youtube.csv"
)


def numbered(values):
    """(n,) int64: equal values get equal numbers, in the order of their first appearance."""
    numbers = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def find_titles(data, quiet=False):
    """The path of the titles that `--data` names: youtube (downloaded once), sample, or a file."""
    if data == "sample":
        return HERE / "titles" / "sample.csv"
    if data != "youtube":
        path = Path(data)
        if path.is_dir():
            raise cli.Problem(f"--data {data}: this is a folder; name the CSV file in it")
        if not path.exists():
            raise cli.Problem(f"--data {data}: there is no such file; name a CSV file, or use `youtube` or `sample`")
        if not path.is_file():  # a pipe can be read once only, and we read more often
            raise cli.Problem(f"--data {data}: this is not a plain file; save the titles to one first")
        return path
    path = HERE / "titles" / "youtube.csv"
    if not path.exists():
        download(YOUTUBE_URL, path, YOUTUBE_SHA256, quiet)
    elif store.sha256(path) != YOUTUBE_SHA256:
        raise cli.Problem(
            f"{path}: not the report's data set (sha256 differs); delete it to download it again, or give "
            "your own file another name and pass that to --data"
        )
    return path


def download(url, path, checksum, quiet=False, tries=3, patience=1.0):
    """Download url to path if what comes has this sha256; try again after faults that pass.

    Only HTTPS is accepted, and plain HTTP from this machine itself. A failure is a Problem that says how to fetch the
    file by hand; nothing is left at `path` then.
    """
    parts = urllib.parse.urlsplit(url)
    by_hand = f"fetch it by hand from {url} and save it as {path}"
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1")):
        raise cli.Problem(f"{url}: only https addresses are downloaded")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, tries + 1):
        if attempt > 1:
            time.sleep(patience * 2 ** (attempt - 2))
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                if parts.scheme == "https" and not answer.geturl().startswith("https:"):
                    raise cli.Problem(f"{url}: redirected away from https; {by_hand}")
                size = answer.length or 0  # as announced, 0 where it is not
                hasher, head, received = hashlib.sha256(), b"", 0
                with store.atomic(path) as file, cli.progress(size or None, "B", quiet, desc=path.name) as bar:
                    while block := answer.read(1 << 16):
                        file.write(block)
                        hasher.update(block)
                        head, received = head or block[:512], received + len(block)
                        bar.update(len(block))
                    if size and received < size:
                        raise ConnectionError(f"cut after {received:,} of {size:,} bytes")
                    if hasher.hexdigest() != checksum:
                        page = b"<html" in head.lower() or b"<!doctype" in head.lower()
                        raise cli.Problem(
                            f"{url}: what came is {'a web page (a proxy or a login?)' if page else 'wrong'}"
                            f", its sha256 is not {checksum}; {by_hand}"
                        )
            return
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code}"
            if error.code < 500 and error.code != 429:
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))
    raise cli.Problem(f"{url}: download failed ({reason}); {by_hand}")


def read_table(path, columns):
    """Yield the header of a CSV or TSV file, then (row number, cells) for each row; row 1 is the one below the header.

    UTF-8 with or without a byte order mark, UTF-16 with one, gzip, and commas, semicolons, tabs or pipes between the
    cells are recognised. `columns` must be in the header. Whatever is wrong is a Problem that names the row.
    """
    row = 0
    try:
        with contextlib.ExitStack() as files:
            stream = files.enter_context(open(path, "rb"))
            if stream.peek(2)[:2] == b"\x1f\x8b":
                stream = files.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=stream)))
            wide = stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
            # bytes that are not UTF-8 pass the reader as surrogates, so that the row that holds them can be named
            text = io.TextIOWrapper(
                stream, "utf-16" if wide else "utf-8-sig", errors="strict" if wide else "surrogateescape", newline=""
            )
            first = text.readline()
            if not first.strip():
                raise cli.Problem(
                    f"{path}: the file is empty, or its first line is; it must begin with the column names"
                )
            if fault(first):
                raise cli.Problem(f"{path}: the first line holds {fault(first)}; save the file as CSV in UTF-8")
            likely = "\t" if ".tsv" in Path(path).suffixes else ","
            headers = [
                (d, next(csv.reader([first], delimiter=d), [])) for d in dict.fromkeys([likely, ",", ";", "\t", "|"])
            ]
            delimiter, header = next(
                (h for h in headers if set(columns) <= set(h[1])), max(headers, key=lambda h: len(h[1]))
            )
            for column in columns:
                if header.count(column) != 1:
                    state = "stands twice in" if column in header else "is not in"
                    options = "" if column in header else "; pass --text-column and --label-column"
                    more = f" and {len(header) - 20:,} more" if len(header) > 20 else ""
                    raise cli.Problem(
                        f"{path}: column {column!r} {state} the first line; the columns there are: "
                        f"{', '.join(repr(name[:60]) for name in header[:20])}{more}{options}"
                    )
            where = [header.index(column) for column in columns]
            yield header
            for cells in csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True):
                if row == 0 or not cells:  # the header again, or a blank line
                    row += 1 if row == 0 else 0
                    continue
                if len(cells) != len(header):
                    raise cli.Problem(
                        f"{path}: row {row} has {len(cells)} cell{'s' * (len(cells) > 1)}, the header has {len(header)}; look for "
                        "a missing quote or a stray separator there"
                    )
                for cell in (cells[i] for i in where):
                    if fault(cell):
                        raise cli.Problem(f"{path}: row {row} holds {fault(cell)}; save the file as CSV in UTF-8")
                yield row, cells
                row += 1
    except csv.Error as error:
        place = f"row {row}" if row else "the first line"
        raise cli.Problem(f"{path}: {place} cannot be read ({error}); look for a quote that is not closed") from None
    except (UnicodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise cli.Problem(f"{path}: damaged near row {row} ({error}); copy or save the file again") from None


def fault(text):
    """What keeps a text that read_table has decoded from being text, or None."""
    if "\0" in text:
        return "a NUL byte"
    if not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text):
        return "bytes that are not UTF-8"


def is_blank(text):
    """True where nothing is left to read: spaces and control characters only."""
    return not any(c.isprintable() and not c.isspace() for c in text)


def copy_titles(path, text_column, label_column, out):
    """Check a file of titles and write its titles and labels to the binary file `out`, as CSV, in bounded memory.

    Returns {"rows", "titles" (sha256 of what was written), "classes" (name: count, by name)}. Labels lose the spaces
    around them, titles stay as they are. Empty titles or labels, or fewer than two classes, are a cli.Problem.
    """
    if text_column == label_column:
        raise cli.Problem(f"--text-column and --label-column are both {text_column!r}; name two columns")
    table = read_table(path, [text_column, label_column])
    header = next(table)
    text, label = header.index(text_column), header.index(label_column)
    empty, classes, rows, hasher = {text: [], label: []}, {}, 0, hashlib.sha256()
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # so that returns and newlines in titles both get quotes
    writer.writerow(["title", "label"])
    for row, cells in itertools.chain(table, [(None, None)]):
        if row is None or buffer.tell() > 1 << 20:
            block = buffer.getvalue().encode()
            out.write(block)
            hasher.update(block)
            buffer.seek(0)
            buffer.truncate()
        if row is None:
            break
        rows = row
        name = " ".join(cells[label].split())
        for column, value in ((text, cells[text]), (label, name)):
            if is_blank(value):
                empty[column].append(row)
        classes[name] = classes.get(name, 0) + 1
        writer.writerow([cells[text], name])
    if not rows:
        raise cli.Problem(f"{path}: there is no row below the header")
    for column, found in empty.items():
        if found:
            raise cli.Problem(
                f"{path}: {len(found):,} of {rows:,} rows have nothing in column {header[column]!r}, first in "
                f"row {', '.join(map(str, found[:5]))}; fill them in or delete them"
            )
    if len(classes) < 2:
        raise cli.Problem(
            f"{path}: column {label_column!r} holds one category only ({next(iter(classes))!r}); a "
            "classifier needs two or more"
        )
    return {"rows": rows, "titles": hasher.hexdigest(), "classes": dict(sorted(classes.items()))}


def group_key(title):
    """What is left of a title after Unicode normalisation, case folding and removal of all but letters and digits.

    Titles with one key are taken for copies of one another. A title without letters and digits stands for itself.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", title).casefold())
    return "".join(c for c in folded if c.isalnum()) or title.strip()


def make_folds(labels, groups, k, seed, names=None):
    """Share titles among k folds, stratified by label, with each group in one fold.

    labels: (n,) int class of each title; groups: (n,) int group of each title. Returns (n,) int64 folds from 0 to k-1.
    Large groups are placed first, each into the fold that has fewest titles of the group's commonest class, then
    fewest titles at all; so every class is spread within one title of evenly wherever groups allow it.
    A class with fewer groups than folds is a cli.Problem: some fold could not hold it.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    classes = int(labels.max()) + 1
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    members = np.split(order, starts[1:])
    counts = np.zeros((k, classes), dtype=np.int64)
    in_class = np.bincount(np.concatenate([np.unique(labels[m]) for m in members]), minlength=classes)
    if in_class.min() < k:
        rarest = int(in_class.argmin())
        raise cli.Problem(
            f"category {names[rarest] if names else rarest!r} has {in_class.min()} distinct titles, too few for "
            f"--folds {k}; use fewer folds, or merge or drop the category"
        )
    random = np.random.default_rng([seed, k])
    members = [members[i] for i in random.permutation(len(members))]
    folds = np.empty(len(labels), dtype=np.int64)
    for group in sorted(members, key=len, reverse=True):
        share = np.bincount(labels[group], minlength=classes)
        main = int(share.argmax())
        totals = counts.sum(1)
        fold = min(range(k), key=lambda f: (counts[f, main], totals[f]))
        counts[fold] += share
        folds[group] = fold
    return folds
