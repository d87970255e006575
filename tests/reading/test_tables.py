"""Tables of cells: every form in which titles come is told by what it holds, and can be written again in that form."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import shlex
import subprocess
import sys
import tracemalloc
import types
import zipfile

import pytest
from conftest import call
from generated import many
from hypothesis import given
from hypothesis import strategies as st

import data
from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.reading import tables

PAIRS = [["Pasta in Rome", "food"], ["The fall of Troy", "history"], ["Cake, twice", "food"]]


def save(folder, content, name="titles.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, columns=("title", "category")):
    """The header, the cells of all rows and the notes of a table; row numbers must count from 1."""
    table = tables.open_table(path, columns)
    frames = list(table.frames)
    rows = [cells for frame in frames for cells in frame.to_numpy().tolist()]
    assert [number for frame in frames for number in frame.index] == list(range(1, len(rows) + 1))
    return table.header, rows, []


def refused(path, *words, columns=("title", "category")):
    """Assert one line that names the file and holds each of the words."""
    with pytest.raises(cli.Problem) as caught:
        read(path, columns)
    text = str(caught.value)
    assert text == cli.one_line(text) and text.startswith(str(path)) and text.count(str(path)) == 1, text
    assert all(word in text for word in words), text


# --- quotes that enclose cells, and quotes that are text ----------------------------------------------------------

SWALLOWED = ["Bread", '"Dinner is served', "The kitchen, part 2", "A wall", 'The stone of 12"', "Troy"]


@pytest.mark.parametrize("delimiter", ["\t", "|"])
@pytest.mark.parametrize(
    "titles, row",
    [(SWALLOWED, 2), (['"Odd" Alan cooks an egg', "Bread"], 1), (["Bread", '"', "Troy"], 2), (["a", '"b'], 2)],
)
def test_lone_quotes_between_tabs_and_pipes_are_text(tmp_path, delimiter, titles, row):
    lines = [f"{title}{delimiter}{'ab'[number % 2]}\n" for number, title in enumerate(titles)]
    path = save(tmp_path, f"title{delimiter}category\n" + "".join(lines))
    _, rows, notes = read(path)
    assert rows == [line.strip("\n").split(delimiter) for line in lines]
    assert len(notes) == 1 and f"row {row} " in notes[0] and "part of the text" in notes[0]
    with open(tmp_path / "copy.csv", "wb") as out:
        checked = data.copy_titles(path, "title", "category", out)
    assert checked.rows == len(titles) and checked.notes == notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "title", ["two\nlines", 'a "b" c', '"all of it"', "one, two; three | four\tfive", "a\r\nb\n\nc"]
)
def test_quotes_that_enclose_cells_are_not_part_of_them(tmp_path, delimiter, title):
    rows = [*PAIRS, [title, "food"], ["last", "history"]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([["title", "category"], *rows])
    assert read(save(tmp_path, text.getvalue())) == (["title", "category"], rows, [])


def test_where_lines_between_commas_may_be_rows_a_note_says_so(tmp_path):
    text = 'title,category\n"Dinner is served,food\nThe stone of 12",history\nTroy,history\n'
    _, rows, notes = read(save(tmp_path, text))
    assert rows == [["Dinner is served,food\nThe stone of 12", "history"], ["Troy", "history"]]
    assert len(notes) == 1 and "row 1 runs over lines" in notes[0] and "missing quote" in notes[0]


@pytest.mark.parametrize("header", ["title\tcategory", '"title"\t"category"'])
def test_rows_that_a_quote_may_have_swallowed_are_named(tmp_path, header):
    path = save(tmp_path, f'{header}\nBread\ta\n\n"Dinner\tfood\nno tab\nstone 12"\thistory\nTroy\thistory\n')
    _, rows, notes = read(path)
    assert rows[1] == ["Dinner\tfood\nno tab\nstone 12", "history"] and len(rows) == 3
    assert len(notes) == 1 and "row 2 runs over lines" in notes[0] and "missing quote" in notes[0]


unquoted = st.text(st.sampled_from('ab ",;é🎸'), min_size=1, max_size=8)


@many
@given(st.lists(st.tuples(unquoted, st.sampled_from("xyz")), min_size=1, max_size=8), st.sampled_from("\t|"))
def test_no_title_between_tabs_or_pipes_runs_over_lines(tmp_path_factory, pairs, delimiter):
    lines = [f"{title}{delimiter}{label}" for title, label in pairs]
    path = save(tmp_path_factory.getbasetemp(), "\n".join([f"title{delimiter}category", *lines]), "generated.csv")
    _, rows, _ = read(path)
    assert [label for _, label in rows] == [label for _, label in pairs]
    # all of them as they are, or all as they are where quotes enclose cells
    enclosed = [next(csv.reader([line], delimiter=delimiter)) for line in lines]
    assert rows in (list(map(list, pairs)), enclosed)


# --- headers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["Title\n(short)", "Title (short)", " Title  (short)\t"])
def test_a_header_cell_with_a_line_break_is_found_by_its_words(tmp_path, delimiter, name):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([["Title\n(short)", "Category"], *PAIRS])
    header, rows, _ = read(save(tmp_path, text.getvalue()), [name, "Category"])
    assert header == ["Title\n(short)", "Category"] and rows == PAIRS
    assert next(data.read_table(tmp_path / "titles.csv", [name, "Category"])) == [name, "Category"]


@pytest.mark.parametrize("hint", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;\n", "sep=^\n", "sep=\t\n"])
def test_the_delimiter_that_excel_is_told_is_taken(tmp_path, hint):
    delimiter = hint.strip('"\r\n')[-1:] or "\t"
    lines = ["title,long;category".replace(";", delimiter), "Salt, and when;food".replace(";", delimiter)]
    path = save(tmp_path, ("\ufeff" + hint + "\n".join(lines)).encode())
    header, rows, _ = read(path, ["title,long", "category"])
    assert (header, rows) == (["title,long", "category"], [["Salt, and when", "food"]])


@pytest.mark.parametrize("written, asked", [("ti\u0301tulo", "título"), ("título", "ti\u0301tulo")])
def test_accents_in_headers_may_be_encoded_either_way(tmp_path, written, asked):
    path = save(tmp_path, f"{written},category\na,b\n")
    assert read(path, [asked, "category"])[:2] == ([written, "category"], [["a", "b"]])
    path = save(tmp_path, json.dumps({written: "a", "category": "b"}), "t.jsonl")
    assert read(path, [asked, "category"])[:2] == ([written, "category"], [["a", "b"]])
    assert next(data.read_table(path, [asked])) == [asked, "category"]
    both = save(tmp_path, "ti\u0301tulo,título,category\na,b,c\n")
    assert tables.open_table(both, [asked]).places == [int(asked == "título")]


def test_a_second_byte_order_mark_hides_no_column(tmp_path):
    path = save(tmp_path, "\ufeff\ufefftitle,category\na,b\n")
    assert read(path)[1] == [["a", "b"]]


@pytest.mark.parametrize(
    "again",
    ["title,category", "\ufefftitle,category", '\ufeff"title","category"', "Title, CATEGORY", "\ufeffcategory,title"],
)
def test_two_files_joined_are_refused_with_the_row(tmp_path, again):
    path = save(tmp_path, f"title,category\na,b\n\n{again}\nc,d\n")
    refused(path, "row 2", "joined", "delete that line")


def test_a_title_may_be_the_name_of_its_column(tmp_path):
    rows = [["title", "a"], ["x title", "b"], ["title", "my category"]]
    assert read(save(tmp_path, "title,category\n" + "".join(f"{a},{b}\n" for a, b in rows)))[1] == rows
    assert read(save(tmp_path, "title\na\ntitle\n"), ["title"])[1] == [["a"], ["title"]]
    refused(save(tmp_path, "title\na\n\ufefftitle\n"), "row 2", columns=["title"])


# --- JSON ---------------------------------------------------------------------------------------------------------

OBJECTS = [
    {"title": "A new soup"},
    {"title": "An old king", "url": "http://example.org/1", "id": 7},
    {"id": 8.5, "title": "A cake", "tags": ["x", None]},
]
CELLS = [
    ["A new soup", "", "", ""],
    ["An old king", "http://example.org/1", "7", ""],
    ["A cake", "", "8.5", '["x", null]'],
]


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.json", "t.JSON.gz", "t.txt", "t.csv"])
@pytest.mark.parametrize("layout", ["lines", "array", "pretty array", "array of lines"])
def test_json_is_known_by_what_it_holds_and_no_key_is_lost(tmp_path, name, layout):
    text = {
        "lines": "\n" + "\n\r\n".join(map(json.dumps, OBJECTS)),
        "array": json.dumps(OBJECTS),
        "pretty array": json.dumps(OBJECTS, indent=2),
        "array of lines": "[" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]\n",
    }[layout]
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text
    assert read(save(tmp_path, content, name), ["title"]) == (["title", "url", "id", "tags"], CELLS, [])


def test_json_lines_joined_from_two_files_are_one_table(tmp_path):
    text = json.dumps(OBJECTS[0]) + "\n\ufeff" + json.dumps(OBJECTS[1]) + "\n"
    assert [cells[0] for cells in read(save(tmp_path, text, "t.jsonl"), ["title"])[1]] == ["A new soup", "An old king"]


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x1c"])
def test_json_lines_are_told_whatever_stands_in_their_texts(tmp_path, end):
    """Some ends of lines, to Python, are characters of a text to JSON; others are faults that are named as such."""
    path = save(tmp_path, f'{{"title": "a{end}b"}}\n{{"title": "c"}}\n', "t.txt")
    if end < " ":
        refused(path, "row 1", "JSON object", columns=["title"])
        return
    assert read(path, ["title"])[1] == [[f"a{end}b"], ["c"]]


@pytest.mark.parametrize(
    "text, words",
    [
        ('[{"title": "a"}, {"title": "b"}', ["row 3", "not whole"]),
        ('[{"title": "a"}, {"title": "b"', ["row 2", "not whole"]),
        ('[{"title": "a"}]\n[{"title": "b"}]', ["row 2", "after the end"]),
        ('[{"title": "a"}, "b"]', ["row 2", "JSON object"]),
        ('[{"title": "a"} {"title": "b"}]', ["row 2", "comma"]),
        ('[{"title": "a"}, {"title": "b"},, {"title": "c"}]', ["row 3", "comma"]),
        ('[, {"title": "a"}]', ["row 1", "comma"]),
        ("[]", ["no JSON objects"]),
        ('{"title": {"0": "a", "1": "b"}}', ["row 1", "orient='records'"]),
        ('{"title": "a"}\n{"title": "b"\n', ["row 2", "JSON object"]),
        ('{\n  "title": "a"\n}\n', ["row 1", "one on each line"]),
        ('{"title": "a"}\n{"title": "b", "url": "\\ud83d"}\n', ["row 2", "half of a surrogate pair"]),
        ('[{"title": "a"}, {"title": "b", "\\uDE00": 1}]', ["row 2", "half of a surrogate pair"]),
        ('{"title": "a", "url": "\\udc80"}\n', ["row 1", "half of a surrogate pair"]),
        ('{"text": "a"}', ["its objects", "'title' once", "'text'"]),
        ("".join(f'{{"title": "a", "{i}": 1}}\n' for i in range(10_001)), ["row 10000", "keys"]),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, text, words):
    refused(save(tmp_path, text, "t.json"), *words, columns=["title"])


def test_json_with_bytes_that_are_not_utf8_is_not_called_half_a_pair(tmp_path):
    content = b'{"title": "a"}\n{"title": "a", "x": "caf\xe9"}'
    refused(save(tmp_path, content, "t.jsonl"), "row 2", "not UTF-8", columns=["title"])
    assert data.fault("half \ud83d") == "half of a surrogate pair, which is no character"
    assert data.fault("caf\udce9") == "bytes that are not UTF-8"
    assert data.fault("\U0001fae9 ok") is None


@pytest.mark.parametrize(
    "written, cell",
    [
        ("9" * 5000, "9" * 5000),
        ("-1" + "0" * 5000, "-1" + "0" * 5000),
        ("1e999", "1e999"),
        ("-1.5E+400", "-1.5E+400"),
        ("12e-999", "12e-999"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("NaN", ""),
        ("0.0", "0.0"),
        ("0e5", "0.0"),
        ("1e3", "1000.0"),
        ("17", "17"),
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.parametrize("form", ["{0}", "[{0}]", "[\n{0},\n{0}]"])
def test_numbers_in_json_that_no_float_or_int_holds_stay_as_they_are_written(tmp_path, written, cell, form):
    item = f'{{"title": {written}, "category": "a"}}'
    _, rows, notes = read(save(tmp_path, form.format(item), "t.json"))
    assert [*map(tuple, rows)] == [(cell, "a")] * form.count("{0}") and notes == []


@pytest.mark.parametrize("form", ["{first}\n{0}\n", "[{first}, {0}]", "[{first},\n {0}]"])
@pytest.mark.parametrize(
    "item, key",
    [
        ('{"title": "a", "category": "b", "title": "c"}', "'title'"),
        ('{"title": "a", "category": "b", "more": {"x": 1, "y": 2, "y": 2}}', "'y'"),
    ],
)
def test_a_key_that_an_object_repeats_is_refused_with_the_row(tmp_path, form, item, key):
    text = form.format(item, first='{"title": "x", "category": "y"}')
    for name in ("t.json", "t.txt"):
        refused(save(tmp_path, text, name), "row 2", f"key {key} twice")
    refused(save(tmp_path, item, "t.txt"), "row 1", f"key {key} twice")


ITEMS = [{"title": "a new soup", "category": "food"}, {"title": "\U0001f3b8 it's", "category": "art"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("more", [{}, {"version": 1, "meta": {"by": [{"title": "x"}]}}], ids=["alone", "beside"])
@pytest.mark.parametrize("name", ["t.json", "o'clock é.json", "t.txt", "t.jsonl"])
def test_an_object_that_holds_the_records_is_named_with_a_command_that_works(tmp_path, indent, more, name):
    text = json.dumps({**more, "the rows": ITEMS}, indent=indent, ensure_ascii=False)
    path = save(tmp_path, text, name)
    with pytest.raises(cli.Problem) as caught:
        read(path)
    wrong, command = str(caught.value).split("; make JSON Lines of it with: python ")
    assert wrong == f"{path}: this is one JSON object that holds an array of records, 'the rows'"
    assert cli.one_line(command) == command
    subprocess.run(["bash", "-c", f"{shlex.quote(sys.executable)} {command}"], check=True)
    (made,) = tmp_path.glob("*-lines.jsonl")
    assert path.read_text(encoding="utf-8") == text
    assert read(made)[1] == [list(item.values()) for item in ITEMS]


def test_records_in_a_cell_are_not_taken_for_the_table(tmp_path):
    lines = [json.dumps({"title": "a", "topic": "b", "by": [{"name": "x"}]})] * 2
    refused(save(tmp_path, "\n".join(lines), "t.jsonl"), "its objects", "'category' once")


def test_a_large_array_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 1 << 14)
    items = [{"title": f"title {i} \U0001f3b8 " + "x" * (i % 300), "n": i} for i in range(20_000)]
    path = save(tmp_path, json.dumps(items, indent=1), "t.json")
    size = path.stat().st_size
    tracemalloc.start()
    try:
        last = 0
        for row, cells in tables.open_table(path, ["title"]).rows:
            assert cells == [items[row - 1]["title"], str(row - 1)]
            last = row
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last == 20_000
    assert peak < size / 8, (peak, size)


# --- packed files -------------------------------------------------------------------------------------------------


def zipped(members):
    """The bytes of a zip archive of {name: content}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


TEXT = "title\tcategory\n" + "".join("\t".join(pair) + "\n" for pair in PAIRS)
PACKED = {
    "gzip": gzip.compress(TEXT.encode()),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "zip": zipped({"titles.tsv": TEXT}),
    "zip with a folder": zipped({"folder/": "", "folder/t.tsv": TEXT, "__MACOSX/folder/._t.tsv": "x"}),
    "zip of JSON": zipped({"t.json": json.dumps([{"title": a, "category": b} for a, b in PAIRS])}),
}


@pytest.mark.parametrize("content", PACKED.values(), ids=PACKED)
def test_packed_files_are_read_whatever_their_name(tmp_path, content):
    header, rows, _ = read(save(tmp_path, content, "titles"))
    assert (header, rows) == (["title", "category"], PAIRS)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda b: zipped({"t.csv": b})])
@pytest.mark.parametrize("cut", [12, 0.5, -9])
def test_damaged_packed_files_are_refused(tmp_path, pack, cut):
    whole = pack(b"title,category\n" + b"".join(b"%d title,%d\n" % (i * 7919 % 10007, i % 3) for i in range(9000)))
    size = int(len(whole) * cut) if isinstance(cut, float) else cut
    refused(save(tmp_path, whole[:size], "t.bin"), "damaged")


WAYS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": lambda content: zipped({"t.csv": content}),
}


@pytest.mark.parametrize("outer", WAYS)
@pytest.mark.parametrize("inner", WAYS)
def test_a_packed_file_in_a_packed_file_is_called_that(tmp_path, outer, inner):
    path = save(tmp_path, WAYS[outer](WAYS[inner](TEXT.encode())))
    refused(path, f"a packed file in a packed file ({inner} in {outer})", "unpack it once")


def test_a_header_that_begins_like_a_packed_file_is_a_header(tmp_path):
    assert read(save(tmp_path, "BZh,title,category\n1,a,b\n"))[1] == [["1", "a", "b"]]


def test_a_damaged_directory_of_a_zip_archive_is_named_whatever_is_wrong_in_it(tmp_path):
    """Each byte behind the packed titles is changed in several ways; reading is right, or refused in one line."""
    whole = zipped({"t.tsv": TEXT})
    right = read(save(tmp_path, whole, "t.zip"))
    begins = whole.index(b"PK\1\2")
    for place, value in itertools.product(range(begins, len(whole)), (0, 1, 127, 255)):
        path = save(tmp_path, whole[:place] + bytes([value]) + whole[place + 1 :], "t.zip")
        try:
            assert read(path) == right
        except cli.Problem as error:
            assert str(error).startswith(f"{path}: ")


LOCKED = zipped({"t.csv": "title,category\na,b\n"})
# the flag that the member needs a password, in both of its headers
LOCKED = LOCKED.replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0").replace(
    b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"
)


@pytest.mark.parametrize(
    "content, words",
    [
        (zipped({"a.csv": TEXT, "b.csv": TEXT}), ["2 files", "'a.csv', 'b.csv'", "unpack"]),
        (zipped({}), ["zip", "0 files"]),
        (zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}), ["spreadsheet", "CSV"]),
        (LOCKED, ["zip", "password", "unpack"]),
        (b"\x28\xb5\x2f\xfd rest", ["zstd", "unpack"]),
        (b"7z\xbc\xaf\x27\x1c rest", ["7-Zip", "unpack"]),
        (b"\xd0\xcf\x11\xe0\xa1 rest", ["old spreadsheet", "CSV"]),
        (gzip.compress(b"SQLite format 3\0 rest"), ["database", "CSV"]),
        (zipped({"t.parquet": b"PAR1 rest"}), ["Parquet", "unpack"]),
        (gzip.compress(b"t.csv".ljust(257, b"\0") + b"ustar\0" + b"\0" * 250), ["tar archive", "unpack"]),
        ("sep=;\n", ["is empty", "column names"]),
        ("sep=\ntitle,category\na,b\n", ["the first line names no delimiter", "delete it"]),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["a pointer of Git LFS", "git lfs pull"]),
    ],
    ids=[
        "two members",
        "no member",
        "xlsx",
        "password",
        "zstd",
        "7z",
        "xls",
        "sqlite",
        "zipped parquet",
        "tar",
        "hint only",
        "hint of nothing",
        "pointer",
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, words):
    refused(save(tmp_path, content), *words)


# --- Parquet ------------------------------------------------------------------------------------------------------


def parquet(path, columns, **options):
    """Write {name: values} as a Parquet file."""
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path, **options)
    return path


def test_parquet_cells_are_texts(tmp_path):
    columns = {
        "title": ["Pasta, twice", None, "Troy\n2"],
        "n": [1, None, 3],
        "share": [0.5, float("nan"), 2.0],
        "seen": [True, False, None],
        "tags": [["a"], [], None],
        "raw": [b"caf\xc3\xa9", None, b""],
    }
    header, rows, notes = read(parquet(tmp_path / "t.bin", columns), ["title"])
    assert header == list(columns) and notes == []
    assert rows == [
        ["Pasta, twice", "1", "0.5", "true", '["a"]', "café"],
        ["", "", "", "false", "[]", ""],
        ["Troy\n2", "3", "2.0", "", "", ""],
    ]
    refused(tmp_path / "t.bin", "row 1", "list", columns=["tags"])
    refused(tmp_path / "t.bin", "its schema", "'category' once", "'title', 'n'")
    assert list(tables.open_table(tmp_path / "t.bin", ["n", "title"], others=False).rows)[0] == (
        1,
        ["1", "Pasta, twice"],
    )


@pytest.mark.parametrize("wrong", [b"caf\xe9", b"a\0b", b"\xed\xa0\x80"], ids=["Latin-1", "NUL", "surrogate"])
@pytest.mark.parametrize("nested", [False, True])
def test_bytes_of_parquet_that_are_no_text_are_refused_with_their_column(tmp_path, wrong, nested):
    columns = {"title": ["a", "b", "c"], "category": ["x", "y", "x"], "raw": [b"caf\xc3\xa9", None, wrong]}
    if nested:
        columns["raw"] = [[value] for value in columns["raw"]]
    path = parquet(tmp_path / "t.parquet", columns)
    refused(path, "row 3", "column 'raw' holds bytes that are no text", "leave the column out", "base64")
    # where the column is not asked for, it is in nobody's way
    with open(tmp_path / "copy.csv", "wb") as out:
        assert data.copy_titles(path, "title", "category", out).rows == 3
    if not nested:
        refused(path, "row 3", "column 'raw' holds bytes", columns=["raw", "category"])
    right = parquet(tmp_path / "r.parquet", {"title": ["a"], "category": ["x"], "raw": columns["raw"][:1]})
    assert read(right)[1] == [["a", "x", '["café"]' if nested else "café"]]


def test_times_of_parquet_that_python_has_no_objects_for_are_copied_or_refused(tmp_path):
    """Dates beyond the year 9999, long durations, time zones that are not known here; other cells stay as they are."""
    import pyarrow

    columns = {"title": ["a", "b"], "category": ["x", "y"]}
    day = pyarrow.date32()
    for values, shown in [
        (pyarrow.array([0, 2**22], day), ["1970-01-01", "13453-08-13"]),
        (pyarrow.array([None, -(2**21)], day), ["", "-3772-03-12"]),
        (pyarrow.array([0, 2**22], day).dictionary_encode(), ["1970-01-01", "13453-08-13"]),
        (pyarrow.array([86400, 2**50], pyarrow.duration("s")), ["1 day, 0:00:00", str(2**50)]),
    ]:
        path = parquet(tmp_path / "t.parquet", {**columns, "when": values})
        assert [row[2] for row in read(path)[1]] == shown
    for values in (
        pyarrow.array([0, 1], pyarrow.timestamp("us", "Foo/Bar")),
        pyarrow.array([[2**22], []], pyarrow.list_(day)),
        pyarrow.array([{"a": 2**22}, None], pyarrow.struct([("a", day)])),
    ):
        path = parquet(tmp_path / "t.parquet", {**columns, "when": values})
        refused(path, "t.parquet", "column 'when' cannot be read", "leave the column out, or save it as text")
        # where the column is not asked for, it is in nobody's way
        with open(tmp_path / "copy.csv", "wb") as out:
            assert data.copy_titles(path, "title", "category", out).rows == 2


def test_a_folder_of_parquet_parts_is_one_table(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    titles = [f"title {i}" for i in range(10_000)]
    for part in range(3):
        own = titles[part::3]
        names = {"title": own, "category": ["ab"[len(title) % 2] for title in own]}
        # the order of columns may differ
        names = names if part else dict(reversed(names.items()))
        parquet(folder / f"train-{part:05d}-of-00003.parquet", names, row_group_size=500)
    assert data.find_titles(str(folder)) == folder
    header, rows, notes = read(folder)
    assert header == ["category", "title"]
    assert [title for _, title in rows] == titles[::3] + titles[1::3] + titles[2::3]
    assert len(notes) == 1 and "3 files" in notes[0] and "train-00002-of-00003.parquet" in notes[0]
    # what a Macintosh adds, and what is no file
    save(folder, b"\0\5\x16\7", "._train-00000-of-00003.parquet")
    (folder / "b.parquet").mkdir()
    assert read(folder) == (header, rows, notes)
    before = disk.sha256(folder)
    assert before == disk.sha256(folder)

    parquet(folder / "train-00002-of-00003.parquet", {"title": ["other"], "category": ["a"]})
    assert disk.sha256(folder) != before
    parquet(folder / "other.parquet", {"text": ["x"]})
    refused(folder, "train-00000-of-00003.parquet", "columns are not those of other.parquet")


def test_a_folder_without_parquet_is_named(tmp_path):
    save(tmp_path, "title,category\na,b\n")
    refused(tmp_path, "folder without *.parquet")
    with pytest.raises(cli.Problem, match=r"folder without \*\.parquet"):
        data.find_titles(str(tmp_path))


def test_damaged_parquet_is_refused(tmp_path):
    path = parquet(tmp_path / "t.parquet", {"title": [f"title {i}" for i in range(5000)], "category": ["a"] * 5000})
    whole = path.read_bytes()
    refused(save(tmp_path, whole[:-20], "t.parquet"), "damaged")
    refused(save(tmp_path, b"PAR1" + b"\xff" * 3000 + whole[3004:], "t.parquet"), "damaged")


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path, b"PAR1 rest", "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(path, "pyarrow", "pip install pyarrow", "CSV")


# --- the form of a table ------------------------------------------------------------------------------------------

FORMS = {
    "commas": "title,n\r\nCake,1\r\n",
    "Excel in Germany": "\ufefftitle;Nr\r\nKäse über alles;3\r\nBrücke, 1840;4\r\n",
    "tabs without quotes": 'title\tcategory\n"Odd" Alan\tfood\n"\tfood\n',
    "pipes with quotes": 'title|category\n"a|b"|food\n"two\nlines"|food\n',
    "all quoted": '"title","category"\r\n"Stew with\rdark beer","food"\r\n"a ""b""","x"\r\n',
    "lone return": 'title,category\n"Stew with\rdark beer",food\nb,c\n',
    "hint": "sep=;\r\ntitle;category\r\na;b\r\n",
    "old Macintosh": "title,category\ra,b\r",
    "one column": "title\na\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_table_can_be_written_in_the_form_that_it_came_in(tmp_path, text, encoding):
    # which has one anyway
    if encoding == "utf-16":
        text = text.removeprefix("\ufeff")
    content = text.encode(encoding)
    table = tables.open_table(save(tmp_path, content), ["title"])
    form = table.form
    written = io.StringIO()
    write = tables.row_writer(written, form)
    if form.hint:
        written.write(f"sep={form.delimiter}{form.line_end}")
    write(table.header)
    for _, cells in table.rows:
        write(cells)
    mark = "\ufeff" if form.mark and form.encoding == "utf-8" else ""
    assert (mark + written.getvalue()).encode(form.encoding) == content


def test_what_cannot_be_enclosed_leaves_its_row_whole():
    lines = []
    form = tables.Form(delimiter="|", quoting=csv.QUOTE_NONE, line_end="\n")
    write = tables.row_writer(types.SimpleNamespace(write=lines.append), form)
    write(["a|b", '"c"', "d\ne"])
    assert lines == ['a b|"c"|d e\n']


# --- blank titles, categories that are one ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", " ", "\t\r\n\x85\u2028\xa0\u3000", "\x01\x7f\x9b", "\u200b\ufeff\u00ad\u202e\u2060\u200d"]
)
def test_spaces_control_and_format_characters_are_nothing_to_read(text):
    assert data.is_blank(text)


@pytest.mark.parametrize(
    "text", ["a", "\u200ba", "\U0001fae9", "\U0001fac8\U0001fae9", "\ue000", "\u0301", "\U000e0100"]
)
def test_characters_that_python_does_not_know_are_something_to_read(text):
    assert not data.is_blank(text)


@pytest.mark.parametrize(
    "names, note",
    [
        (["1", "1.0"], "'1' and '1.0' differ only by how a number is written"),
        (["-3.00", "-3"], "'-3.00' and '-3' differ only by how a number is written"),
        (["food", "food\u200b"], "'food' and 'food\\u200b' differ only by characters that are not seen"),
        (["food", "\ufefffood"], "'food' and '\\ufefffood' differ only by characters that are not seen"),
        (["food", '"food"'], "'food' and '\"food\"' differ only by quotes"),
        (["Food", "\u200b“food”"], "differ only by quotes"),
        (["Food", "food"], "'Food' and 'food' differ only by case or by encoding of accents"),
        (["1", "10"], None),
        (["1.5", "15"], None),
        (["1.0", "1.01"], None),
        (["food", "foods"], None),
        (["c", "c++"], None),
        (["01", "1"], None),
    ],
)
def test_categories_that_are_clearly_one_are_named(names, note):
    notes = data.similar_names(names)
    if note is None:
        assert notes == []
    else:
        assert len(notes) == 1 and note in notes[0]


def test_quotes_after_a_space_are_noticed(tmp_path):
    path = save(tmp_path, 'title, category\n"A, b", "food"\nc,food\nd, history\n')
    with open(tmp_path / "copy.csv", "wb") as out:
        checked = data.copy_titles(path, "title", "category", out)
    assert checked.classes == {'"food"': 1, "food": 1, "history": 1}
    assert checked.notes == ["categories '\"food\"' and 'food' differ only by quotes"]


def test_messages_show_joiners_as_they_are(tmp_path):
    path = save(tmp_path, "title,category\na,ایرانی\u200cها\nb,ایرانی\u200cها\n")
    with open(tmp_path / "copy.csv", "wb") as out, pytest.raises(cli.Problem, match="'ایرانی\u200cها'"):
        data.copy_titles(path, "title", "category", out)


# --- the scripts --------------------------------------------------------------------------------------------------


def test_extract_reads_parquet_and_says_how_a_file_was_read(tmp_path, bert):
    pairs = [(f"how to cook {i}", "ab"[i % 2]) for i in range(10)]
    parts = tmp_path / "parts"
    parts.mkdir()
    for part in range(2):
        titles, labels = zip(*pairs[5 * part : 5 * part + 5], strict=True)
        parquet(parts / f"{part}.parquet", {"title": titles, "id": range(5), "category": labels})
    plain = save(tmp_path, "title\tcategory\n" + "".join(f"{a}\t{b}\n" for a, b in pairs) + '"odd" one\ta\n', "t.tsv")
    for path, titles, words in ((parts, pairs, "2 files"), (plain, [*pairs, ('"odd" one', "a")], "row 11")):
        out = tmp_path / f"features-{path.name}"
        result = call("extract", "--data", path, "--model", bert, "--dtype", "float32", "--out", out)
        assert result.code == 0, result.err
        assert words in result.err
        assert list(zip(*store.open_features(out).titles(), strict=True)) == titles
