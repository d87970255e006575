"""Files as text: unpacked where they are packed, in UTF-8 or UTF-16; other kinds are named."""

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from dataclasses import dataclass

from whichlayer.common import cli

# how a file begins that stands for another one, and what that is
LFS = b"version https://git-lfs.github.com/"
POINTER = "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
# the first bytes of files that are no text, and what to do with them
UNREADABLE = {
    LFS: f"is {POINTER}",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; unpack it with `zstd -d`",
    b"7z\xbc\xaf\x27\x1c": "is packed with 7-Zip; unpack it, or pack it with gzip",
    b"Rar!": "is packed with RAR; unpack it, or pack it with gzip",
    b"\xd0\xcf\x11\xe0": "is an old spreadsheet or document; save it as CSV in UTF-8",
    b"SQLite format 3\0": "is a database; export the table as CSV in UTF-8",
    b"PAR1": "is a Parquet file that is packed; unpack it",
    b"ARROW1": "is an Arrow file; save the table as Parquet or as CSV",
}
# the first bytes of files that are unpacked here
PACKINGS = {
    "zip": re.compile(rb"PK\x03\x04|PK\x05\x06"),
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9]"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
}
OPENERS = {None: open, "gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
SURROGATE = re.compile("[\ud800-\udfff]")
# those that open_text does not make
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# what may be raised where a file is read that is damaged; an OSError with a number is the system's
PACKED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
DAMAGE = (csv.Error, UnicodeError, *PACKED)
FAULTS = (cli.Problem, *DAMAGE)


@dataclass
class Text:
    """An open file, or the member of an archive, as text."""

    lines: io.TextIOWrapper  # ends of lines as they are
    name: str  # in small letters
    encoding: str  # utf-8 or utf-16
    mark: bool  # whether a byte order mark stood at its beginning


@contextlib.contextmanager
def open_text(path):
    """A context with the Text of a file; what cannot be decoded becomes surrogates."""
    with contextlib.ExitStack() as stack:
        file, name = open_bytes(path, stack)
        first = file.peek(262)
        for magic, words in UNREADABLE.items():
            if first.startswith(magic):
                raise cli.Problem(f"{path}: this {words}")
        inner = packing(first)
        if inner:
            wrong = f"this is a packed file in a packed file ({inner} in {packing_of(path)})"
            raise cli.Problem(f"{path}: {wrong}; unpack it once")
        if first[257:262] == b"ustar":
            raise cli.Problem(f"{path}: this is a tar archive; unpack it")
        encoding = "utf-8"
        decoder = "utf-8-sig"
        mark = first.startswith(b"\xef\xbb\xbf")
        if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = decoder = "utf-16"
            mark = True
        lines = io.TextIOWrapper(file, decoder, "surrogateescape", newline="")
        yield Text(lines, name.lower(), encoding, mark)


def open_bytes(path, stack):
    """(file, name) of the bytes to read, unpacked. stack: the ExitStack that will close them."""
    kind = packing_of(path)
    if kind == "zip":
        return open_member(path, stack)
    return stack.enter_context(OPENERS[kind](path, "rb")), path.name


def is_pointer(path):
    """Whether a file is a pointer of Git LFS."""
    with open(path, "rb") as file:
        return file.read(len(LFS)) == LFS


def packing_of(path):
    """How a file is packed: a key of PACKINGS, or None."""
    with open(path, "rb") as file:
        return packing(file.read(6))


def packing(first):
    """The same from its first bytes."""
    return next((kind for kind, magic in PACKINGS.items() if magic.match(first)), None)


def open_member(path, stack):
    """As open_bytes, for a zip archive, which must hold one file."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    # a place outside of the file, or a version that Python does not know
    except (OSError, ValueError, NotImplementedError) as error:
        raise unreadable(path, error) from None
    names = [name for name in archive.namelist() if is_wanted(name)]
    if "[Content_Types].xml" in names or "mimetype" in names:
        raise cli.Problem(f"{path}: this is a spreadsheet or a document; save it as CSV in UTF-8")
    if len(names) != 1:
        there = ", ".join(map(cli.quote, names[:3])) or "none"
        there += ", …" if len(names) > 3 else ""
        holds = f"this is a zip archive of {cli.count(len(names), 'file')}"
        raise cli.Problem(f"{path}: {holds} ({there}), not of one; unpack it")
    try:
        return stack.enter_context(archive.open(names[0])), names[0]
    # a password, or a way of packing that Python does not know
    except (RuntimeError, OSError, ValueError) as error:
        raise unreadable(path, error) from None


def unreadable(path, error):
    """The Problem that a zip archive cannot be read."""
    why = f"this zip archive is damaged, or cannot be read here ({error})"
    return cli.Problem(f"{path}: {why}; copy it again, or unpack it")


def is_wanted(name):
    """True for a member of an archive that is a file, and not one that a Macintosh adds."""
    return not name.endswith("/") and not re.search(r"(^|/)(__MACOSX/|\._|\.DS_Store$)", name)


def problem(path, place, error):
    """What to raise for one of FAULTS: a Problem, but where the system failed. place: what was
    being read, in words.
    """
    # it names the file already, or one in the folder
    if str(error).startswith(str(path)):
        return error
    if isinstance(error, cli.Problem):
        return cli.Problem(f"{path}: {place} {error}")
    # such as a disk that is not there any more
    if isinstance(error, OSError) and error.errno is not None:
        return error
    hint = "copy or save the file again"
    if isinstance(error, csv.Error):
        hint = f"look for a quote that is not closed, or {hint}"
    return cli.Problem(f"{path}: damaged near {place} ({error}); {hint}")


# --- what is no text ------------------------------------------------------------------------------


def fault(text):
    """What keeps a text from being one, or None."""
    if "\0" in text:
        return "a NUL byte"
    if text.isascii() or not SURROGATE.search(text):
        return None
    if HALF.search(text):
        return "half of a surrogate pair, which is no character"
    return "bytes that are not UTF-8"


def check_text(text):
    """Refuse what has been decoded, but is no text."""
    wrong = fault(text)
    if wrong and wrong.startswith("half"):
        raise cli.Problem(f"holds {wrong}; write the whole pair, or leave it out")
    if wrong:
        raise cli.Problem(f"holds {wrong}; save the file as CSV in UTF-8")
