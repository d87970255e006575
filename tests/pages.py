"""What tests read of a page of evaluate.py, and predictions of which the truth is known."""

import json
import re

import numpy as np
from conftest import call
from synthetic import write_baseline, write_run

CELL = re.compile(r"(?<!\\)\|")
THREE = np.random.default_rng(0).integers(0, 3, 600)  # labels of 600 titles in three categories


def evaluate(results, *options):
    """What evaluate.py prints for a folder of results."""
    done = call("evaluate", "--results", results, *options)
    assert done.code == 0, done.err
    return done.out


def unwrapped(text):
    """The text as one line: where a paragraph is broken depends on the terminal."""
    return " ".join(text.split())


def tables(text):
    """The markdown tables in a text, each a list of rows, each a dictionary by column; nothing is bold."""
    out = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        cells = [[cell.strip() for cell in CELL.split(line.replace("**", ""))[1:-1]] for line in block.splitlines()]
        assert len({len(row) for row in cells}) == 1
        out.append([dict(zip(cells[0], row, strict=True)) for row in cells[2:]])
    return out


def recommendation(text):
    """The paragraph of a page that recommends a row, on one line, from its first word on."""
    name = "**Recommended"
    return unwrapped(name + text.partition(name)[2].partition("\n\n")[0])


def recommended(results):
    """The names of the runs that evaluate.py has recommended."""
    return json.loads((results / "recommended.json").read_text(encoding="utf-8"))["runs"]


def of_class(labels, share, seed):
    """Predictions that are wrong in this share of titles, whichever are hard."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < share, (labels + 1) % (labels.max() + 1), labels)


def label_curve(folder, shares, words=(), **options):
    """Runs that are wrong in these shares of titles, by the number of labels; and TF-IDF's."""
    for size, share in shares.items():
        run = write_run(folder, THREE, of_class(THREE, share, 1), labels=size, head="linear", **options)
    for size, share in dict(words).items():
        write_baseline(run, "tfidf", of_class(THREE, share, 2), size)
