"""The command line: the composition root. Each verb is a file; heavy rooms are imported inside its body."""

import errno
import os
import signal
import sys
from typing import NoReturn

from families.units import BadInput, RunFailed

from ..untrusted import one_line

INTERRUPTED = 130


def main() -> None:
    """Run a command. Bad input is one line on standard error and status 2; an interrupt is status 130."""
    # These must stand before torch loads. Threads that wait for ever cost 4-15x beside a rival process, those that sleep at
    # once 1.2x on a quiet machine: they spin some 50 microseconds, about the pause between two kernels. A person's own
    # OMP_WAIT_POLICY stands, which a count would overrule.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        status = _run()
        # All is said and written: an interrupt while Python takes itself down would call that a failure.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt as error:
        _last(f"interrupted{f': {error}' if str(error) else ''}")
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
    except OSError as error:  # of a file that no reader or writer has named
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        fail(f"{where}{error.strerror or error}", status=2 if error.errno == errno.ENAMETOOLONG else 1)
    except ModuleNotFoundError as error:  # an option that trains, of a verb that does not
        from ..doctor import TRAIN_EXTRA, training_needs

        package = (error.name or "").partition(".")[0]
        if package not in TRAIN_EXTRA:
            raise
        fail(training_needs([package]))
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help, many lines of it
            print(getattr(error, "message", error), file=sys.stderr)
            sys.exit(2)
        message = usage_error(error)
        if message is None:
            raise
        fail(message)
    return status if isinstance(status, int) else 0


def fail(message: str, status: int = 2) -> NoReturn:
    """One line on standard error, and leave."""
    _last(one_line(message))
    sys.exit(status)


def _last(line: str) -> None:
    """Say why it ended; on a terminal in place of a progress line."""
    print(("\r\033[K" if sys.stderr.isatty() else "") + "scaling: " + line, file=sys.stderr)
