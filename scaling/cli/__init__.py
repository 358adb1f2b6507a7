"""Command line: parses arguments, calls the library, prints. Heavy packages are imported inside command bodies."""

import errno
import os
import signal
import sys
from typing import NoReturn

from families.units import BadInput, RunFailed

from ..collector import spare_imports
from ..untrusted import one_line

INTERRUPTED = 130


def main() -> None:
    """Run a command. Bad input is one line on standard error and exit status 2; an interrupt is exit status 130."""
    # Set before torch loads. Threads that spin for ever cost 4-15x beside a competing process, threads that sleep at once
    # 1.2x on an idle machine; these spin about 50 microseconds, the pause between two kernels. GOMP_SPINCOUNT would
    # override a user's OMP_WAIT_POLICY.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    spare_imports()
    try:
        status = _run()
        # All output is written: an interrupt while Python shuts down must not turn success into a failure.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt as error:
        _print_last(f"interrupted{f': {error}' if str(error) else ''}")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(status)


def _run() -> int:
    from .app import Stopped, build, usage_error

    try:
        status = build()(standalone_mode=False)
    except BadInput as error:
        fail(str(error))
    except RunFailed as error:
        fail(str(error), status=1)
    except Stopped as error:
        raise KeyboardInterrupt(*error.args) from error
    except BrokenPipeError:
        raise
    except MemoryError:
        fail("there is not enough memory for this input", status=1)
    except OSError as error:  # of a file that no reader or writer has named
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        fail(f"{where}{error.strerror or error}", status=2 if error.errno == errno.ENAMETOOLONG else 1)
    except ModuleNotFoundError as error:  # a verb without training, with an option that needs it
        from ..extras import TRAIN_EXTRA, training_needs

        package = (error.name or "").partition(".")[0]
        if package not in TRAIN_EXTRA:
            raise
        fail(training_needs([package]))
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help text, on many lines
            print(getattr(error, "message", error), file=sys.stderr)
            sys.exit(2)
        message = usage_error(error)
        if message is None:
            raise
        fail(message)
    return status if isinstance(status, int) else 0


def fail(message: str, status: int = 2) -> NoReturn:
    """Print one line on standard error and exit."""
    _print_last(one_line(message))
    sys.exit(status)


def _print_last(line: str) -> None:
    """Print the last line on standard error, over a progress line where there is one."""
    print(("\r\033[K" if sys.stderr.isatty() else "") + "scaling: " + line, file=sys.stderr)
