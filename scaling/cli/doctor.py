"""scaling doctor: five famous results derived again, and the state of the installation."""

from typing import TYPE_CHECKING

from .show import JsonOption, print_json, say

if TYPE_CHECKING:
    from ..installation import Part

EPILOG = "Example: scaling doctor"
FAILED = 1


def doctor(as_json: JsonOption = False) -> int:
    """Derive five famous results again, and look over the installation; exit status 1 if a result fails."""
    from textwrap import wrap

    from ..doctor import Checkup, checks
    from ..installation import installation

    checkup = Checkup(checks=checks(), installation=(*installation(), *compute_parts()))
    if as_json:
        print_json({**checkup.model_dump(mode="json"), "passed": checkup.passed})
        return 0 if checkup.passed else FAILED
    for check in checkup.checks:
        say(f"{'pass' if check.passed else 'FAIL'}  {check.name} ({check.seconds:.2f} s)")
        for label, text in (("claim", check.claim), ("found", check.found), ("expected", check.expected)):
            for line in wrap(text, 100, initial_indent=f"      {label:<10}", subsequent_indent=" " * 16):
                say(line)
    say()
    for part in checkup.installation:
        text = f"{part.state}: WARNING, {part.warning}" if part.warning else part.state
        for line in wrap(text, 100, initial_indent=f"{part.name:<16}", subsequent_indent=" " * 16):
            say(line)
    say()
    passed = sum(check.passed for check in checkup.checks)
    say(f"{passed} of {len(checkup.checks)} results hold")
    return 0 if checkup.passed else FAILED


def compute_parts() -> "tuple[Part, ...]":
    """What torch computes in here; nothing where it is not installed. A broken torch is a warning, not a crash."""
    from ..installation import Part, formats, importable

    if not importable("torch"):  # its own line of the installation says so
        return ()
    try:
        from train.probe import probe

        found = probe()
    except (ImportError, OSError, RuntimeError) as error:
        return (Part(name="torch works", state="no", warning=" ".join(str(error).split())),)
    return formats(found.fp32, found.bf16, found.amx, found.threads, found.gpus)
