"""Scripts that are killed, or shared by processes: what the tests of unfinished work have in common."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from conftest import ROOT, serving

from whichlayer.common import cli


def forked(script, arguments, before=lambda: None):
    """Run a script's main in a fork of this process, after before(); returns its code (-9: killed) and errors.

    script: the module.
    """
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads stayed in the parent
                os.dup2(errors.fileno(), 2)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                before()
                cli.launch(script.main, script.parse_arguments([*map(str, arguments)]))
                code = 0
            except SystemExit as exit:
                code = exit.code
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return SimpleNamespace(code=code, err=errors.read().decode())


# what changes files; deletions within a folder name only the file
EVENTS = ("open", "os.rename", "os.link", "os.mkdir", "shutil.rmtree")
DELETIONS = ("os.remove", "os.rmdir")


def die_at(step, out):
    """Let this process be killed just before it touches a path with `out` in it, or syncs a file, the step-th time."""
    left = itertools.count(step - 1, -1)

    def touch(event, arguments):
        known = event in DELETIONS or (event in EVENTS and str(out) in str(arguments[0]))
        if (known or event == "os.fsync") and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync

    def watched(file):
        touch("os.fsync", (file,))
        fsync(file)

    os.fsync = watched
    sys.addaudithook(touch)


SMALL = """
import sys
sys.path.insert(0, {root!r})
from whichlayer.common import cli, windows
windows.WINDOW = {window}
import {script}
cli.launch({script}.main, cli.begin({script}.parse_arguments))
"""


def torchrun(script, *arguments, window=4096):
    """Run a script, by its name, in two processes; returns the finished launcher with its output as text."""
    with serving(None):  # the test is skipped where processes cannot talk to one another
        pass
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(SMALL.format(root=str(ROOT), window=window, script=script))
        program.flush()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--", program.name]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [*map(str, [*launcher, *arguments])]
        return subprocess.run(command, text=True, capture_output=True, timeout=300, env=environment)
