"""Videos of others: one file is opened, of a video's format, and nothing that it names."""

import cv2
import numpy as np
import pytest

from frcnn.errors import ImageError, ImageSizeError
from frcnn.runtime.images.video import open_video, writing_video

LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile good.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a video that is fine."""
    with writing_video(tmp_path / "good.mp4", 5) as writer:
        for level in range(3):
            writer.write(np.full((48, 64, 3), level, np.uint8))
    assert len(list(open_video(tmp_path / "good.mp4").frames())) == 3
    return tmp_path


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mpg", ".webm"])
def test_a_list_of_other_files_is_no_video(folder, kind, suffix):
    path = folder / f"list{suffix}"
    path.write_text(LISTS[kind])
    with pytest.raises(ImageError, match="not a video that OpenCV can read"):
        open_video(path)


def test_a_name_with_a_pattern_opens_no_other_files(folder):
    for number in range(3):
        cv2.imwrite(str(folder / "one.png"), np.zeros((8, 8, 3), np.uint8))
        (folder / "one.png").rename(folder / f"a{number:02d}.mp4")
    (folder / "a%02d.mp4").write_text("no video")
    with pytest.raises(ImageError, match="not a video that OpenCV can read"):
        open_video(folder / "a%02d.mp4")


def test_max_pixels_limits_video_frames(folder):
    with pytest.raises(ImageSizeError, match="frames of 48x64 are 3,072 pixels, more than the limit of 3,071"):
        open_video(folder / "good.mp4", max_pixels=3071)
    assert open_video(folder / "good.mp4", max_pixels=3072).frame_count == 3
