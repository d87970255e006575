"""Files that come from others: none is run, none is a pickle, and no name in them leads out of a folder."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import PRODUCT, call, refused, write_bert, write_titles

from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.reading import tables


class Bomb:
    """What an attacker puts into a pickle: reading it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def marker(tmp_path):
    """The file that foreign code would make; the test fails when it is there in the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def test_the_bomb_is_real(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "made"))).close()
    assert (tmp_path / "made").exists()


# --- encoders -----------------------------------------------------------------------------------------------------


def extract(tmp_path, folder):
    return call("extract", "--data", write_titles(tmp_path / "t.csv", 15), "--model", folder, "--out", tmp_path / "f")


def test_pickled_weights_are_not_read(tmp_path, marker):
    folder = Path(write_bert(tmp_path / "bert"))
    bomb = pickle.dumps(Bomb(marker))
    # beside others, instead of them, and in their name
    (folder / "pytorch_model.bin").write_bytes(bomb)
    assert extract(tmp_path, folder).code == 0
    (folder / "model.safetensors").unlink()
    refused(extract(tmp_path, folder), "hold its weights as safetensors")
    (folder / "model.safetensors").write_bytes(bomb)
    refused(extract(tmp_path, folder), "--model", "hold its weights as safetensors")


def add_code(folder, marker, **config):
    """Give an encoder's folder code of its own, which the configuration and the tokenizer ask for."""
    folder = Path(folder)
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    names = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    for file, more in ("config.json", {**config, "auto_map": names}), ("tokenizer_config.json", {"auto_map": names}):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **more}))
    return folder


def test_an_encoder_that_needs_its_own_code_is_refused(tmp_path, marker):
    folder = add_code(write_bert(tmp_path / "bert"), marker, model_type="own")
    refused(extract(tmp_path, folder), "run without code of its authors")


def test_a_known_encoder_with_code_beside_it_runs_without(tmp_path, marker):
    folder = add_code(write_bert(tmp_path / "bert"), marker)
    result = extract(tmp_path, folder)
    assert result.code == 0, result.err


# --- features -----------------------------------------------------------------------------------------------------


def edit_manifest(folder, edit):
    """Change a manifest as someone would who knows how its checksum is made."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum")
    edit(manifest)
    disk.write_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize("is_bare", [False, True])
def test_pickled_features_are_refused(features, marker, is_bare):
    path = features / "cls-01.npy"
    if is_bare:
        path.write_bytes(pickle.dumps(Bomb(marker)))
    else:
        with open(path, "wb") as file:
            np.save(file, np.array([[Bomb(marker)]], dtype=object), allow_pickle=True)
    entry = {"bytes": path.stat().st_size, "sha256": disk.sha256(path)}
    edit_manifest(features, lambda m: m["files"].update({"cls-01.npy": entry}))
    with pytest.raises(cli.Problem, match="gone or changed since it was written"):
        store.open_features(features).read("cls", 1)


def test_a_manifest_that_names_other_files_is_refused(features):
    before = (features / "manifest.json").read_bytes()
    for name in (
        "../cls-01.npy",
        "/etc/passwd",
        "cls-1.npy",
        "cls-01.npy/..",
        "zzz-01.npy",
        "cls-٠١.npy",
        "cls-01.npy\n",
    ):
        (features / "manifest.json").write_bytes(before)
        edit_manifest(features, lambda m, name=name: m["files"].update({name: m["files"]["cls-01.npy"]}))
        with pytest.raises(cli.Problem, match="manifest.json"):
            store.open_features(features)


def test_feature_names_of_deep_encoders_are_allowed(features):
    edit_manifest(features, lambda m: m["files"].update({"cls-100.npy": m["files"]["cls-01.npy"]}))
    assert store.open_features(features).layers("cls") == [1, 2, 100]


# --- names and cells ----------------------------------------------------------------------------------------------


HOSTILE = ["../../x", "a/b", "", "...", ".hidden", "-rf", "a\\b", "a\0b", "~", "C:\\x", "x" * 500, "日本語" * 100]
HOSTILE += ["x" * 59 + ".x", "\u202etxt.exe", "a b\n", "..", "/", "_"]


def test_names_from_outside_make_harmless_paths(tmp_path):
    for name in HOSTILE:
        made = disk.slug(name)
        assert 1 <= len(made) <= 60 and len(made.encode()) < 200
        assert made[0] not in ".-~" and made[-1] not in ".-"
        assert all(c.isalnum() or c in ".-" for c in made)
        assert (tmp_path / made).resolve().parent == tmp_path.resolve()
        (tmp_path / made).mkdir(exist_ok=True)  # the file system takes it
    for name, known in (("bert-base-uncased",) * 2, ("google/electra-small", "google-electra-small")):
        assert disk.slug(name) == known


def test_no_cell_is_a_formula():
    formulas = ["=1+1", "+1+1", "-A1", "-٣", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://example.org")']
    formulas += ["@a see SUM(A1)", "-1 +cmd|' /C calc'!A0", "+ 'http://example.org/[a.xls]b'!A1", "-\t1+hyperlink(1)"]
    for text in formulas:
        assert tables.escape_cell(text) == "'" + text
    harmless = [
        "",
        "1+1",
        "-1",
        "+2.5",
        "how to = what",
        "'quoted'",
        "日本",
        " plain",
        "@someone hello (again)!",
        "- a list",
    ]
    for text in harmless:
        assert tables.escape_cell(text) == text


# --- the source ---------------------------------------------------------------------------------------------------


def test_the_source_has_no_way_to_run_what_it_reads():
    banned = re.compile(
        r"pickle\.load|import pickle|torch\.load\(|allow_pickle\s*=\s*True|trust_remote_code\s*=\s*True"
        r"|(?<![\w.])(eval|exec)\(|shell\s*=\s*True|os\.system|yaml\.load|joblib"
    )
    for path in PRODUCT:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if banned.search(line)], path
    assert banned.search("x = eval(text)") and not banned.search("model.eval()")
