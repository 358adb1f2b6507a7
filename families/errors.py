"""The one exception that means: what was given cannot be used, and this is what can."""


class BadInput(ValueError):
    """Bad input from a person or a file. The message is one line: the thing, its value, what is allowed.

    The command line prints it on standard error and leaves with status 2, nothing written.
    """
