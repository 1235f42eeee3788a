"""Patchwise training is loss sampling (Long et al. 2015, section 3.4): a whole image is all of its patches at once."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindfcn.losses import CrossEntropy

# Of Net: a score's receptive field and the distance to the next one's, pixels.
FIELD, STRIDE = 10, 4
ROWS, COLUMNS, IMAGES, CLASSES = 7, 9, 2, 5


class Net(nn.Cell):
    """Convolutions and pooling without padding, and each score repeated over a square of `cell` pixels."""

    def __init__(self, cell):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, pad_mode="valid", has_bias=True)
        self.conv2 = nn.Conv2d(8, 8, 3, pad_mode="valid", has_bias=True)
        self.pool = nn.MaxPool2d(2, 2, pad_mode="valid")
        self.score = nn.Conv2d(8, CLASSES, 1, has_bias=True)
        self.cell = cell

    def construct(self, image):
        pool1 = self.pool(ops.relu(self.conv1(image)))
        score = self.score(self.pool(ops.relu(self.conv2(pool1))))
        images, classes, rows, columns = score.shape
        repeated = ops.broadcast_to(score.reshape(images, classes, rows, 1, columns, 1),
                                    (images, classes, rows, self.cell, columns, self.cell))
        return repeated.reshape(images, classes, rows * self.cell, columns * self.cell)


def gradients(net, loss, images, labels):
    """[array of each parameter]: the gradient of a loss on images (N, 3, H, W) and labels (N, H, W)."""
    def forward(images, labels):
        return loss(net(images), labels)

    _, found = ms.value_and_grad(forward, None, net.trainable_params())(ms.Tensor(images), ms.Tensor(labels))
    return [gradient.asnumpy() for gradient in found]


def kept_cells(loss, cell):
    """[(image, row, column)] of the cells that a loss keeps in its first step."""
    logits = ops.ones((IMAGES, CLASSES, ROWS * cell, COLUMNS * cell), ms.float32)
    gradient = ms.grad(loss)(logits, ops.zeros((IMAGES, ROWS * cell, COLUMNS * cell), ms.int32)).asnumpy()
    return np.argwhere(gradient.any(axis=1)[:, ::cell, ::cell])


@pytest.mark.parametrize("cell, keep, reduction", [
    (1, 0.5, "sum"), (1, 0.25, "mean"), (STRIDE, 0.5, "sum"), (STRIDE, 0.25, "mean"), (1, 1.0, "sum")])
def test_the_whole_image_gradient_is_the_sum_of_the_kept_patches_gradients(cell, keep, reduction):
    """A batch of the kept cells' receptive fields, cut out, teaches what the sampled whole images teach."""
    random = np.random.default_rng(2)
    size = [FIELD + STRIDE * (cells - 1) for cells in (ROWS, COLUMNS)]
    images = random.standard_normal((IMAGES, 3, *size)).astype(np.float32)
    labels = random.integers(0, CLASSES, (IMAGES, ROWS * cell, COLUMNS * cell)).astype(np.int32)
    ms.set_seed(3)
    net = Net(cell)
    loss, same = (CrossEntropy(reduction=reduction, keep=keep, cell=cell, seed=5).set_train() for _ in range(2))
    whole = gradients(net, loss, images, labels)
    kept = kept_cells(same, cell)
    assert len(kept) == IMAGES * ROWS * COLUMNS if keep == 1 else 10 < len(kept) < 0.7 * IMAGES * ROWS * COLUMNS
    patches = np.stack([images[image, :, STRIDE * row:STRIDE * row + FIELD, STRIDE * column:STRIDE * column + FIELD]
                        for image, row, column in kept])
    targets = np.stack([labels[image, cell * row:cell * (row + 1), cell * column:cell * (column + 1)]
                        for image, row, column in kept])
    parts = gradients(net, CrossEntropy(reduction=reduction), patches, targets)
    for one, other in zip(whole, parts):
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()
