"""Videos: frames in their order, one at a time; damaged files are one line."""

import gc
import weakref

import cv2
import numpy as np
import pytest
from helpers import one_line

from mindfcn.errors import UserError
from mindfcn.storage.video import VideoReader, VideoWriter, is_video

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}


def film(path, count=30, size=(48, 40), codec="mp4v", rate=10):
    """A video that becomes brighter from frame to frame, by OpenCV itself."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), rate, size)
    for number in range(count):
        writer.write(np.full((size[1], size[0], 3), 5 + 8 * number % 240, np.uint8))
    writer.release()
    return str(path)


@pytest.mark.parametrize("suffix, codec", CODECS.items())
def test_frames_come_in_their_order(tmp_path, suffix, codec):
    video = VideoReader(film(tmp_path / f"a{suffix}", codec=codec))
    assert (video.rate, video.count) == (10, 30) and is_video(tmp_path / f"A{suffix.upper()}")
    frames = list(video)
    assert len(frames) == 30 and {frame.shape for frame in frames} == {(40, 48, 3)}
    np.testing.assert_allclose([frame.mean() for frame in frames], [5 + 8 * n % 240 for n in range(30)], atol=4)


@pytest.mark.parametrize("suffix, codec", CODECS.items())
@pytest.mark.parametrize("share", [0.8, 0.5, 0.01])
def test_a_video_cut_short_is_one_line(tmp_path, suffix, codec, share):
    path = film(tmp_path / f"a{suffix}", count=60, codec=codec)
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[:int(share * len(content))])
    with pytest.raises(UserError) as caught:
        list(VideoReader(path))
    one_line(caught, path, "incomplete")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"#EXTM3U\n#EXTINF:1,\nb.mp4\n", b"RIFF", b"\0\0\0\x18ftypmp42"])
def test_files_that_are_no_videos_are_one_line(tmp_path, content, capfd):
    """A playlist would lead to other files."""
    film(tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError) as caught:
        VideoReader(tmp_path / "a.mp4")
    one_line(caught, "a.mp4 is no video that can be read, or incomplete")
    with pytest.raises(UserError, match="cannot read .*away.mp4: No such file"):
        VideoReader(tmp_path / "away.mp4")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("height, width", [(40, 48), (41, 47), (1, 1)])
def test_what_is_written_is_read_back(tmp_path, height, width):
    writer = VideoWriter(str(tmp_path / "a.mp4"), 12.5)
    for number in range(6):
        writer.add(np.full((height, width, 3), 40 * number, np.uint8))
    writer.close()
    video = VideoReader(tmp_path / "a.mp4")
    frames = list(video)
    assert video.rate == 12.5 and [frame.shape for frame in frames] == 6 * [(height + height % 2, width + width % 2, 3)]
    np.testing.assert_allclose([frame.mean() for frame in frames], [40 * number for number in range(6)], atol=4)


def test_a_video_that_was_not_written_is_refused(tmp_path):
    writer = VideoWriter(str(tmp_path / "away" / "a.mp4"), 10)
    writer.add(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="cannot write .*a.mp4"):
        writer.close()


@pytest.fixture
def frozen():
    """A collection of garbage looks only at what the test makes, not at all that the process has imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_one_frame_at_a_time_is_in_memory(tmp_path, frozen):
    frames, most = [], 0
    for frame in VideoReader(film(tmp_path / "a.mp4", count=60)):
        frames.append(weakref.ref(frame))
        gc.collect()
        most = max(most, sum(one() is not None for one in frames))
    assert len(frames) == 60 and most <= 2
