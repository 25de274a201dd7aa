"""Whose fault an error is: the doors say the user's in one line, and let the program's own through with its traceback."""

from __future__ import annotations

import errno

OURS = ("data_tools", "train", "launch")
_ROOM = "make room there, or give a place on a larger disk"
REMEDIES = {  # what the system says of a path that the user gave, and what to do about it
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: "give yourself the right to it, or give another path",
    errno.EPERM: "give yourself the right to it, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.ENOENT: "give a path that is there",
    errno.ENOTDIR: "a part of this path is a file; give another path",
    errno.EISDIR: "give a file, not a folder",
    errno.EEXIST: "something of that name is there already; give another path",
    errno.ELOOP: "links lead in a circle; give another path",
    errno.ENAMETOOLONG: "give a shorter one",
}


def is_users_fault(error: BaseException) -> bool:
    """Whether the error is of a class that this project defines: a ValueError with a place, the value there and a remedy, to be read by
    the user (RuntimeError where the machine's state, no value, is at fault). All else is the program's own fault, subclasses of
    ValueError from elsewhere, too: JSONDecodeError, UnicodeDecodeError, pyarrow's ArrowInvalid name nothing that a user could mend.
    """
    return isinstance(error, (ValueError, RuntimeError)) and type(error).__module__.split(".")[0] in OURS


def message(error: BaseException, place: object = "", after: str = "") -> str | None:
    """What a door says of an error, in one message with place, value and remedy; None for the program's own fault, which keeps its traceback.

    Args:
        place: what was being written, for a system's error that names no file. after: what to do once its cause is gone.
    """
    if is_users_fault(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in REMEDIES:
        if error.strerror is None:  # one of ours, explained where it was met
            return str(error)
        return f"{error.filename or place}: {error.strerror}; {REMEDIES[error.errno]}{after}"
    return None
