"""The bytes of a file, unpacked; how it is packed shows in its first bytes, not in its name."""

import bz2
import gzip
import lzma
import re
import zipfile

from whichlayer.common import cli

# how a file begins that stands for another one, and what that is
LFS = b"version https://git-lfs.github.com/"
POINTER = "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh9": bz2.open, b"\xfd7zXZ\0": lzma.open}
# what a Macintosh adds to an archive, and folders
NO_FILE = re.compile(r"/$|(^|/)(__MACOSX/|\._|\.DS_Store$)")


def opened(path):
    """The bytes of a file, of its only member where it is a zip archive, as an open file."""
    first = first_bytes(path)
    if first.startswith(LFS):
        raise cli.Problem(f"this is {POINTER}")
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
        return file.read(len(LFS))


def is_pointer(path):
    """Whether a file is a pointer of Git LFS."""
    return first_bytes(path) == LFS
