"""Is every function called, and how much does a reader take in at once? `python tests/style.py`

Printed for each file: lines; syntax nodes a statement; lines over 100 columns; look-ups of a string
key; assignments of several names; lines of the longest function; share of lines that are comments.
`make lint` runs it.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COUNTED = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.stmt, ast.Module)
CALLED_BY_OTHERS = {"table", "load", "forward", "_get_help_string"}  # by users, or by a base class
COLUMNS = ("lines", "nodes", "wide", "keys", "several", "longest", "share")
FILE_LIMITS = {"lines": 400, "nodes": 9.0, "longest": 60}
TOTAL_LIMITS = {"nodes": 7.5, "wide": 200, "keys": 150, "several": 90}
FEWEST_COMMENTS = 0.04


def measure(nodes, lines):
    """What there is in one file, counted; nodes: all of its syntax tree."""
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    keys = [node.slice for node in nodes if isinstance(node, ast.Subscript)]
    assigned = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    return {
        "lines": len(lines),
        "statements": sum(isinstance(node, ast.stmt) for node in nodes),
        "counted": sum(not isinstance(node, NOT_COUNTED) for node in nodes),
        "wide": sum(len(line) > 100 for line in lines),
        "keys": sum(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys),
        "several": sum(isinstance(target, ast.Tuple) for target in assigned),
        "longest": max((node.end_lineno - node.lineno + 1 for node in functions), default=0),
        "comments": sum(line.strip().startswith("#") for line in lines),
    }


def judge(name, counts, limits):
    """Print the figures of a file, or of all; returns what is beyond a limit, in words."""
    nodes = round(counts["counted"] / max(counts["statements"], 1), 1)
    figures = {**counts, "nodes": nodes, "share": counts["comments"] / counts["lines"]}
    print(f"{name:16}" + "".join(f"{figures[column]:9.4g}" for column in COLUMNS))
    beyond = [what for what, most in limits.items() if figures[what] > most]
    return [f"{name}: {what} {figures[what]}, at most {limits[what]}" for what in beyond]


def unused(trees):
    """A sentence for each function, class or method that no file names; trees: {path: nodes}."""
    defined = {}
    named = set(CALLED_BY_OTHERS)
    for path, nodes in trees.items():
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name] = path.name
            else:
                named.update(getattr(node, field, None) for field in ("id", "attr", "name"))
    unnamed = sorted(name for name in defined.keys() - named if not name.startswith("__"))
    return [f"{defined[name]}: nobody calls {name}" for name in unnamed]


def main():
    print(f"{'file':16}" + "".join(f"{name:>9}" for name in COLUMNS))
    paths = sorted([*ROOT.glob("*.py"), *ROOT.glob("whichlayer/**/*.py"), *ROOT.glob("bench/*.py")])
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    trees = {path: list(ast.walk(ast.parse(text))) for path, text in texts.items()}
    faults = []
    total = Counter()
    for path, text in texts.items():
        counts = measure(trees[path], text.splitlines())
        total.update(counts)
        faults += judge(path.name, counts, FILE_LIMITS)
    faults += judge("all files", total, TOTAL_LIMITS)
    share = total["comments"] / total["lines"]
    if share < FEWEST_COMMENTS:
        faults.append(f"all files: {share:.1%} comments, at least {FEWEST_COMMENTS:.0%}")
    sys.exit("\n".join(faults + unused(trees)) or 0)


if __name__ == "__main__":
    main()
