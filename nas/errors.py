"""The exception for users' mistakes."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can correct; the command line prints one line and exits with 2.

    The message says where the mistake is, the rule, the value, and the remedy if there is one.
    """
