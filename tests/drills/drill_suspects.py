"""Drill: labels are flipped with a seed; how many of them are among as many first suspects of evaluate.py?

    python tests/drills/drill_suspects.py [TITLES.csv …] > results/suspects.md

Beside it stand cleanlab's rankings of the same probabilities, where cleanlab is installed (pip install cleanlab).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from whichlayer.common import cli  # noqa: E402
from whichlayer.report import answer  # noqa: E402
from whichlayer.report import rows as tables  # noqa: E402

SHARE, SEEDS = 0.05, (0, 1, 2)
RANKINGS = ("normalized_margin", "self_confidence")
TEXT = """# Flipped labels among the suspects in {name}

About {titles:,} titles; with each of the seeds {seeds}, {share:.0%} of the labels were changed to another category.
The encoder is all-MiniLM-L6-v2 with mean pooling, with a linear probe on each layer. Counted are the flipped labels
among as many first suspects, beside the rankings of cleanlab's find_label_issues for the same probabilities.

{table}

The titles have wrong labels of their own, which are suspects as well. Made by:

    python tests/drills/drill_suspects.py TITLES.csv
"""


def run(script, *arguments):
    """One of the scripts, as from a shell; what it prints is not for our own output."""
    command = [sys.executable, ROOT / f"{script}.py", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def flip(path, seed, out):
    """Copy titles with a share of their labels changed to another category; returns the rows that were, from 0 on."""
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)[["title", "category"]]
    names, random = sorted(set(table.category)), np.random.default_rng(seed)
    flipped = random.choice(len(table), round(SHARE * len(table)), replace=False)
    for row in flipped:
        others = [name for name in names if name != table.category[row]]
        table.loc[row, "category"] = random.choice(others)
    table.to_csv(out, index=False)
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
            orders = {f"evaluate.py {options}": pandas.read_csv(folder / "s.csv").row.to_numpy() - 1}
            (table,) = tables.read_tables(Path(results[1]))
            row = min(answer.compare(table, 0.01).compared, key=lambda row: row.figures.log_loss)
            probabilities = tables.judge(row, table).probabilities
            for by in RANKINGS:
                orders[f"the same probabilities, cleanlab by {by}"] = cleanlab_order(probabilities, table.labels, by)
            for name, order in orders.items():
                hits = None if order is None else len(np.intersect1d(order[: len(flipped)], flipped))
                found[options, name] = hits
        return len(flipped), found


def main(path):
    drills = [drill(path, seed) for seed in SEEDS]
    total = sum(number for number, _ in drills)
    rows = []
    for ranking in drills[0][1]:
        counts = [found[ranking] for _, found in drills]
        cells = ["not installed"] * (len(SEEDS) + 1)
        if None not in counts:
            cells = [f"{n} of {flipped}" for n, (flipped, _) in zip(counts, drills, strict=True)]
            cells.append(f"{sum(counts)} of {total}, {sum(counts) / total:.1%}")
        rows.append((ranking[1], *cells))
    text = TEXT.format(
        name=Path(path).name,
        titles=round(total / len(SEEDS) / SHARE),
        seeds=", ".join(map(str, SEEDS)),
        share=SHARE,
        table=cli.markdown([":Ranking", *(f"Seed {seed}" for seed in SEEDS), "Together"], rows),
    )
    print(text)


if __name__ == "__main__":
    for titles in sys.argv[1:] or [ROOT / "titles" / "sample.csv"]:
        main(titles)
