"""FCN-8s: coarse scores, upsampled and summed with finer ones (Long et al. 2015, section 4.2, figure 3)."""

from mindspore import nn, ops

from mindfcn.models import layers
from mindfcn.models.vgg import VGG16


class FCN8sHead(nn.Cell):
    """Scores at strides 32, 16 and 8, fused by upsampling and summing, and upsampled to the input's size.

    Args:
        num_classes: channels of the result.
        channels: channels of the trunk's maps by name: pool3, pool4, fc7.
        bias: biases and zero weights in the score layers (the paper), or neither (the course).
        upsampling: initial weights of the upsampling layers, "bilinear" or "xavier".
        skip_scales: fixed factors on pool4 and pool3 before their score layers. The paper trains all three streams
            at once with (0.01, 0.0001): without normalisation, finer maps have larger values, and their scores would
            outrun the others'.
    """

    def __init__(self, num_classes, channels, bias, upsampling, skip_scales=(1.0, 1.0)):
        super().__init__()
        self.scale_pool4, self.scale_pool3 = skip_scales
        self.score_fr = layers.score(channels["fc7"], num_classes, bias)
        self.upscore2 = layers.deconv(num_classes, 4, 2, upsampling)
        self.score_pool4 = layers.score(channels["pool4"], num_classes, bias)
        self.upscore_pool4 = layers.deconv(num_classes, 4, 2, upsampling)
        self.score_pool3 = layers.score(channels["pool3"], num_classes, bias)
        self.upscore8 = layers.deconv(num_classes, 16, 8, upsampling)

    def construct(self, maps):
        upscore2 = self.upscore2(self.score_fr(maps["fc7"]))
        fuse_pool4 = upscore2 + self.score_pool4(maps["pool4"] * self.scale_pool4)
        upscore_pool4 = self.upscore_pool4(fuse_pool4)
        fuse_pool3 = upscore_pool4 + self.score_pool3(maps["pool3"] * self.scale_pool3)
        return self.upscore8(fuse_pool3)


class FCN8s(nn.Cell):
    """FCN-8s on VGG16. `FCN8s(21)` is the course's network, with the parameter names of its checkpoints.

    Args:
        n_class: classes.
        batch_norm: the course's form (normalisation, no biases) or the paper's (biases, dropout).
        fc_width: channels of fc6 and fc7.
        upsampling: initial weights of the upsampling layers, "bilinear" or "xavier".
        dropout: share of fc6 and fc7 activations dropped in training (the paper's form).
        width: factor on the channels of conv1 to conv5, for small machines.
        skip_scales: fixed factors on pool4 and pool3 (see FCN8sHead).

    Inputs: (N, 3, H, W) float32, normalised, any H and W from 1 up.
    Outputs: logits (N, n_class, H, W) float32.
    """

    stride = 32

    def __init__(self, n_class=21, batch_norm=True, fc_width=4096, upsampling="bilinear", dropout=0.5,
                 width=1.0, skip_scales=(1.0, 1.0)):
        # Without prefixes for trunk and head, the parameters are called as in the official checkpoints.
        super().__init__(auto_prefix=False)
        self.trunk = VGG16(batch_norm, fc_width, dropout, width)
        self.head = FCN8sHead(n_class, self.trunk.channels, bias=not batch_norm, upsampling=upsampling,
                              skip_scales=skip_scales)

    def construct(self, image):
        height, width = image.shape[2:]
        logits = self.head(self.trunk(pad_to_stride(image, self.stride)))
        return logits[:, :, :height, :width]


def pad_to_stride(image, stride):
    """Zeros (the mean colour) below and at the right of (N, C, H, W), up to the next multiples of `stride`."""
    height, width = image.shape[2:]
    if height % stride == 0 and width % stride == 0:
        return image
    return ops.pad(image, (0, -width % stride, 0, -height % stride))
