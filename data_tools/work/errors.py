"""Whose fault an error is: the doors say the user's in one line, and let the program's own through with its traceback."""

OURS = ("data_tools", "train", "launch")


def is_users_fault(error: BaseException) -> bool:
    """Whether the error is of a class that this project defines: a ValueError with a place, the value there and a remedy, to be read by
    the user (RuntimeError where the machine's state, no value, is at fault). All else is the program's own fault, subclasses of
    ValueError from elsewhere, too: JSONDecodeError, UnicodeDecodeError, pyarrow's ArrowInvalid name nothing that a user could mend.
    """
    return isinstance(error, (ValueError, RuntimeError)) and type(error).__module__.split(".")[0] in OURS
