"""Tables of texts: every form in which titles come is told by what it holds; what is wrong is named with its row."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import sys
import zipfile

import pytest
from generated import many
from hypothesis import given
from hypothesis import strategies as st

import data
from whichlayer.common import cli, disk
from whichlayer.reading import tables

PAIRS = [["Pasta in Rome", "food"], ["The fall of Troy", "history"], ["Cake, twice", "food"]]


def save(folder, content, name="titles.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, columns=("title", "category"), others=True):
    """The header and the cells of all rows of a table."""
    table = tables.open_table(path, columns, others)
    rows = list(map(list, table.rows))
    assert all(isinstance(cell, str) for row in rows for cell in row)
    return table.header, rows


def refused(path, *words, columns=("title", "category")):
    """Assert one line that names the file and holds each of the words."""
    with pytest.raises(cli.Problem) as caught:
        read(path, columns)
    text = str(caught.value)
    assert text == cli.one_line(text) and text.startswith(str(path)) and text.count(str(path)) == 1, text
    assert all(word in text for word in words), text


def written(rows, delimiter=",", **options):
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, **options).writerows(rows)
    return text.getvalue()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few rows are in memory together."""
    monkeypatch.setattr(tables, "WINDOW", 2)


# --- CSV ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "title", ["two\nlines", 'a "b" c', '"all of it"', "one, two", "a\r\nb\n\nc", " spaces around "]
)
def test_quotes_that_enclose_cells_are_not_part_of_them(tmp_path, delimiter, title):
    rows = [*PAIRS, [title, "food"], ["last", "history"]]
    text = written([["title", "category"], *rows], delimiter, quoting=csv.QUOTE_ALL)
    assert read(save(tmp_path, text)) == (["title", "category"], rows)


@pytest.mark.parametrize("delimiter", ["\t", "|"])
@pytest.mark.parametrize("titles", [["Bread", '"Dinner is served', 'stone of 12"'], ['"Odd" Alan', "a"], ["a", '"b']])
def test_lone_quotes_between_tabs_and_pipes_are_text(tmp_path, delimiter, titles):
    rows = [[title, "ab"[number % 2]] for number, title in enumerate(titles)]
    lines = [delimiter.join(row) + "\n" for row in [["title", "category"], *rows]]
    assert read(save(tmp_path, "".join(lines)))[1] == rows


def test_rows_that_a_quote_may_have_swallowed_are_refused(tmp_path):
    text = '"title"\t"category"\nBread\ta\n\n"Dinner\tfood\nstone 12"\thistory\nTroy\thistory\n'
    refused(save(tmp_path, text), "row 2 runs over lines", "missing quote")


unquoted = st.text(st.sampled_from('ab ",;é🎸'), min_size=1, max_size=8)


@many
@given(st.lists(st.tuples(unquoted, st.sampled_from("xyz")), min_size=1, max_size=8), st.sampled_from("\t|"))
def test_no_title_between_tabs_or_pipes_is_merged_with_another(tmp_path_factory, pairs, delimiter):
    lines = [f"{title}{delimiter}{label}" for title, label in pairs]
    path = save(tmp_path_factory.getbasetemp(), "\n".join([f"title{delimiter}category", *lines]), "generated.csv")
    try:
        _, rows = read(path)
    except cli.Problem as error:
        assert "row " in str(error) and '"' in path.read_text()
        return
    assert [label for _, label in rows] == [label for _, label in pairs]
    # all of them as they are, or all as they are where quotes enclose cells
    enclosed = [next(csv.reader([line], delimiter=delimiter)) for line in lines]
    assert rows in (list(map(list, pairs)), enclosed)


def test_a_quote_may_follow_a_space(tmp_path):
    text = 'title, "category", note\n"A, b", "food", x\nc, food, "d ""e"", f"\n'
    header, rows = read(save(tmp_path, text))
    assert header == ["title", "category", "note"]
    assert rows == [["A, b", "food", "x"], ["c", "food", 'd "e", f']]
    # elsewhere, spaces are text
    assert read(save(tmp_path, 'title,category\n a,b\nsay ""x"", c\n'))[1][0] == [" a", "b"]


@pytest.mark.parametrize(
    "written_as, asked",
    [
        ('"Title\n(short)"', "Title (short)"),
        ("Title  (short)\u00ad", " Title (short)\t"),
        ("ti\u0301tulo", "título"),
        ("título", "ti\u0301tulo"),
        ("\ufeff\ufefftitle", "title"),
    ],
)
def test_a_column_is_found_however_spaces_and_accents_are_encoded(tmp_path, written_as, asked):
    path = save(tmp_path, f"{written_as},category\na,b\n")
    assert read(path, [asked, "category"])[1] == [["a", "b"]]
    assert read(path, ["category", asked], others=False)[1] == [["b", "a"]]


@pytest.mark.parametrize("again", ["title,category", "\ufefftitle,category", '\ufeff"title","category"'])
def test_two_files_joined_are_refused_with_the_row(tmp_path, again):
    refused(save(tmp_path, f"title,category\na,b\n\n{again}\nc,d\n"), "row 2", "joined", "delete that line")


def test_a_title_may_be_the_name_of_its_column(tmp_path):
    rows = [["title", "a"], ["x title", "b"], ["title", "my category"]]
    assert read(save(tmp_path, "title,category\n" + "".join(f"{a},{b}\n" for a, b in rows)))[1] == rows
    assert read(save(tmp_path, "title\na\ntitle\n"), ["title"])[1] == [["a"], ["title"]]


# --- JSON ---------------------------------------------------------------------------------------------------------

OBJECTS = [
    {"title": "A new soup"},
    {"title": "An old king", "url": "http://example.org/1", "id": 7},
    {"id": 8.5, "title": "A cake\u2028", "tags": ["x", None]},
]
CELLS = [
    ["A new soup", "", "", ""],
    ["An old king", "http://example.org/1", "7", ""],
    ["A cake\u2028", "", "8.5", '["x", null]'],
]
LAYOUTS = {
    "lines": "\n" + "\n\ufeff\r\n".join(json.dumps(item, ensure_ascii=False) for item in OBJECTS),
    "array": json.dumps(OBJECTS),
    "pretty array": json.dumps(OBJECTS, indent=2),
}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_json_is_known_by_what_it_holds(tmp_path, text):
    for content in (text, gzip.compress(text.encode())):
        assert read(save(tmp_path, content), ["title"]) == (["title", "url", "id", "tags"], CELLS)


@pytest.mark.parametrize("number, cell", [("Infinity", "Infinity"), ("NaN", ""), ("0.0", "0.0"), ("1e3", "1000.0")])
def test_numbers_in_json_are_texts(tmp_path, number, cell):
    assert read(save(tmp_path, f'{{"title": {number}}}\n', "t.json"), ["title"])[1] == [[cell]]


HALF = "half of a surrogate pair"


@pytest.mark.parametrize(
    "text, words",
    [
        ('[{"title": "a"}, {"title": "b"}', ["the array", "JSON objects", "line 1 column 32"]),
        ('[{"title": "a"}]\n[{"title": "b"}]', ["the array", "JSON objects", "line 2 column 1"]),
        ('[{"title": "a"}, "b"]', ["row 2", "JSON object"]),
        ("[]", ["the header", "'title' once"]),
        ('{"title": "a"}\n{"title": "b"\n', ["row 2", "JSON object"]),
        ('{\n  "title": "a"\n}\n', ["row 1", "one on each line"]),
        ('{"data": [{"title": "a"}]}', ["the header", "'title' once", "'data'"]),
        ('{"title": "a"}\n{"title": "b"}\n{"title": {"0": "c"}}', ["row 3", "'title' holds a list or an object"]),
        ('[{"title": "a"}, {"title": ["b"]}]', ["row 2", "'title' holds a list or an object"]),
        ('{"title": "a"}\n{"title": "\\ud83d"}\n', ["row 2", HALF, "'title'"]),
        ('{"title": "a", "\\uDE00": 1}', ["header", HALF]),
        (b'{"title": "a"}\n{"title": "b", "x": 1}\n{"title": "c", "x": "caf\xe9"}', ["row 3", "not UTF-8", "'x'"]),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, text, words):
    refused(save(tmp_path, text, "t.json"), *words, columns=["title"])


# --- packed files -------------------------------------------------------------------------------------------------


def zipped(members):
    """The bytes of a zip archive of {name: content}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


TEXT = written([["title", "category"], *PAIRS], "\t")
PACKINGS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": lambda content: zipped({"folder/": "", "folder/t.tsv": content, "__MACOSX/folder/._t.tsv": "x"}),
}


@pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS)
def test_packed_files_are_read_whatever_their_name_or_refused(tmp_path, pack):
    whole = pack(TEXT.encode())
    assert read(save(tmp_path, whole, "titles")) == (["title", "category"], PAIRS)
    refused(save(tmp_path, whole[:12], "titles"))
    refused(save(tmp_path, whole[:-9], "titles"))
    refused(save(tmp_path, gzip.compress(whole), "titles"), "save the file as CSV in UTF-8")


def test_a_header_that_begins_like_a_packed_file_is_a_header(tmp_path):
    assert read(save(tmp_path, "BZh,title,category\n1,a,b\n"))[1] == [["1", "a", "b"]]


def test_whatever_is_wrong_in_the_directory_of_a_zip_archive_is_one_line(tmp_path):
    """Each byte behind the packed titles is changed in several ways; reading is right, or refused in one line."""
    whole = zipped({"t.tsv": TEXT})
    begins = whole.index(b"PK\1\2")
    for place, value in itertools.product(range(begins, len(whole)), (0, 1, 127, 255)):
        path = save(tmp_path, whole[:place] + bytes([value]) + whole[place + 1 :], "t.zip")
        try:
            assert read(path)[1] == PAIRS
        except cli.Problem as error:
            assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "content, words",
    [
        (zipped({"a.csv": TEXT, "b.csv": TEXT}), ["2 files", "unpack"]),
        (zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}), ["spreadsheet", "CSV"]),
        (b"\xd0\xcf\x11\xe0\xa1 rest", ["the header", "CSV in UTF-8"]),
        (gzip.compress(b"SQLite format 3\0 rest", mtime=0), ["the header", "CSV in UTF-8"]),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["the header", "git-lfs"]),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, content, words):
    refused(save(tmp_path, content), *words)


# --- Parquet ------------------------------------------------------------------------------------------------------


def parquet(path, columns, metadata=None):
    """Write {name: values} as a Parquet file."""
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(columns).replace_schema_metadata(metadata)
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
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
    path = parquet(tmp_path / "t.bin", columns)
    assert read(path, ["title"]) == (
        list(columns),
        [
            ["Pasta, twice", "1", "0.5", "true", '["a"]', "café"],
            ["", "", "", "false", "[]", ""],
            ["Troy\n2", "3", "2.0", "", "", ""],
        ],
    )
    assert read(path, ["n", "title"], others=False) == (
        ["n", "title"],
        [["1", "Pasta, twice"], ["", ""], ["3", "Troy\n2"]],
    )
    refused(path, "row 1", "'tags' holds a list", columns=["tags"])
    refused(path, "'category' once", "'title', 'n'")


def test_the_names_of_labels_in_parquet_are_the_categories(tmp_path):
    features = {"category": {"names": ["food", "travel"], "_type": "ClassLabel"}, "title": {"_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"title": ["a", "b", "c", "d"], "category": [1, 0, None, -1]}
    path = parquet(tmp_path / "t.parquet", columns, metadata)
    assert read(path)[1] == [["a", "travel"], ["b", "food"], ["c", ""], ["d", "-1"]]


@pytest.mark.parametrize("wrong", [b"caf\xe9", b"a\0b", b"\xed\xa0\x80"], ids=["Latin-1", "NUL", "surrogate"])
def test_bytes_of_parquet_that_are_no_text_are_refused_with_their_column(tmp_path, wrong):
    columns = {"title": ["a", "b", "c"], "category": ["x", "y", "x"], "raw": [b"caf\xc3\xa9", None, wrong]}
    path = parquet(tmp_path / "t.parquet", columns)
    refused(path, "row 3", "column 'raw'")
    # where the column is not asked for, it is in nobody's way
    assert data.copy_titles(path, "title", "category", io.BytesIO()).rows == 3


def test_a_folder_of_parquet_parts_is_one_table(tmp_path, monkeypatch):
    monkeypatch.undo()
    folder = tmp_path / "parts"
    folder.mkdir()
    refused(folder, "folder without *.parquet")
    titles = [f"title {i}" for i in range(10_000)]
    for part in range(3):
        names = {"title": titles[part::3], "category": ["ab"[len(title) % 2] for title in titles[part::3]]}
        # the order of columns may differ
        parquet(folder / f"{part}.parquet", names if part else dict(reversed(names.items())))
    # what a Macintosh adds
    save(folder, b"\0\5\x16\7", "._0.parquet")
    assert data.find_titles(str(folder)) == folder
    header, rows = read(folder)
    assert header == ["category", "title"]
    assert [title for _, title in rows] == titles[::3] + titles[1::3] + titles[2::3]
    before = disk.sha256(folder)
    parquet(folder / "other.parquet", {"text": ["x"]})
    assert disk.sha256(folder) != before
    refused(folder, "other.parquet", "not those of 0.parquet")


def test_damaged_parquet_is_refused(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", {"title": [f"title {i}" for i in range(5000)], "category": ["a"] * 5000})
    whole = path.read_bytes()
    refused(save(tmp_path, whole[:-20], "t.parquet"), "damaged")
    refused(save(tmp_path, b"PAR1" + b"\xff" * 3000 + whole[3004:], "t.parquet"), "damaged")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(path, "pyarrow", "pip install pyarrow", "CSV")


# --- blank titles, categories that are one ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, blank",
    [
        ("", True),
        ("\t\r\n\x85\u2028\xa0\u3000", True),
        ("\x01\x7f\x9b", True),
        ("\u200b\ufeff\u00ad\u202e\u2060\u200d", True),
        ("\u200ba", False),
        # which Python does not know
        ("\U0001fae9", False),
        ("\ue000", False),
        ("\u0301", False),
    ],
)
def test_spaces_control_and_format_characters_are_nothing_to_read(text, blank):
    assert data.is_blank(text) == blank


@pytest.mark.parametrize(
    "names, are_one",
    [
        (["food", "\ufefffood\u200b"], True),
        (["Café", "cafe\u0301"], True),
        (["1", "10"], False),
        (["food", "foods"], False),
        (["c", "c++"], False),
        (["01", "1"], False),
    ],
)
def test_categories_that_are_clearly_one_are_named(names, are_one):
    notes = data.similar_names(names)
    assert len(notes) == are_one
    # what is not seen is shown
    assert not are_one or all(repr(name) in notes[0] for name in names)
