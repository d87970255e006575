"""What the benchmarks share: clocks, titles, an encoder, tables."""

import importlib.metadata
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas
import torch
import transformers

import data
from whichlayer.common import cli
from whichlayer.encoder.loading import find_model

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "scikit-learn", "sentence-transformers")
# of the processor, as Linux names them, and as they are printed; the first ones found are
INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}
# runs a command from a process that is itself small: a child starts with the peak of its parent
MEASURE = """import resource, subprocess, sys, time
started = time.time()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.time() - started
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


# --- clocks ---------------------------------------------------------------------------------------


@dataclass
class Took:
    """What a contender or a script took."""

    seconds: float  # of a contender, the median over rounds
    result: object = None  # what a contender returned in the last round
    peak: float = 0.0  # a script's memory, in MB


def take_turns(contenders, rounds):
    """{name: Took} for {name: function without arguments}: all in turn, round after round. One that
    returns a Took has measured itself.
    """
    found = {name: [] for name in contenders}
    for turn in range(1, rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            outcome = work()
            took = Took(time.perf_counter() - started, outcome)
            found[name].append(outcome if isinstance(outcome, Took) else took)
            cli.say(f"round {turn} of {rounds}: {name}, {found[name][-1].seconds:.2f} s")
    medians = {name: statistics.median(each.seconds for each in every) for name, every in found.items()}
    return {name: Took(medians[name], every[-1].result) for name, every in found.items()}


def run(script, *options):
    """What one of the scripts Took, from its start to its end. One that fails is a Problem."""
    command = [sys.executable, ROOT / script, *options, "--quiet"]
    words = [sys.executable, "-c", MEASURE, *map(str, command)]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise cli.Problem(f"{script} failed; its message stands above")
    seconds, peak = map(float, done.stdout.split())
    # bytes there, kilobytes here
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    return Took(seconds, peak=peak * unit)


# --- titles, an encoder ---------------------------------------------------------------------------


def read_titles(name):
    """The titles and the categories of --data in an order of their own, as two lists."""
    table = pandas.read_csv(data.find_titles(name), dtype=str, keep_default_na=False)
    pairs = table[["title", "category"]].values.tolist()
    random.Random(0).shuffle(pairs)
    return [list(column) for column in zip(*pairs, strict=True)]


def write_titles(path, titles, categories):
    """Write a file of titles that extract.py reads."""
    pandas.DataFrame({"title": titles, "category": categories}).to_csv(path, index=False)


def make_encoder(folder, **config):
    """Save a BERT with random weights, bert-base's shape if nothing is said; returns the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(find_model("minilm")[0])
    torch.manual_seed(0)
    shape = transformers.BertConfig(vocab_size=len(tokenizer), **config)
    transformers.BertModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- tables ---------------------------------------------------------------------------------------


def processor():
    """The processor's name, and which of the INSTRUCTIONS it has."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    named = re.search(r"model name\s*: (.*)", text)
    name = named[1] if named else platform.machine()
    flags = re.search(r"flags\s*: (.*)", text)
    known = set(flags[1].split()) if flags else set()
    found = [word for flag, word in INSTRUCTIONS.items() if flag in known]
    if "AMX" in found:
        return f"{name} (with {' and '.join(found[:2])})"
    return f"{name} ({', '.join([*found[:1], 'no AMX'])})"


def print_table(columns, rows):
    """Print the line that says where, with what and how, and a markdown table."""
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
    command = " ".join(["-m bench", *sys.argv[1:]])
    print(f"{processor()}, {torch.get_num_threads()} threads; {versions}", end="; ")
    print(f"{time.strftime('%Y-%m-%d')}; `python {command}`\n")
    print(cli.markdown(columns, rows), end="\n\n", flush=True)
