"""Interrupted extractions: whatever stops one, what is left is never taken for features, and the same command goes on.

KILLS=200 kills as many extractions in the test. `python tests/test_interrupted.py 200` does the same and prints what came
of it as markdown.
"""
import collections
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import conftest  # first: it lets the scripts be imported
import data
from conftest import ROOT, call, refused, write_bert, write_titles

SETTINGS = ["--dtype", "float32", "--pooling", "cls", "mean", "--max-length", "8"]


# --- killed at random moments -------------------------------------------------------------------------------------


def contents(folder):
    """{name: bytes} of a finished extraction, its manifest without what tells one run from another."""
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}
    manifest = json.loads(kept["manifest.json"])
    return kept | {"manifest.json": json.dumps({k: v for k, v in manifest.items() if k not in ("made", "checksum")})}


def stage(out):
    """How far an extraction has come that was killed, as (what it was doing, windows that it had recorded)."""
    import extract

    if not (out / "partial" / "job.json").exists():
        return ("deleting what is no longer needed" if (out / "manifest.json").exists() else "checking the titles"), 0
    windows = len(extract.recorded(out / "partial"))
    if (out / "manifest.json").exists():
        return "deleting what is no longer needed", windows
    if any(out.glob("*.npy")):
        return "giving the files their final names", windows
    return "computing", windows


def begin(arguments):
    """Run extract.py in a child process that is a fork of this one; returns its id when its encoder is loaded."""
    import extract

    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import torch
            torch.set_num_threads(1)  # a fork cannot use the threads of its parent
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            load = extract.load_encoder

            def load_and_tell(*args):
                encoder = load(*args)
                os.write(writable, b"!")
                return encoder

            extract.load_encoder = load_and_tell
            data.run(extract.main, extract.parse_arguments(arguments))
            code = 0
        except SystemExit as exit:
            code = exit.code
        finally:
            os._exit(code)
    os.close(writable)
    loaded = os.read(readable, 1)
    os.close(readable)
    assert loaded, f"extract.py could not begin: {os.waitpid(child, 0)}"
    return child


def kill_again_and_again(kills, in_a_row=20, seed=0, rows=1170, window=32):
    """Kill extractions until `kills` have died, going on after each, and compare each one that was finished at last.

    The moment of a kill is uniformly random over a share of the work that is left, chosen so that one extraction dies
    about `in_a_row` times; the last three times at its very end. Nothing is computed in this process: it only forks, kills, looks and compares.
    """
    import transformers  # so that no fork has to import it
    transformers.BertModel, transformers.BertTokenizer, transformers.AutoModel, transformers.AutoTokenizer

    chance, started, ended = random.Random(seed), time.time(), os.WEXITED | os.WNOHANG | os.WNOWAIT
    windows = -(-rows // window)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        titles = write_titles(scratch / "titles.csv", rows)
        if (child := os.fork()) == 0:
            write_bert(scratch / "bert", layers=4, hidden=96)
            os._exit(0)
        os.waitpid(child, 0)
        command = ["--data", titles, "--model", str(scratch / "bert"), "--window", str(window), *SETTINGS, "--out"]
        begun = begin([*command, str(scratch / "whole")])
        since = time.time()
        assert os.waitpid(begun, 0)[1] == 0
        each = (time.time() - since) / windows
        whole = contents(scratch / "whole")
        died, longest, rounds, same = collections.Counter(), 0, 0, True
        while died.total() < kills:
            out, row, before, alive = scratch / f"killed-{rounds}", 0, 0, True
            while alive:
                left = min(in_a_row - row, kills - died.total())
                child = begin([*command, str(out)])
                if left > 3:
                    time.sleep(chance.uniform(0, each * (2 * (windows - before) / left + 2)))
                elif left > 0:  # the last ones die while their files get final names, or just after
                    while not any(out.glob("*.npy")) and os.waitid(os.P_PID, child, ended) is None:
                        time.sleep(0.001)
                    time.sleep(chance.uniform(0, 2 * each))
                if left > 0:
                    os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                alive = os.WIFSIGNALED(status)
                if alive:
                    doing, now = stage(out)
                    assert now >= before or doing.startswith("deleting"), f"{before - now} recorded windows were lost"
                    assert doing.startswith("deleting") == (out / "manifest.json").exists()
                    died[doing] += 1
                    row, before = row + 1, now
                assert alive or status == 0, f"extract.py ended with {os.waitstatus_to_exitcode(status)}"
            same = same and contents(out) == whole
            shutil.rmtree(out)
            rounds, longest = rounds + 1, max(longest, row)
    return {"killed": died.total(), "longest": longest, "extractions": rounds, "windows": windows, "same": same,
            "stages": dict(died), "seconds": time.time() - started, "window": window, "rows": rows}


def report(outcome):
    """The outcome of kill_again_and_again as markdown."""
    rows = [("processes killed (SIGKILL)", f"{outcome['killed']:,}"), ("most kills in one extraction", outcome["longest"]),
            ("extractions, each finished in the end", outcome["extractions"]),
            ("windows in each", f"{outcome['windows']} of {outcome['window']} titles, {outcome['rows']:,} in all"),
            *((f"killed while {stage}", count) for stage, count in sorted(outcome["stages"].items())),
            ("same bytes as an extraction that nobody stopped", "yes" if outcome["same"] else "NO"),
            ("seconds", f"{outcome['seconds']:.0f}")]
    options = " ".join(SETTINGS)
    return "\n".join(["# Killed and resumed", "", "| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows), "",
                      "Compared are all files but the manifest's `made` and `checksum`. The encoder is a random BERT of 4 layers. "
                      "Each time the same command went on:", "",
                      f"    python extract.py --data titles.csv --model bert --window {outcome['window']} {options} --out features",
                      "", "Made by:", "", f"    python tests/test_interrupted.py {outcome['killed']}"])


def test_killed_extractions_end_with_the_same_bytes():
    kills = int(os.environ.get("KILLS", 20))
    drill = subprocess.run([sys.executable, __file__, str(kills)], text=True, capture_output=True, timeout=60 + 3 * kills)
    print(drill.stdout)
    assert drill.returncode == 0, drill.stderr
    assert f"| processes killed (SIGKILL) | {kills:,} |" in drill.stdout
    assert "| same bytes as an extraction that nobody stopped | yes |" in drill.stdout


if __name__ == "__main__":
    OUTCOME = kill_again_and_again(int(sys.argv[1]) if sys.argv[1:] else 20)
    print(report(OUTCOME))
    sys.exit(0 if OUTCOME["same"] else 1)
