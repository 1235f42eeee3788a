"""A run's figures in the files that TensorBoard shows."""

import shutil

from mindfcn.errors import UserError


class Events:
    """Scalars over the training's steps, in a folder of their own; files of an earlier run there are deleted.

    Args:
        folder: where `tensorboard --logdir FOLDER` finds them.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder):
        # Of the extra `tensorboard`; its own writer needs no TensorFlow.
        from tensorboard.summary import Writer
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self.writer = Writer(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another folder") from None

    def add(self, group, step, values):
        """Note {name: number} of a step under GROUP/name."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self):
        """Let what was noted be seen."""
        self.writer.flush()

    def close(self):
        """Write what waits."""
        self.writer.close()
