"""What every script does the same: problems, exit codes, messages, progress, arguments, tables."""

import argparse
import contextlib
import gc
import math
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

VERSION = "0.10.0"
# seconds from one line of progress to the next in a log
MINUTE = 60
# this is imported first, so that what a script says of its time holds the imports, too
STARTED = time.monotonic()
# whether to print nothing but results and errors; when all was loaded; what stopped it
STATE = {"quiet": False, "loaded": None, "signal": signal.SIGINT}
# what moves a cursor (but tab and newline), changes colours or turns text around; surrogates
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Problem(Exception):
    """Something that the user can mend: its text is the one line that they see; exit code 2."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the description's layout and names the defaults."""

    def _get_help_string(self, action):
        default = action.default
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        is_said = shown in ("None", "False", "", argparse.SUPPRESS) or "(default: " in action.help
        return action.help if is_said else f"{action.help} (default: {shown})"


def parser(doc):
    """An argument parser with this description and the options that all scripts have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=Help)
    made.add_argument("--version", action="version", version=VERSION)
    made.add_argument("--quiet", action="store_true", help="print nothing but results and errors")
    return made


# --- the beginning and the end of a script --------------------------------------------------------


def begin(parse_arguments):
    """Make ready for the slow imports, and parse the command line: a script's first act.

    Importing numpy and torch takes seconds, and they then read the number of threads: so it stands
    below `ARGUMENTS = cli.begin(parse_arguments)`; --help, mistakes and Ctrl-C are answered at once.
    """
    # what is imported is no garbage, and looking for some would take a fifth of the time
    gc.disable()
    # one of several processes waits where no handler of ours interrupts it
    alone = [signal.SIGTERM] if os.environ.get("WORLD_SIZE", "1") == "1" else []
    for number in (signal.SIGINT, *alone):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    # beside a busy process, threads that spin while they wait make everything several times slower
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        # numpy's and scipy's own; 4 is the least
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    os.environ.setdefault("OMP_NUM_THREADS", str(processors()))
    # None where the caller has closed it; some terminals know no ≈
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")
    return parse_arguments()


def stop(number, _):
    """End with the exit code of a signal; during imports at once, where an exception may get lost."""
    if STATE["loaded"] is None:
        os.write(2, f"{Path(sys.argv[0]).name}: stopped\n".encode())
        os._exit(128 + number)
    STATE["signal"] = number
    raise KeyboardInterrupt


def processors():
    """How many processors this process may use: its affinity, its container's quota (cgroup v2)."""
    has_affinity = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    # no such file, or its quota is the word max
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        count = min(count, max(1, math.ceil(quota / period)))
    return count


def launch(main, args):
    """Call main(args). Exit codes: 2 Problem, 1 the machine's faults, 130 Ctrl-C, 143 SIGTERM, 141 broken pipe."""
    STATE["quiet"] = args.quiet
    note_loaded()
    gc.enable()
    try:
        main(args)
        if sys.stdout:
            sys.stdout.flush()
    except Problem as error:
        fail(2, error)
    except KeyboardInterrupt:
        kept = "stopped; what is finished is kept, nothing half-written is left behind, and the same command goes on"
        fail(128 + STATE["signal"], kept)
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        fail(1, error)
    except (MemoryError, RuntimeError) as error:
        known = "out of memory|not enough memory|can't allocate memory"
        if isinstance(error, RuntimeError) and not re.search(known, str(error)):
            raise
        fail(1, f"out of memory ({one_line(error)[:200]})")
    finally:
        # on its way out, Python would look for garbage in all that was imported: half a second
        gc.freeze()


def note_loaded():
    """Note that the imports, or an encoder after them, are there: what follows is work on titles."""
    STATE["loaded"] = time.monotonic()
    # so much need not be looked through for garbage again
    gc.freeze()


@contextlib.contextmanager
def loading():
    """Load an encoder, and what that imports, as begin lets a script import."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # in a process that is somebody else's, nothing is noted or frozen
        if STATE["loaded"]:
            note_loaded()
        if is_enabled:
            gc.enable()


def took():
    """How long this process has been at work, and how much of that went into loading, in words."""
    total = time.monotonic() - STARTED
    return f"{total:.1f} s, {STATE['loaded'] - STARTED:.1f} of them to load"


def fail(code, text):
    """Print why the script ends, on one line, and leave the process with this exit code."""
    print(f"{Path(sys.argv[0]).name}: {one_line(text)}", file=sys.stderr, flush=True)
    sys.exit(code)


# --- options --------------------------------------------------------------------------------------


def number(kind, low, high=sys.maxsize):
    """An argparse type: an int or a float from low to high, with an error that names both."""

    def convert(text):
        value = kind(text)
        # nor is anything that is not a number, or infinite
        if not low <= value <= high:
            raise ValueError
        return value

    limits = f"at least {low}" if high == sys.maxsize else f"{low} to {high}"
    convert.__name__ = f"{'whole number' if kind is int else 'number'} ({limits})"
    return convert


def place(text):
    """An argparse type: the path of a file or a folder, or the name of an encoder; not empty."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file or a folder")
    return text


def path(text):
    """An argparse type: the same as a Path."""
    return Path(place(text))


def listing(names):
    """Names as a sentence lists them: a, b and c."""
    *first, last = names
    return " and ".join(filter(None, [", ".join(first), last]))


def choose_device(name):
    """The torch device for --device; under torchrun, each process takes the GPU of its rank."""
    import torch

    count = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if not count or name not in ("auto", "cuda", *(f"cuda:{index}" for index in range(count))):
        raise Problem(f"--device {name}: use auto, cpu, cuda or cuda:0 …; torch sees {count} CUDA devices here")
    index = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", index % count)


def check_output(option, path, endings):
    """Refuse to write where that cannot work, or would replace what is no plain file."""
    is_place = path.is_file() or (path.resolve().parent.is_dir() and not path.exists())
    if not is_place or path.suffix.lower() not in endings:
        wrong = f"its name must end in {' or '.join(endings)}, its folder be there, and it no folder itself"
        raise Problem(f"{option} {path}: {wrong}")


# --- text for people ------------------------------------------------------------------------------


def say(text):
    """Print a line for people on standard error: standard output is for what programs may read."""
    if not STATE["quiet"]:
        print(text, file=sys.stderr, flush=True)


def progress(total, unit, desc, shown=True, initial=0):
    """A tqdm bar on standard error, after two seconds; where that is no terminal, a line a minute.

    total: None where it is not known; unit: begins with a space; initial: what is done already.
    """
    from tqdm import tqdm

    # None where the caller has closed it
    is_hidden = STATE["quiet"] or not shown or sys.stderr is None
    look = {"unit_scale": True, "delay": 2, "dynamic_ncols": True}
    is_log = not is_hidden and not sys.stderr.isatty()
    if is_log:
        line = "{desc}: {n_fmt} of {total_fmt}{unit} after {elapsed}"
        look = {"mininterval": MINUTE, "delay": MINUTE, "miniters": 1, "bar_format": line, "position": 0}
    bar = tqdm(total=total, unit=unit, desc=desc, initial=initial, disable=is_hidden, **look)
    if is_log:
        # whole lines in place of one that is drawn again and again, and none in the end
        bar.sp = say
        bar.close = lambda: None
    return bar


def command(script, *words, **options):
    """A command to paste and run next. options: name=(value or list, default); left out if that."""
    given = []
    for name, (value, default) in options.items():
        if str(value) != default:
            given += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return shell(sys.orig_argv[0], Path(sys.argv[0]).with_name(script), *given, *words)


def shell(*words):
    """Words as a shell takes them when pasted; what a terminal would obey as escapes."""
    return escaped(shlex.join(map(str, words)))


def escaped(text):
    """The text with escapes for what a terminal would obey; joiners, which Persian needs, stay."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def count(number, what):
    """A number with its noun: 1 title, 3,599 titles."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def one_line(text):
    """The text on one line, what a terminal would obey as escapes: it may hold names from a file."""
    return escaped(" ".join(str(text).split()))


def quote(text):
    """A name from a file in quotes, as in messages: one line, 60 characters of it."""
    return f"'{one_line(text)[:60]}'"


def escape_markdown(text):
    """Text for a markdown table or list: one line, with nothing that markdown would interpret."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in one_line(text))


def markdown(columns, rows):
    """A markdown table whose columns line up in a terminal, too.

    columns: their names, with a colon in front where aligned to the left; rows: lists of as many cells.
    """
    padded = []  # column by column
    for name, *cells in zip(columns, *rows, strict=True):
        column = [name.lstrip(":"), *map(str, cells)]
        widest = max(map(len, column))
        dashes = "-" * (widest + 1)
        # below the name; it says how the column is aligned
        side, rule = ("<", f"|:{dashes}") if name.startswith(":") else (">", f"|{dashes}:")
        first, *others = (f"| {cell:{side}{widest}} " for cell in column)
        padded.append([first, rule, *others])
    return "\n".join(f"{''.join(line)}|" for line in zip(*padded, strict=True))
