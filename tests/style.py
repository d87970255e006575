"""Is every function called, and how much does a reader take in at once? `python tests/style.py`

Printed for each file of the product: its lines, syntax nodes, nodes a statement, and the lines of its longest
function. `make lint` fails where a limit is passed or where nobody calls a function.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COUNTED = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.stmt, ast.Module)
CALLED_BY_OTHERS = {"table", "load", "forward", "_get_help_string"}  # by users, or by a base class
LINES = 400  # of a file
LONGEST = 60  # lines of a function
DENSITY = 6.2  # syntax nodes a statement, over all files


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
    product = sorted([*ROOT.glob("*.py"), *ROOT.glob("whichlayer/**/*.py")])
    paths = [*product, *ROOT.glob("bench/*.py"), *ROOT.glob("studies/*.py")]
    trees = {path: list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
    faults = unused(trees)
    all_nodes = all_statements = 0
    print(f"{'file':36}{'lines':>9}{'nodes':>9}{'density':>9}{'longest':>9}")
    for path in product:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        nodes = sum(not isinstance(node, NOT_COUNTED) for node in trees[path])
        statements = sum(isinstance(node, ast.stmt) for node in trees[path])
        functions = [node for node in trees[path] if isinstance(node, ast.FunctionDef)]
        longest = max((node.end_lineno - node.lineno + 1 for node in functions), default=0)
        name = str(path.relative_to(ROOT))
        print(f"{name:36}{lines:9}{nodes:9}{nodes / statements:9.1f}{longest:9}")
        if lines > LINES or longest > LONGEST:
            faults.append(f"{name}: {lines} lines, a function of {longest}; at most {LINES} and {LONGEST}")
        all_nodes += nodes
        all_statements += statements
    density = all_nodes / all_statements
    print(f"all files: {all_nodes:,} nodes, {density:.2f} a statement")
    if density > DENSITY:
        faults.append(f"all files: {density:.2f} nodes a statement, at most {DENSITY}")
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
