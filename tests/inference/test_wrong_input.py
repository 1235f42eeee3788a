"""Arrays that are no photographs: every function that takes photographs refuses them in one line."""

import cv2
import numpy as np
import pytest
from helpers import one_line

from mindfcn.config import PredictConfig
from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.inference.pipeline import Inference
from mindfcn.inference.predictor import Predictor
from mindfcn.preprocess import COURSE, Preprocess

PHOTO = np.random.default_rng(1).integers(0, 256, (12, 16, 3)).astype(np.uint8)
WRONG = [(PHOTO[..., 0], "(12, 16) uint8"), (PHOTO[..., :1], "(12, 16, 1)"), (PHOTO[..., :2], "(12, 16, 2)"),
         (np.dstack([PHOTO, PHOTO[..., :1]]), "(12, 16, 4)"), (PHOTO.transpose(2, 0, 1), "(3, 12, 16)"),
         (PHOTO[None], "(1, 12, 16, 3)"), (PHOTO[:0], "(0, 16, 3)"), (PHOTO / 255, "float64"),
         (np.full(PHOTO.shape, np.nan, np.float32), "float32"), (PHOTO.astype(np.uint16) * 257, "uint16"),
         (PHOTO > 99, "bool"), (PHOTO.astype(object), "object"), (None, "NoneType"), (PHOTO.tolist(), "list"),
         ("photo.jpg", "str"), ({"depth": PHOTO}, "no image")]


class Sum(Predictor):
    """Two classes by the sum of the normalised channels."""
    preprocess = COURSE
    reach = 0

    def logits(self, batch):
        """See Predictor."""
        total = batch.sum(1, keepdims=True)
        return np.concatenate([total, -total], 1)


@pytest.mark.parametrize("wrong, words", WRONG, ids=[words for _, words in WRONG])
def test_what_is_no_photograph_is_refused(wrong, words):
    for call in (Sum(), Inference(Sum(), PredictConfig()), Inference(Sum(), PredictConfig(), 8),
                 Inference(Sum(), PredictConfig(scales=[0.5, 1.0], flip=True)),
                 Inference(Sum(), PredictConfig(window=8)), lambda image: to_input(image, COURSE)):
        with pytest.raises(UserError) as caught:
            call(wrong)
        one_line(caught, words)


def test_photographs_are_still_segmented_and_planes_too():
    segment = Sum()
    expected = (to_input(PHOTO, COURSE).sum(0) < 0).astype(np.uint8)
    np.testing.assert_array_equal(segment(PHOTO)[0], expected)
    # A view that is not contiguous, as after mirroring.
    np.testing.assert_array_equal(segment(PHOTO[:, ::-1])[0], expected[:, ::-1])
    bands = Preprocess("BGR", (0, 0), (1, 1), "bands")
    for dtype in (np.uint8, np.uint16, np.float32):
        assert to_input({"bands": PHOTO[..., :2].astype(dtype)}, bands).shape == (2, 12, 16)
    with pytest.raises(UserError, match=r"bands is \(12, 16, 3\) uint8; it must be \(H, W, 2\)$"):
        to_input({"bands": PHOTO}, bands)
    rgbd = COURSE.to("rgbd")
    depth = np.full((12, 16), 1500, np.uint16)
    assert to_input({"image": PHOTO, "depth": depth}, rgbd).shape == (4, 12, 16)
    for planes, words in (({"image": PHOTO}, "no depth"), ({"image": PHOTO, "depth": PHOTO}, r"it must be \(H, W\)$")):
        with pytest.raises(UserError, match=words):
            to_input(planes, rgbd)


def test_a_file_that_opencv_cannot_read_is_named_as_the_reason(tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph\n")
    with pytest.raises(UserError, match="cv2.imread returns None"):
        Sum()(cv2.imread(str(tmp_path / "text.jpg")))
