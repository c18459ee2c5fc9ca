"""The one exception that is a user's mistake rather than ours."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong and how to mend it.

    Stages print the message to stderr and exit with code 2; anything else that escapes is a bug of
    this project and keeps its traceback.
    """
