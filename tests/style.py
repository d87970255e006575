"""Is every function called, and how much does a reader have to take in at once? Run by `make lint`.

    python tests/style.py

Printed for each file: lines; syntax nodes a statement; lines over 100 columns; look-ups of a key that is written as a
string; assignments of several names at once; lines of the longest function; share of lines that are comments.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COUNTED = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.stmt, ast.Module)
CALLED_BY_OTHERS = {"table", "load"}  # what users call from Python; the rest has to be called here
FILE_LIMITS = {"lines": 400, "nodes": 9.0, "longest": 60}
TOTAL_LIMITS = {"nodes": 7.5, "wide": 200, "keys": 150, "several": 90}
FEWEST_COMMENTS = 0.04


def measure(path):
    """The figures of one file, by name; statements and syntax nodes are counted, "nodes" is their ratio."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    keys = [node.slice for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)]
    assigned = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    return {
        "lines": len(lines),
        "statements": sum(isinstance(node, ast.stmt) for node in nodes),
        "counted": sum(not isinstance(node, NOT_COUNTED) for node in nodes),
        "wide": sum(len(line) > 100 for line in lines),
        "keys": sum(isinstance(key.value, str) for key in keys),
        "several": sum(isinstance(target, ast.Tuple) for target in assigned),
        "longest": max((node.end_lineno - node.lineno + 1 for node in functions), default=0),
        "comments": sum(line.strip().startswith("#") for line in lines),
    }


def with_ratios(figures):
    """Figures with the nodes a statement and the share of comments."""
    nodes = round(figures["counted"] / max(figures["statements"], 1), 1)
    return figures | {"nodes": nodes, "share": figures["comments"] / figures["lines"]}


def unused(paths):
    """The top-level functions, classes and methods that no file names but where they are defined."""
    defined, named = {}, set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name] = path.name
            elif isinstance(node, ast.Name):
                named.add(node.id)
            elif isinstance(node, ast.Attribute):
                named.add(node.attr)
            elif isinstance(node, ast.alias):
                named.add(node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.update(node.value.split("_", 1))  # bench.py calls its parts by name
    special = {name for name in defined if name.startswith("__") or name in CALLED_BY_OTHERS}
    overridden = {"forward", "do_GET", "_get_help_string"}  # called by the class that they belong to
    return {name: where for name, where in defined.items() if name not in named | special | overridden}


def main():
    columns = ("lines", "nodes", "wide", "keys", "several", "longest", "share")
    print(f"{'file':16}" + "".join(f"{name:>9}" for name in columns))
    paths = sorted(ROOT.glob("*.py"))
    faults, total = [], {}
    for path in paths:
        figures = measure(path)
        for name, value in figures.items():
            total[name] = total.get(name, 0) + value
        figures = with_ratios(figures)
        print(f"{path.name:16}" + "".join(f"{figures[name]:9.3g}" for name in columns))
        faults += [f"{path.name}: {n} {figures[n]}, at most {most}" for n, most in FILE_LIMITS.items() if figures[n] > most]
    total = with_ratios(total)
    print(f"{'all':16}" + "".join(f"{total[name]:9.4g}" for name in columns))
    faults += [f"all files: {n} {total[n]}, at most {most}" for n, most in TOTAL_LIMITS.items() if total[n] > most]
    if total["share"] < FEWEST_COMMENTS:
        faults.append(f"all files: {total['share']:.1%} comments, at least {FEWEST_COMMENTS:.0%}")
    faults += [f"{where}: nobody calls {name}" for name, where in unused(paths).items()]
    print("\n".join(faults), file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
