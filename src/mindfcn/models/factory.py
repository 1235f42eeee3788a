"""Networks by name."""

from functools import partial

from mindfcn.errors import UserError
from mindfcn.models.fcn import FCN8s

MODELS = {
    "fcn8s_vgg16_bn": partial(FCN8s, batch_norm=True),
    "fcn8s_vgg16": partial(FCN8s, batch_norm=False),
}


def create_model(name, num_classes=21, **options):
    """The network `name` for `num_classes` classes; `options` as in its class (fc_width, upsampling, dropout).

    Raises:
        UserError: no network has that name.
    """
    if name not in MODELS:
        raise UserError(f"no network {name!r}; known are {', '.join(sorted(MODELS))}")
    return MODELS[name](num_classes, **options)
