"""VGG16 as the ImageNet classifier that it was, with dense layers (Long et al. 2015, section 4.1).

`convolutionalise` makes it fully convolutional. The parameters are called conv1.0.weight to conv5.2.weight as in the
backbone, and fc6.weight, fc7.weight and fc8.weight.
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
        outputs = max(1, round(base * width))
        cells[f"conv{block}"] = layers.conv_block(channels, outputs, (3,) * count)
        cells[f"pool{block}"] = layers.MaxPool()
        channels = outputs
    cells.update(dense_layers(channels * 7 * 7, fc_width, num_classes, dropout))
    return nn.SequentialCell(cells)


def dense_layers(units, fc_width, num_classes, dropout=0.5):
    """{name: cell} of a classifier's layers after the last pooling: (N, C, h, w) of `units` numbers to logits."""
    def dense(inputs, outputs):
        return nn.Dense(inputs, outputs, weight_init="he_normal", bias_init="zeros", has_bias=True, activation=None)
    return {"flatten": nn.Flatten(),
            "fc6": dense(units, fc_width), "relu6": nn.ReLU(), "drop6": layers.Dropout(dropout, seed=6),
            "fc7": dense(fc_width, fc_width), "relu7": nn.ReLU(), "drop7": layers.Dropout(dropout, seed=7),
            "fc8": dense(fc_width, num_classes)}
