"""Bad input: every table works as its owner would expect, or is refused with one line that says where and what to do.

EXAMPLES=2000 makes the generated cases as many, see generated.py.
"""

import collections
import contextlib
import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import call, refused, write_titles
from generated import many
from hypothesis import example, given
from hypothesis import strategies as st

import data
import extract
from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.encoder.poolings import POOLINGS

PAIRS = [("Pasta in Rome", "food"), ("The fall of Troy", "history"), ("Cake, twice", "food")]


def table(pairs=PAIRS, delimiter=",", end="\n", header=("title", "category"), quoting=csv.QUOTE_MINIMAL):
    """The text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([header, *pairs])
    return text.getvalue()


def json_lines(pairs, end="\n", **more):
    """The text of a JSON Lines file; the keys stand in another order on every second line."""
    lines = []
    for number, (title, category) in enumerate(pairs):
        item = {"title": title, "category": category, **more}
        if number % 2:
            item = dict(reversed(item.items()))
        lines.append(json.dumps(item) + end)
    return "".join(lines)


def save(folder, content, name="titles.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def copy(path, out, text="title", label="category"):
    """Check a table as extract.py does; returns data.Checked and the (title, label) pairs that it kept."""
    with open(out, "wb") as file:
        info = data.copy_titles(data.find_titles(str(path)), text, label, file)
    return info, list(map(tuple, store.titles_in(out)))


def attempt(folder, bert, path, *options):
    """extract.py on a table; where it is refused, nothing that could be taken for features may be there."""
    out = folder / "features"
    result = call("extract", "--data", path, "--model", bert, "--dtype", "float32", "--out", out, *options)
    if result.code:
        assert {file.name for file in out.glob("*")} <= {".lock"}
    return result


# --- tables that work ---------------------------------------------------------------------------------------------

WORKING = {
    "commas": table(),
    "semicolons": table(delimiter=";"),
    "tabs": table(delimiter="\t"),
    "pipes": table(delimiter="|"),
    "gzip": gzip.compress(table().encode()),
    "byte order mark": table().encode("utf-8-sig"),
    "UTF-16": table(delimiter="\t").encode("utf-16"),
    "Windows line ends": table(end="\r\n"),
    "old Macintosh line ends": table(end="\r"),
    "no line end at the end": table().rstrip("\n"),
    "blank lines": table(end="\n\n"),
    "the columns the other way round": table([(b, a) for a, b in PAIRS], header=("category", "title")),
    "two other columns of one name": table([(a, "", "", b) for a, b in PAIRS], header=("title", "x", "x", "category")),
    "JSON Lines": json_lines(PAIRS),
    "JSON Lines, byte order mark, blank lines": json_lines(PAIRS, "\r\n\n").encode("utf-8-sig"),
    "spaces around the categories": table([(a, f"  {b} ") for a, b in PAIRS]),
}


@pytest.mark.parametrize("content", WORKING.values(), ids=WORKING)
def test_tables_that_spreadsheets_write_are_read(tmp_path, content):
    info, pairs = copy(save(tmp_path, content), tmp_path / "copy.csv")
    assert pairs == PAIRS
    assert info.rows == 3
    assert info.classes == {"food": 2, "history": 1}


TEXTS = ["42", "1e5", "007", "NA", "null", "nan", "None", "-", "🎸🔥", "👩‍👩‍👧", '"', ",", "=SUM(A1)", "'"]
TEXTS += ["ﬁne", "नमस्ते", "\\", "a\\", "two\nlines", "two\r\nlines", "one\rtwo", " spaces around "]
TEXTS += ['the "best" one', "a | b", "# title", "\ufeffmark", "a\u2028b", "a\x85b", "a\x1cb"]


def test_titles_stay_the_text_that_they_are(tmp_path):
    pairs = [(title, "a") for title in TEXTS]
    path = save(tmp_path, table([*pairs, ("another", "b")], quoting=csv.QUOTE_ALL))
    assert copy(path, tmp_path / "copy.csv")[1] == [*pairs, ("another", "b")]


def test_any_category_name_works(tmp_path, bert):
    names = ["a|b", "two\nlines", "=1+1", "**bold** [x](y)", "1", "nan", "a,b", "🎸", "x" * 500, "<script>"]
    path = save(tmp_path, table([(f"title {i}", name) for i, name in enumerate([*names, "1"])]))
    result = attempt(tmp_path, bert, path)
    assert result.code == 0, result.err
    kept = [name.replace("\n", " ") for name in [*names, "1"]]
    features = store.open_features(tmp_path / "features")
    assert features.titles()[1] == kept


def test_long_titles_are_read_back_by_every_process(tmp_path):
    """Training, and the other processes of torchrun, read titles that they have not checked themselves."""
    path = save(tmp_path, table([("x" * 200_000, "a")]))
    code = f"from whichlayer.encoder import store; print([len(title) for title, _ in store.titles_in({str(path)!r})])"
    reader = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, cwd=data.HERE)
    assert reader.stdout.strip() == "[200000]", reader.stderr


# --- tables that work, but may hold a mistake ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs, notes",
    [
        ([*PAIRS, PAIRS[0]], []),
        ([("a", "News"), ("b", "news "), ("c", "news")], ["categories 'News' and 'news' differ only by how"]),
        (
            [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"), ("a", "z"), ("b", "y")],
            ["category: 2, first in rows 1 and 3"],
        ),
    ],
)
def test_likely_mistakes_are_said_and_kept(tmp_path, pairs, notes):
    info, kept = copy(save(tmp_path, table(pairs)), tmp_path / "copy.csv")
    assert kept == [(title, label.strip()) for title, label in pairs]
    assert len(info.notes) == len(notes), info.notes
    for note, words in zip(info.notes, notes, strict=True):
        assert words in note


def test_all_categories_that_are_too_rare_for_the_folds_are_named_in_one_line():
    assert data.rare_categories({"a": 5, "b": 6}, 5) is None
    assert data.rare_categories({"a": 5, "b": 4}, 5).endswith("--folds")
    text = data.rare_categories({"big": 900, **{f"kind {i}": 1 + i % 2 for i in range(40)}}, 5)
    assert cli.one_line(text) == text and len(text) < 400
    words = ["40 of 41 categories", "than 5 folds", "'kind 0' 1, 'kind 10' 1", "merge or drop"]
    assert all(word in text for word in words), text


# --- tables that are refused --------------------------------------------------------------------------------------

JSON = json_lines(PAIRS)
REFUSED = [
    ("", ["the header must name the column 'title'", "empty"]),
    ("title,category\n", ["0 rows", "needed: at least 2"]),
    (table().partition("\n")[2], ["'title'", "header", "'Pasta in Rome'", "--text-column"]),
    (table([(a, b, a) for a, b in PAIRS], header=("title", "category", "title")), ["'title'", "once"]),
    ("title,category\nPasta,food\nCafé,food\nTroy,history\n".encode("latin-1"), ["row 2", "UTF-8"]),
    ("title,category\nPasta,food\nTr\0oy,history\n", ["row 2", "NUL"]),
    (table().encode("utf-16-le"), ["header", "NUL", "UTF-8"]),
    (table().encode("utf-16") + b"\x00", ["damaged"]),
    ('title,category\nPasta,food\n"Troy,history\nCake,food\n', ["row 2", "quote"]),
    ("title,category\nPasta,food\nOne, two,food\n", ["row 2 has 3, not 2 cells"]),
    (table([(" \t", "a"), ("x", "a"), ("\x01\x7f", "b"), ("\u200b", "b")]), ["3 of 4 rows", "'title'", "row 1, 3, 4"]),
    ("title,category\nPasta,food\nCake,food\n", ["'category'", "1 different value in 2 rows"]),
    ("title,category\nPasta,T-1\nCake,T-2\n", ["'category'", "one of them in 2 rows", "another --label"]),
    ('["title", "category"]\n', ["'title'", "header"]),
    (json.dumps({"title": "a", "category": "b"}, indent=1), ["row 1", "JSON", "one on each line"]),
    (JSON + '{"title": "x", "category": "y"\n', ["row 4", "JSON object"]),
    ('[{"title": "x", "category": "y"},\n{"title": "x" "category": "y"}]', ["the array", "line 2 column 15"]),
    ('[{"title": "a", "category": "b"},]', ["the array", "line 1 column"]),
    (JSON + '\n{"title": "x"}\n', ["1 of 4 rows", "'category'", "row 4"]),
    (JSON + '{"title": ' + "[" * 100_000 + "\n", ["row 4", "JSON"]),
    (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xe9\x00\n\x00", ["damaged", "zip"]),
]


@pytest.mark.parametrize("content, words", REFUSED)
def test_tables_that_cannot_work_are_refused_with_one_line(tmp_path, content, words):
    path = save(tmp_path, content)
    # no encoder is looked for
    assert len(refused(attempt(tmp_path, "/no/such/encoder", path), str(path), *words)) < 1000


def test_a_huge_first_line_does_not_fill_the_screen(tmp_path):
    path = save(tmp_path, ",".join("x" * 300 for _ in range(3000)) + "\n1,2\n")
    with pytest.raises(cli.Problem, match="'title'.*'x") as caught:
        copy(path, tmp_path / "copy.csv")
    assert len(str(caught.value)) < 3000


def test_only_a_plain_file_is_taken_for_titles(tmp_path, bert):
    refused(attempt(tmp_path, bert, tmp_path), str(tmp_path), "folder without *.parquet")
    refused(attempt(tmp_path, bert, tmp_path / "none.csv"), "none.csv", "no such file", "sample")
    os.mkfifo(tmp_path / "pipe")
    refused(attempt(tmp_path, bert, tmp_path / "pipe"), "pipe", "not a plain file")


def test_names_with_strange_characters_do_no_harm(tmp_path, bert):
    path = Path(write_titles(tmp_path / "caf\udce9 \x1b[31m\nx.csv"))
    result = attempt(tmp_path, bert, path)
    assert result.code == 0, result.err
    assert "\x1b" not in result.err and len(result.err.splitlines()) == 1
    assert store.open_features(tmp_path / "features").data.rows == 60


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        (["--layers", "0"], ["--layers 0", "layers 1, 2, 3, 4, 5"]),
        (["--layers", "1.5"], ["--layers 1.5"]),
        (["--layers", "all", "3"], ["--layers all 3"]),
        (["--pooling", "mean", "--layers", "-14"], ["--layers -14", "layers 0, 1,"]),
        (["--max-length", "161"], ["--max-length 161", "160"]),
        (["--device", "cuda:99"], ["--device cuda:99", "use auto, cpu"]),
        (["--device", "meta"], ["--device meta", "cpu"]),
        (["--text-column", "name"], ["'name'", "'title', 'category'"]),
        (["--text-column", "category"], ["category", "--text-column"]),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, bert12, titles, options, words):
    refused(attempt(tmp_path, bert12, titles, *options), *words)


def test_layer_0_is_the_embedding_output_for_mean_pooling(tmp_path, bert, titles):
    assert attempt(tmp_path, bert, titles, "--pooling", "mean", "--layers", "0").code == 0
    assert store.open_features(tmp_path / "features").layers("mean") == [0]


@pytest.mark.parametrize("model", ["./none", "a/b/c"])
def test_an_unknown_model_folder_is_refused(tmp_path, titles, model):
    refused(attempt(tmp_path, model, titles), f"--model {model}")


# --- generated tables and options ---------------------------------------------------------------------------------

cells = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=" \t\r\n\"',;|\0\x85\u2028é🎸=a1", max_size=8),
    st.sampled_from(["art", "food", "", "NA", '"', "\ufeff"]),
)
tables = st.builds(
    lambda rows, delimiter, end, header: table(rows, delimiter, end, header),
    st.lists(st.lists(cells, min_size=1, max_size=4) | st.tuples(cells, cells), max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(
        [("title", "category"), ("category", "title"), ("x", "title", "category"), ("title", "title", "category")]
    ),
)


@st.composite
def damaged(draw):
    """The bytes of a table in some encoding, in which some places were deleted, doubled or overwritten."""
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
    content = bytearray(draw(tables).encode(encoding, "surrogatepass"))
    if draw(st.booleans()):
        content = bytearray(gzip.compress(bytes(content), mtime=0))
    patches = st.sampled_from([b"", b'"', b"\0", b"\r", b"\n", b"\r\n", b",", b"\xe9", b"\xff\xfe"])
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        end = place + draw(st.integers(0, 3))
        content[place:end] = draw(patches | st.binary(max_size=4))
    return bytes(content)


objects = st.dictionaries(
    st.sampled_from(["title", "category", "x"]), cells | st.none() | st.floats() | st.lists(cells)
)
content = st.one_of(
    st.lists(objects.map(json.dumps), max_size=6).map("\n".join).map(str.encode),
    st.binary(max_size=60),
    st.binary(max_size=40).map(lambda b: b"title,category\n" + b),
    tables.map(lambda text: text.encode("utf-8", "surrogatepass")),
    damaged(),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("generated")


@many
@example(b'title,category\na,b\n"c\rd",e\n')
@given(content)
def test_any_bytes_are_read_or_refused(scratch, content):
    path = save(scratch, content)
    try:
        info, pairs = copy(path, scratch / "copy.csv")
    except cli.Problem as problem:
        assert str(path) in str(problem) and len(cli.one_line(problem).splitlines()) == 1
        return
    assert len(pairs) == info.rows >= 2
    assert disk.sha256(scratch / "copy.csv") == info.titles
    assert sum(info.classes.values()) == info.rows
    assert set(info.classes) == {label for _, label in pairs}
    assert len(info.notes) <= 5
    assert all(cli.one_line(note) == note for note in info.notes)
    assert copy(path, scratch / "again.csv") == (info, pairs)

    # what was written is itself a table, and reading that gives the same bytes again
    again, _ = copy(scratch / "copy.csv", scratch / "again.csv", label="label")
    assert (again.rows, again.titles, again.classes) == (info.rows, info.titles, info.classes)
    assert (scratch / "again.csv").read_bytes() == (scratch / "copy.csv").read_bytes()


characters = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
readable = st.text(characters, min_size=1).filter(lambda title: not data.is_blank(title))


@many
@given(
    st.lists(st.tuples(readable, st.sampled_from("abc")), min_size=2),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_titles_come_back_as_they_were_written(scratch, pairs, delimiter, end, encoding):
    path = save(scratch, table(pairs, delimiter, end, quoting=csv.QUOTE_ALL).encode(encoding))
    counts = collections.Counter(label for _, label in pairs)
    try:
        assert copy(path, scratch / "copy.csv")[1] == pairs
        assert len(counts) > 1 and max(counts.values()) > 1
    except cli.Problem as problem:
        over_lines = delimiter in "\t|" and "runs over lines that may be rows" in str(problem)
        assert over_lines or len(counts) == 1 or max(counts.values()) == 1, problem


texts = st.one_of(
    st.integers(-20, 20).map(str),
    st.integers().map(str),
    st.text(max_size=6),
    st.floats().map(str),
    st.sampled_from(["all", "cls", "mean", "cuda", "float32", "--layers", "--quiet", "-1", "--", "-x", "٣", "1_0"]),
)


NAMES = ["data", "out", "model", "layers", "pooling", "max-length", "dtype", "store", "device", "quiet"]
words = st.sampled_from([f"--{name}" for name in [*NAMES, "text-column"]]) | texts


@many
@given(st.lists(words, max_size=8))
def test_any_command_line_is_parsed_or_refused(options):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            args = extract.parse_arguments(options)
        except SystemExit as exit:
            assert exit.code == 2 and "error:" in errors.getvalue()
            return
    assert args.max_length >= 3
    assert args.layers
    assert set(args.pooling or []) <= set(POOLINGS)


@many
@given(
    st.lists(st.one_of(st.integers(-15, 15).map(str), texts), min_size=1, max_size=4),
    st.integers(1, 14),
    st.sampled_from([["cls"], ["mean"], ["cls", "mean"]]),
    st.none() | st.sets(st.integers(1, 12), min_size=1),
)
def test_any_layers_are_resolved_or_refused(wanted, depth, poolings, there):
    available = there and sorted({min(layer, depth) for layer in there})
    encoder = store.EncoderInfo("bert", None, depth, hidden=8, weights="w", tokenizer="t")
    try:
        layers = store.resolve_layers(wanted, encoder, poolings, available)
    except cli.Problem as problem:
        assert "--layers" in str(problem) and len(cli.one_line(problem).splitlines()) == 1
        return
    assert layers == sorted(set(layers), reverse=True)
    lowest = 1 if "cls" in poolings else 0
    if available is None:
        assert layers and lowest <= layers[-1] and layers[0] <= depth
    else:
        assert set(layers) <= set(available)
    if wanted != ["all"]:
        assert {int(w) % (depth + 1) for w in wanted} == set(layers)
