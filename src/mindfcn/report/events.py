"""Event files for TensorBoard."""

import shutil

from mindfcn.errors import UserError


class Events:
    """Scalars over the training steps, in a folder of their own; event files of an earlier run are deleted.

    Args:
        folder: the folder to give to `tensorboard --logdir FOLDER`.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder):
        # From the extra `tensorboard`; this writer works without TensorFlow.
        from tensorboard.summary import Writer
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self.writer = Writer(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another folder") from None

    def add(self, group, step, values):
        """Add the values {name: number} of a step as GROUP/name."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self):
        """Flush the file, so that TensorBoard shows the latest values."""
        self.writer.flush()

    def close(self):
        """Write pending values and close the file."""
        self.writer.close()
