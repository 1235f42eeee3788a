"""The ImageNet classifiers that the FCNs' backbones come from, with their dense layers (Long et al. 2015, section 4.1).

`convolutionalise` makes them fully convolutional. The parameters are called conv1.0.weight to conv5.4.weight as in the
backbones, and fc6.weight, fc7.weight and fc8.weight.
"""

from collections import OrderedDict

from mindspore import nn

from mindfcn.models import layers


def vgg16_classifier(num_classes=1000, width=1.0, fc_width=4096, dropout=0.5):
    """VGG16 (Simonyan and Zisserman 2014): 138,357,544 parameters at full width.

    Args:
        num_classes: logits.
        width: factor on the channels of conv1 to conv5, for small machines.
        fc_width: units of fc6 and fc7.
        dropout: share of their activations dropped in training.

    Returns:
        nn.SequentialCell from (N, 3, 224, 224) float32 to (N, num_classes) logits.
    """
    channels, cells = 3, OrderedDict()
    for block, (base, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        cells[f"conv{block}"] = layers.conv_block(channels, scaled(base, width), (3,) * count)
        cells[f"pool{block}"] = layers.MaxPool()
        channels = scaled(base, width)
    return nn.SequentialCell(_with_dense_layers(cells, channels * 7 * 7, fc_width, num_classes, dropout))


def alexnet_classifier(num_classes=1000, width=1.0, fc_width=4096, dropout=0.5):
    """AlexNet in torchvision's form, one tower without normalisation: 61,100,840 parameters at full width.

    Arguments as of `vgg16_classifier`.

    Returns:
        nn.SequentialCell from (N, 3, 224, 224) float32 to (N, num_classes) logits.
    """
    c64, c192, c384, c256 = (scaled(base, width) for base in (64, 192, 384, 256))
    cells = OrderedDict(
        conv1=layers.conv_block(3, c64, (11,), stride=4, padding=2), pool1=layers.MaxPool(3),
        conv2=layers.conv_block(c64, c192, (5,)), pool2=layers.MaxPool(3),
        conv3=layers.conv_block(c192, c384, (3,)),
        conv4=layers.conv_block(c384, c256, (3,)),
        conv5=layers.conv_block(c256, c256, (3,)), pool5=layers.MaxPool(3))
    return nn.SequentialCell(_with_dense_layers(cells, c256 * 6 * 6, fc_width, num_classes, dropout))


def caffenet_classifier(num_classes=1000, width=1.0, fc_width=4096, dropout=0.5):
    """AlexNet in Caffe's form, with two groups and normalisation after pooling: 60,965,224 parameters at full width.

    Arguments as of `vgg16_classifier`.

    Returns:
        nn.SequentialCell from (N, 3, 227, 227) float32 to (N, num_classes) logits.
    """
    c96, c256, c384 = (2 * scaled(base // 2, width) for base in (96, 256, 384))
    cells = OrderedDict(
        conv1=layers.conv_block(3, c96, (11,), stride=4, padding=0), pool1=layers.MaxPool(3), norm1=layers.LRN(),
        conv2=layers.conv_block(c96, c256, (5,), group=2), pool2=layers.MaxPool(3), norm2=layers.LRN(),
        conv3=layers.conv_block(c256, c384, (3,)),
        conv4=layers.conv_block(c384, c384, (3,), group=2),
        conv5=layers.conv_block(c384, c256, (3,), group=2), pool5=layers.MaxPool(3))
    return nn.SequentialCell(_with_dense_layers(cells, c256 * 6 * 6, fc_width, num_classes, dropout))


def scaled(channels, width):
    """`channels` times `width`, at least 1."""
    return max(1, round(channels * width))


def _with_dense_layers(cells, units, fc_width, num_classes, dropout):
    def dense(inputs, outputs):
        return nn.Dense(inputs, outputs, weight_init="he_normal", bias_init="zeros", has_bias=True, activation=None)
    cells.update(flatten=nn.Flatten(),
                 fc6=dense(units, fc_width), relu6=nn.ReLU(), drop6=layers.Dropout(dropout, seed=6),
                 fc7=dense(fc_width, fc_width), relu7=nn.ReLU(), drop7=layers.Dropout(dropout, seed=7),
                 fc8=dense(fc_width, num_classes))
    return cells
