"""Any backbone of the mindcv library as a backbone."""

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.models.analysis.trace import trace
from mindfcn.models.surgery.dilate import dilate

STRIDES = {"pool3": 8, "pool4": 16, "fc7": 32}
TRACED = 256


class MindCV(nn.Cell):
    """A mindcv backbone. Its maps at strides 8, 16 and 32 have the names of VGG16's.

    Args:
        name: a name from mindcv.list_models(): a network that offers its maps (`features_only`), or whose cells run
            one after another.
        output_stride: 32, 16 or 8. Larger strides become dilations of the layers after them (Chen et al. 2015; the
            FCN paper's filter rarefaction).

    Inputs: (N, 3, H, W) float32, H and W multiples of 32.
    Outputs: {"pool3", "pool4", "fc7"}: (N, C, H/8, W/8), (N, C, H/16, W/16), (N, C, H/32, W/32), or finer.

    Raises:
        UserError: mindcv is not installed, has no such backbone, or the backbone has no such maps.
    """

    multiple = 32
    has_bias = True
    in_channels = 3

    def __init__(self, name, output_stride=32):
        super().__init__(auto_prefix=False)
        if output_stride not in STRIDES.values():
            raise UserError(f"output stride {output_stride}: choose one of {', '.join(map(str, STRIDES.values()))}")
        try:
            self.network = features(name)
            if output_stride < 32:
                dilate(self.network, output_stride, TRACED)
            layers, maps = trace(self.network, TRACED)
            self.at = {pool: max((layer.after for layer in layers if layer.outputs == feature.shape[1:]),
                                 key=lambda place: place.field) for pool, feature in zip(STRIDES, maps)}
        # mindcv's networks fail in many ways, some only with this version of MindSpore.
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"mindcv's {name} cannot carry a head at output stride {output_stride}: {reason}; "
                            "take another backbone, such as resnet50") from None
        self.channels = dict(zip(STRIDES, self.network.out_channels))
        self.blocks = tuple(dict.fromkeys(parameter.name.split(".")[0] for parameter in self.get_parameters()))

    def construct(self, image):
        pool3, pool4, fc7 = self.network(image)
        return {"pool3": pool3, "pool4": pool4, "fc7": fc7}

    def receptive_fields(self):
        """{map: ReceptiveField} of its maps."""
        return self.at


class Chain(nn.Cell):
    """The cells of a classifier that run one after another, split at the maps of STRIDES.

    Inputs: (N, 3, H, W) float32. Outputs: the three maps. `out_channels`: their channels.
    """

    def __init__(self, stretches, out_channels):
        super().__init__(auto_prefix=False)
        self.out_channels = out_channels
        self.to_pool3, self.to_pool4, self.to_fc7 = (nn.CellList(cells, auto_prefix=False) for cells in stretches)

    def construct(self, image):
        pool3 = image
        for cell in self.to_pool3:
            pool3 = cell(pool3)
        pool4 = pool3
        for cell in self.to_pool4:
            pool4 = cell(pool4)
        fc7 = pool4
        for cell in self.to_fc7:
            fc7 = cell(fc7)
        return pool3, pool4, fc7


def features(name):
    """The mindcv backbone of that name, returning its maps at STRIDES: by mindcv's feature extractor, or as a Chain."""
    try:
        import mindcv
        from mindcv.models.features import FeatureExtractWrapper
    except ImportError:
        raise UserError(f"the backbone {name} is one of mindcv's, which is not installed; "
                        "install it with pip install mindcv") from None
    if name not in mindcv.list_models():
        raise UserError(f"mindcv has no backbone {name!r}; python -c 'import mindcv; print(mindcv.list_models())' "
                        "lists them")
    whole = mindcv.create_model(name)
    strides = [level["reduction"] for level in getattr(whole, "feature_info", ())]
    if set(STRIDES.values()) <= set(strides):
        # The last level of each stride is the deepest.
        levels = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES.values()]
        names = {id(parameter): parameter.name for parameter in whole.get_parameters()}
        backbone = FeatureExtractWrapper(whole, levels)
        # The wrapper renames some families' parameters; mindcv's weights need the original names.
        for parameter in backbone.get_parameters():
            parameter.name = names[id(parameter)]
        return backbone
    chain = cut(whole.set_train(False))
    if chain is None:
        raise UserError(f"mindcv's {name} does not offer its maps at strides 8, 16 and 32, and its cells do not simply "
                        "run one after another; take another backbone, such as resnet50")
    return chain


def cut(classifier):
    """A classifier as a Chain up to its pooling; None if its cells run in order do not give its last map."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        image = x = ms.Tensor(np.random.default_rng(1).standard_normal((1, 3, TRACED, TRACED)).astype(np.float32))
        stretches, channels, last = ([], [], []), [0, 0, 0], 0
        for cell in flat(classifier):
            # A cell that cannot take a map belongs to the classification head.
            try:
                y = cell(x)
            except (AssertionError, RuntimeError, TypeError, ValueError):
                break
            stride = TRACED // y.shape[2] if isinstance(y, ms.Tensor) and y.ndim == 4 else TRACED
            if stride > max(STRIDES.values()):
                break
            last = max(last, next(place for place, most in enumerate(STRIDES.values()) if stride <= most))
            stretches[last].append(cell)
            channels[last], x = y.shape[1], y
        own = classifier.forward_features(image) if hasattr(classifier, "forward_features") else None
    except (RuntimeError, TypeError, ValueError):
        return None
    finally:
        ms.set_context(mode=mode)
    same = isinstance(own, ms.Tensor) and own.shape == x.shape and np.allclose(own.asnumpy(), x.asnumpy(), 1e-4, 1e-5)
    return Chain(stretches, channels) if same and all(stretches) else None


def flat(cell):
    """The child cells in order, with SequentialCells replaced by the cells inside them."""
    for child in cell.cells():
        if isinstance(child, nn.SequentialCell):
            yield from flat(child)
        else:
            yield child
