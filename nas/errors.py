"""The one exception that users see: a mistake of theirs, told in one line."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it as one line and exits with 2.

    The message says where, the rule, the value, and the remedy if there is one.
    """
