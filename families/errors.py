"""The exceptions that a person meets: what was given cannot be used, or what was asked did not work out."""


class BadInput(ValueError):
    """Bad input from a person or a file. The message is one line: the thing, its value, what is allowed.

    The command line prints it on standard error and leaves with status 2, nothing written.
    """


class RunFailed(RuntimeError):
    """What was asked for is fine, and yet it failed: a loss that is no number, a process that was killed. One line.

    The command line prints it on standard error and leaves with status 1; what was saved before stays.
    """
