"""Drill: labels are flipped with a seed; how many of them are among as many first suspects of evaluate.py?

    python tests/drills/drill_suspects.py [TITLES.csv …] > results/suspects.md

Beside it stand cleanlab's rankings of the same probabilities, where cleanlab is installed (pip install cleanlab).
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from whichlayer.common import cli  # noqa: E402
from whichlayer.report import answer as answers  # noqa: E402
from whichlayer.report import rows as tables  # noqa: E402
from whichlayer.report import suspects  # noqa: E402

SHARE, SEEDS = 0.05, (0, 1, 2)
RANKINGS = ("normalized_margin", "self_confidence")


def run(script, *arguments):
    """One of the scripts, as from a shell; what it prints is not for our own output."""
    command = [sys.executable, ROOT / f"{script}.py", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def flip(path, seed, out):
    """Copy titles with a share of their labels changed to another category; returns the rows that were, from 0 on."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [[row["title"], row["category"]] for row in csv.DictReader(file)]
    names, random = sorted({label for _, label in rows}), np.random.default_rng(seed)
    flipped = random.choice(len(rows), round(SHARE * len(rows)), replace=False)
    for i in flipped:
        rows[i][1] = str(random.choice([name for name in names if name != rows[i][1]]))
    with open(out, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("title", "category"), *rows])
    return flipped


def cleanlab_order(probabilities, labels, by):
    """The rows that cleanlab takes for wrong labels, in its order; none where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    return find_label_issues(labels, probabilities, return_indices_ranked_by=by, n_jobs=1)


def drill(path, seed):
    """(flipped labels, {(evaluate.py's options, ranking): flipped labels among as many first}) for one seed."""
    with tempfile.TemporaryDirectory() as folder:
        folder, found = Path(folder), {}
        flipped = flip(path, seed, folder / "flipped.csv")
        features, results = ["--features", folder / "features"], ["--results", folder / "results"]
        run("extract", "--data", folder / "flipped.csv", "--model", "minilm", "--pooling", "mean", "--out", features[1])
        run("train", *features, *results, "--each", "--head", "linear")
        for options in ("--suspects", "--baselines --suspects"):
            run("evaluate", *results, *options.split(), folder / "s.csv")
            with open(folder / "s.csv", newline="", encoding="utf-8") as file:
                orders = {f"evaluate.py {options}": [int(row["row"]) - 1 for row in csv.DictReader(file)]}
            (table,) = tables.read_tables(Path(results[1]))
            probabilities, _, source = suspects.ensemble(table, answers.compare(table, 0.01))
            print(f"seed {seed}, {options}: {source}", file=sys.stderr)
            for by in RANKINGS:
                orders[f"the same probabilities, cleanlab by {by}"] = cleanlab_order(probabilities, table.labels, by)
            for name, order in orders.items():
                hits = None if order is None else len(np.intersect1d(order[: len(flipped)], flipped))
                found[options, name] = hits
        return len(flipped), found


def main(path):
    drills = [drill(path, seed) for seed in SEEDS]
    total = sum(number for number, _ in drills)
    titles = round(total / len(SEEDS) / SHARE)
    print(
        f"# Flipped labels among the suspects in {Path(path).name}\n\nAbout {titles:,} titles; with each of the seeds",
        end=" ",
    )
    print(f"{', '.join(map(str, SEEDS))}, {SHARE:.0%} of the labels were changed to another category. The encoder is")
    print("all-MiniLM-L6-v2 with mean pooling, with a linear probe on each layer. Counted are the flipped labels among")
    print("as many first suspects, beside the rankings of cleanlab's find_label_issues for the same probabilities.\n")
    rows = []
    for ranking in drills[0][1]:
        counts = [found[ranking] for _, found in drills]
        cells = ["not installed"] * (len(SEEDS) + 1)
        if None not in counts:
            cells = [f"{n} of {flipped}" for n, (flipped, _) in zip(counts, drills, strict=True)]
            cells.append(f"{sum(counts)} of {total}, {sum(counts) / total:.1%}")
        rows.append((ranking[1], *cells))
    print(cli.markdown([":Ranking", *(f"Seed {seed}" for seed in SEEDS), "Together"], rows))
    print("\nThe titles have wrong labels of their own, which are suspects as well. Made by:\n")
    print("    python tests/drills/drill_suspects.py TITLES.csv\n")


if __name__ == "__main__":
    for titles in sys.argv[1:] or [ROOT / "titles" / "sample.csv"]:
        main(titles)
