"""The house: what stands where, what imports what, and that its names clash with nobody's."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import PRODUCT, ROOT

# from what knows nothing to what knows everything: a file imports from its own storey and those before
STOREYS = ("common", "reading", "data", "scores", "encoder", "heads", "report", "scripts")
PLACES = {"model": "heads", "apply": "report"} | dict.fromkeys(("extract", "train", "evaluate", "predict"), "scripts")
OUTSIDE = {"bench", "studies", "tests"}
ROOMS = sorted(path.parent for path in ROOT.glob("whichlayer/*/__init__.py"))


def storey(names):
    """The number of the storey of a module, by its name in parts; None for what is not ours."""
    place = names[1] if names[0] == "whichlayer" and len(names) > 1 else names[0]
    place = PLACES.get(place, place)
    return STOREYS.index(place) if place in STOREYS else None


def imported(path):
    """The modules that a file imports, anywhere in it, by their names in parts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([*node.module.split("."), alias.name] for alias in node.names)


def test_six_files_at_the_top():
    top = [path.stem for path in sorted(ROOT.glob("*.py"))]
    assert top == ["data", "evaluate", "extract", "model", "predict", "train"]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = storey(path.relative_to(ROOT).with_suffix("").parts)
    for names in imported(path):
        assert names[0] not in OUTSIDE
        there = storey(names)
        assert there is None or there <= own, f"{path.name} imports {'.'.join(names)}"
        # a script is nobody's library
        assert there is None or there < len(STOREYS) - 1, f"{path.name} imports {'.'.join(names)}"


def test_the_runtime_needs_four_packages_with_exact_versions():
    lines = (ROOT / "requirements.txt").read_text().split()
    needed = [line.split("==")[0] for line in lines]
    assert needed == ["numpy", "pandas", "torch", "transformers"]
    assert all(re.fullmatch(r"[a-z]+==\d+(\.\d+)+", line) for line in lines)
    allowed = {*needed, "tqdm", "safetensors", "huggingface_hub", "filelock", "regex"}  # the last five come along
    # optional; scipy comes with sklearn
    allowed |= {"sklearn", "scipy", "matplotlib", "sentence_transformers", "pyarrow"}
    allowed |= sys.stdlib_module_names | {path.stem for path in ROOT.glob("*.py")} | {"whichlayer"}
    for path in PRODUCT:
        assert {names[0] for names in imported(path)} <= allowed, path


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_is_small_and_says_what_is_in_it(room):
    files = [path.stem for path in room.glob("*.py") if path.stem != "__init__"]
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert len(files) <= 10
    assert not [name for name in files if name not in text]


def test_names_of_a_users_own_modules_do_not_clash(tmp_path):
    """`predict`, imported in another folder, where the user's modules have names like those of our folders."""
    for name in ("common", "report", "apply", "reading", "disk", "cli"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    code = f"import common, report, sys; sys.path.append({str(ROOT)!r}); import predict; import apply, disk\n"
    code += "assert common.mine and report.mine and apply.mine and disk.mine; print(predict.choose.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith("whichlayer."), done.stderr


ASK_FOR_HELP = """
import contextlib, runpy, sys
script = sys.argv[1]
sys.argv = [script, "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_path(script, run_name="__main__")
print(sorted({"torch", "transformers", "numpy", "pandas"} & set(sys.modules)))
"""


@pytest.mark.parametrize("script", ["extract", "train", "evaluate", "predict"])
def test_help_answers_at_once_from_another_folder_beside_such_modules(tmp_path, script):
    for name in ("common", "report"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    command = [sys.executable, "-W", "error", "-c", ASK_FOR_HELP, ROOT / f"{script}.py"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.endswith("[]\n") and "show this help" in done.stdout, done.stderr
