"""What ends a command of the trainer: every such error tells, in its message, what is wrong and what to do."""


class TrainError(Exception):
    """An error for the person at the keyboard; `command` prints it in one place, and ends with 1."""
