"""Zip files that cannot unpack to far more than their size."""

import io
import zipfile

from mindfcn.storage.weight_files.arrays import RefusedFile, check

# Weights hardly compress: a file that unpacks to more than this is not a weights file.
_MAX_EXPANSION = 16
_SMALL = 64 << 20


def max_unpacked(data):
    """The number of bytes that a file's content may unpack to."""
    return _SMALL + _MAX_EXPANSION * len(data)


class BoundedZip:
    """The members of a zip file whose total unpacked size is at most `max_unpacked`.

    Args:
        data: bytes of the zip file.
    """

    def __init__(self, data):
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self.names = self._zip.namelist()
        if sum(info.file_size for info in self._zip.infolist()) > max_unpacked(data):
            raise RefusedFile("unpacks to many times its size; fetch it from a source you trust")

    def read(self, name):
        """The bytes of a member. Raises ValueError where its size is not the announced one."""
        info = self._zip.getinfo(name)
        # zipfile unpacks only these two in bounded steps.
        check(info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with self._zip.open(info) as member:
            data = member.read(info.file_size)
        check(len(data) == info.file_size)
        return data
