"""What every script does the same: problems, exit codes, messages, progress, argument types."""

import argparse
import contextlib
import os
import re
import shlex
import signal
import sys
from pathlib import Path

VERSION = "0.2.0"
POOLINGS = ("cls", "mean")
STATE = {"quiet": False}  # whether this process prints nothing but results and errors


class Problem(Exception):
    """Something that the user can mend. Its text is the one line that they see; the exit code is 2."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the description's layout and names the defaults, so that nobody types them twice."""

    def _get_help_string(self, action):
        default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
        named = default not in (None, "", argparse.SUPPRESS) and default is not False
        return f"{action.help} (default: {default})" if named and "(default: " not in action.help else action.help


def parser(doc):
    """An argument parser for a script with this docstring, with the options that all scripts have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=Help)
    made.add_argument("--version", action="version", version=VERSION)
    made.add_argument("--quiet", action="store_true", help="print nothing but results and errors")
    return made


def begin(parse_arguments):
    """Make ready for the slow imports that follow: threads, Ctrl-C, output; then parse the command line.

    Threads that wait for one another are told not to spin for long: beside another busy process, spinning makes
    training several times slower. No more threads are taken than the process may use.
    """

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # numpy's and scipy's own threads; 4 is the least
    os.environ.setdefault("OMP_NUM_THREADS", str(processors()))
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a terminal that knows no ≈ shows its code
    return parse_arguments()


def leave(*_):
    """End at once on Ctrl-C during imports: an exception there may come out as another one, or be swallowed."""
    os.write(2, f"{Path(sys.argv[0]).name}: stopped\n".encode())
    os._exit(130)


def processors():
    """How many processors this process may use: its affinity, and its container's quota (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or the quota is the word max
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        count = min(count, max(1, -(-quota // period)))
    return count


def choose_device(name):
    """The torch device for --device; under torchrun each process takes the GPU of its local rank."""
    import torch

    if name == "cpu" or name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if not re.fullmatch(r"auto|cuda(:\d+)?", name, re.ASCII):
        raise Problem(f"--device {name}: use auto, cpu, cuda or cuda:0, cuda:1 …")
    count, index = (
        torch.cuda.device_count(),
        name.partition(":")[2] or os.environ.get("LOCAL_RANK", 0),
    )
    if not count or ":" in name and int(index) >= count:
        raise Problem(f"--device {name}: torch sees {count} CUDA devices here; use --device cpu")
    return torch.device("cuda", int(index) % count)


def launch(main, args):
    """Call main(args) and leave the process: 0, 2 for a Problem, 1 for the machine's faults, 130 for Ctrl-C."""
    script, code = Path(sys.argv[0]).name, 1
    STATE["quiet"] = args.quiet
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(args)
        if sys.stdout:  # none where the caller has closed it
            sys.stdout.flush()
        return
    except Problem as error:
        code, line = 2, str(error)
    except KeyboardInterrupt as error:
        code, line = 130, str(error) or "stopped; nothing half-written is left behind"
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        line = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except (MemoryError, RuntimeError) as error:  # torch says in words that memory is short
        short = ("out of memory", "not enough memory", "can't allocate memory")
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in short):
            raise
        line = f"out of memory ({one_line(error)[:200]})"
    print(f"{script}: {one_line(line)}", file=sys.stderr, flush=True)
    sys.exit(code)


def one_line(text):
    """The text on one line, with control characters shown as escapes: it may hold names that come from a file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(text).split()))


def say(text):
    """Print a line for people on standard error, so that standard output stays what other programs may read."""
    if not STATE["quiet"]:
        print(text, file=sys.stderr, flush=True)


def command(script, *words, **options):
    """A command to run next, ready to paste: the interpreter and the folder that this script was called with.

    options: what to pass on, as name=(value, default); one that has its default is left out.
    """
    given = []
    for name, (value, default) in options.items():
        if str(value) != default:
            given += [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", value]
    python, beside = (sys.orig_argv or ["python"])[0], Path(sys.argv[0]).with_name(script)
    return shlex.join(map(str, (python, beside, *given, *words)))


def progress(total, unit, shown=True, **options):
    """A tqdm bar on standard error that shows after two seconds, and not at all where that is not a terminal."""
    from tqdm import tqdm

    hidden = True if STATE["quiet"] or not shown else None  # None: where standard error is no terminal
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        delay=2,
        disable=hidden,
        dynamic_ncols=True,
        **options,
    )


def number(kind, low, high=float("inf")):
    """An argparse type: an int or a float from low to high, with an error that names both."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high:  # nor is anything that is not a number
            raise ValueError
        return value

    limits = f"at least {low}" if high == float("inf") else f"{low} to {high}"
    convert.__name__ = f"{'whole number' if kind is int else 'number'} ({limits})"
    return convert


def check_output(option, path, named=True):
    """Refuse to write a file where that cannot work, or would replace no plain file, or one that nobody has named."""
    path = Path(path)
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise Problem(f"{option} {path}: there is no such folder to write it in, or it is a folder itself")
    if path.exists() and not path.is_file():
        raise Problem(f"{option} {path}: this is not a plain file; name one")
    if path.exists() and not named:
        raise Problem(f"{option}: {path} is there already, and would be replaced; move it, or name another file")


def escape_cell(text):
    """A cell that no spreadsheet takes for a formula: a leading =, +, -, @, tab or return gets an apostrophe.

    Plain numbers, such as -1 or +2.5, stay as they are.
    """
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not number else text


def escape_markdown(text):
    """Text for a cell of a markdown table or a list: on one line, with nothing in it that markdown would interpret."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in one_line(text))


def markdown(columns, rows):
    """A markdown table: column names that begin with a colon are aligned to the left."""
    lines = [
        [name.lstrip(":") for name in columns],
        [":---" if name[:1] == ":" else "---:" for name in columns],
        *rows,
    ]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def count(number, what):
    """A number with its noun: 1 title, 3,599 titles."""
    return f"{number:,} {what}{'s' * (number != 1)}"
