"""Videos, frame by frame: untrusted files in, MP4 files out. OpenCV's FFmpeg decodes and encodes them."""

import os
from collections.abc import Iterator

import cv2
import numpy as np

from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.storage.images import MAX_PIXELS

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
# FFmpeg prints nothing; it reads the level once, before its first file.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# FFmpeg also opens playlists, which lead to other files and addresses; these are the beginnings of videos themselves.
_BEGINNINGS = {0: (b"RIFF", b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3"),
               4: (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")}
# Time at the end, seconds and share of the length, that containers announce and frames need not fill.
SLACK, SLACK_SHARE = 0.5, 0.02
# Frames per second of a file that announces none that is possible.
RATE, MAX_RATE = 25.0, 1000.0


def is_video(path: FilePath) -> bool:
    """Whether a file's name is that of a video."""
    return os.fspath(path).lower().endswith(VIDEO_SUFFIXES)


class VideoReader:
    """An open video file; only one frame at a time is in memory.

    Args:
        path: file.

    Attributes:
        rate: frames per second.
        count: number of frames that the file announces; 0 if it announces none.

    Raises:
        UserError: it is no video, damaged, or its frames have more than MAX_PIXELS.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        try:
            with open(path, "rb") as file:
                begin = file.read(8)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; check the path") from None
        known = any(begin[place:].startswith(words) for place, words in _BEGINNINGS.items())
        self._capture = _quietly(cv2.VideoCapture, os.path.abspath(path), cv2.CAP_FFMPEG) if known else None
        if self._capture is None or not self._capture.isOpened():
            raise UserError(f"{path} is no video that can be read, or incomplete; save it as MP4, AVI, MKV or WebM")
        width, height, rate, count = (self._capture.get(name) for name in (
            cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        if width * height > MAX_PIXELS:
            raise UserError(f"{path} has frames of more than {MAX_PIXELS} pixels; make it smaller")
        self.rate = rate if 0 < rate <= MAX_RATE else RATE
        self.count = int(count) if 0 < count < 2 ** 31 else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each frame, (H, W, 3) uint8 BGR, upright.

        Raises:
            UserError: there is none, they differ in size, or they end before the time that the file announces.
        """
        found, seconds, first = 0, 0.0, None
        while True:
            read, frame = self._capture.read()
            if not read:
                break
            first = first or frame.shape
            if frame.shape != first:
                raise UserError(f"{self.path}: frame {found} is {frame.shape[1]}x{frame.shape[0]} pixels and those "
                                f"before it {first[1]}x{first[0]}; save it in one size")
            yield frame
            found += 1
            seconds = max(found / self.rate, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        announced = self.count / self.rate
        if not found or seconds < announced - max(SLACK, SLACK_SHARE * announced):
            raise UserError(f"{self.path} ends after {found} of {self.count or 'its'} frames: it is damaged or "
                            "incomplete; copy it again")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class VideoWriter:
    """An MP4 file of MPEG-4 frames, all of one size; an odd side is one pixel longer, as the format needs.

    Args:
        path: file to write; give it its name only after `close`, such as with `atomic_path`.
        rate: frames per second.
    """

    def __init__(self, path, rate):
        self.path, self.rate, self.count, self._writer = path, rate, 0, None

    def add(self, frame: np.ndarray) -> None:
        """Add a frame, (H, W, 3) uint8 BGR."""
        height, width = frame.shape[:2]
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            self._writer = _quietly(cv2.VideoWriter, self.path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"),
                                    self.rate, (frame.shape[1], frame.shape[0]))
        self._writer.write(frame)
        self.count += 1

    def close(self) -> None:
        """Complete the file. Raises UserError if it does not hold all frames: OpenCV reports no error of the disk."""
        if self._writer is not None:
            self._writer.release()
        written = cv2.VideoCapture()
        _quietly(written.open, self.path, cv2.CAP_FFMPEG)
        if not written.isOpened() or written.get(cv2.CAP_PROP_FRAME_COUNT) != self.count:
            raise UserError(f"cannot write {self.path}; free some space or choose another folder")
        written.release()


def _quietly(function, *arguments):
    """Call an OpenCV function without the lines that OpenCV and FFmpeg print; the result tells whether it worked."""
    before = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        return function(*arguments)
    finally:
        cv2.setLogLevel(before)
