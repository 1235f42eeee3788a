"""UserError: the exception for mistakes that the user can fix."""


class UserError(Exception):
    """A mistake outside the program. Its text is one line: what is wrong, where, and what to do."""
