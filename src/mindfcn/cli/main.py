"""The command `mindfcn`: run a verb, and report errors as one line and an exit status."""

import contextlib
import os
import signal
import sys

from mindfcn.cli.console import Terminal
from mindfcn.cli.language import choose_language, localize, translate
from mindfcn.cli.parser import parse
from mindfcn.cli.verbs import VERBS
from mindfcn.console import printable
from mindfcn.errors import UserError
from mindfcn.memory import is_out_of_memory
from mindfcn.serve.stop import blocked_signals
from mindfcn.storage.files import FAULTS, cannot_use


def main(arguments=None):
    """Run the command. Returns the exit status: 0 success, 1 failure, 2 wrong usage, 128 + n stopped by signal n."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _open_closed_streams()
    # Silence MindSpore's C++ log; errors still arrive as exceptions.
    os.environ.setdefault("GLOG_v", "4")
    try:
        os.getcwd()
        verb, config = parse(choose_language(arguments))
    except UserError as error:
        _report(f"mindfcn: {localize(str(error))}")
        return 2
    except FileNotFoundError:
        _report("mindfcn: the current folder was deleted; change to another one")
        return 1
    except OSError as error:
        # Help, or --print_config, to a full disk.
        if error.errno not in FAULTS:
            raise
        _report(f"mindfcn: {localize(cannot_use('standard output', error))}")
        return 1
    try:
        # Before the libraries that start threads, which would take the signals of a server.
        quiet = blocked_signals() if verb == "serve" else contextlib.nullcontext()
        with contextlib.closing(Terminal()) as console, quiet:
            return VERBS[verb].run(config, console)
    except UserError as error:
        _report(f"mindfcn {verb}: {localize(str(error))}")
        return 1
    except ModuleNotFoundError as error:
        if error.name != "mindspore":
            raise
        needed = ("this needs MindSpore, which is not installed; install it with pip install 'mindspore>=2.7.1,<2.11'; "
                  "without it, predict and serve take .onnx files")
        _report(f"mindfcn {verb}: {translate(needed)}")
        return 1
    except (RuntimeError, MemoryError) as error:
        # Any other RuntimeError is a bug and keeps its traceback.
        if not is_out_of_memory(error):
            raise
        used_up = ("the memory of the device is used up; compute less at a time (train: --augment.batch_size or "
                   "--augment.crop_size; eval and predict: --window), or end other programs on it")
        _report(f"mindfcn {verb}: {translate(used_up)}")
        return 1
    except OSError as error:
        # Failing disks and mounts get one line; any other OSError is a bug and keeps its traceback.
        if error.errno not in FAULTS:
            raise
        _report(f"mindfcn {verb}: {localize(cannot_use(error.filename or 'a file', error))}")
        return 1
    except KeyboardInterrupt:
        _report(f"mindfcn {verb}: {translate('interrupted; nothing is left half-written')}")
        return 128 + signal.SIGINT


def _open_closed_streams():
    """Give a closed standard stream to the null device; the next file that is opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))


def _report(text):
    """Print one line to stderr."""
    print(printable(text), file=sys.stderr)
