"""The exception that means: the user's input, not our code."""


class InputError(ValueError):
    """Bad input, in one sentence that names the file or argument, the value found and the value expected.

    The command line prints it without a traceback and exits with status 2.
    """


class DivergedError(InputError):
    """A training whose loss rose or is not finite: another learning rate may do better."""
