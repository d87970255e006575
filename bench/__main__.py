"""Measure time and memory, beside what one would use instead in the same run; markdown tables.

    python -m bench extract    # titles a second, beside sentence-transformers and a plain loop
    python -m bench train      # both heads, beside the usual loop and scikit-learn
    python -m bench predict    # one title: to the first answer, and each one more
    python -m bench answer     # from titles to the table, beside transformers and scikit-learn
    python -m bench real       # every step with usual encoders and real titles, and for a million
    python -m bench all > results/bench.md

Contenders take turns, round after round, so that a machine that slows down slows all of them;
figures are medians. What one would use instead is in usual.py.
"""

from whichlayer.common import cli

PARTS = ("extract", "train", "predict", "answer", "real")


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("what", choices=(*PARTS, "all"), help="what to measure")
    add("--runs", type=cli.number(int, 1), default=3, help="rounds of extract, train and predict")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="the titles")
    add(
        "--model",
        nargs="+",
        metavar="NAME",
        help="encoders; random has bert-base's shape (default: minilm, and but for answer random, too)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import tempfile
import time
from pathlib import Path

import transformers

from bench import answers, many, steps

BENCHES = {
    "extract": steps.bench_extract,
    "train": steps.bench_train,
    "predict": answers.bench_predict,
    "answer": answers.bench_answer,
    "real": many.bench_real,
}


def main(args):
    transformers.logging.disable_progress_bar()
    for name in PARTS if args.what == "all" else [args.what]:
        started = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            BENCHES[name](args, Path(temporary))
        cli.say(f"{name}: {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
