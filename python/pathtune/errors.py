"""The exception that means: the user's input, not our code."""

HEAD, TAIL = 1200, 300  # characters of a message that are kept, where what it quotes is endless


class InputError(ValueError):
    """Bad input, in one sentence that names the file or argument, the value found and the value expected.

    The command line prints it without a traceback and exits with status 2. A message of more than HEAD + TAIL
    characters loses its middle: a name that it quotes may be of any length.
    """

    def __init__(self, message: str):
        super().__init__(message if len(message) <= HEAD + TAIL else f"{message[:HEAD]} ... {message[-TAIL:]}")


class DivergedError(InputError):
    """A training whose loss rose or is not finite: another learning rate may do better."""
