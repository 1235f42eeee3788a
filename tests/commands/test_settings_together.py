"""Settings of a training run that are each within their bounds but not together."""

import pytest
from helpers import one_line
from mindspore import nn

from mindfcn.config import AugmentConfig, ModelConfig, TrainConfig, flat
from mindfcn.engine.optimiser import freeze
from mindfcn.engine.resume import MAY_CHANGE, UNCHECKED, changed_settings, plain_values
from mindfcn.engine.run_dir import RunDir
from mindfcn.engine.settings import check_settings
from mindfcn.errors import UserError


@pytest.mark.parametrize("name, crop, batch, refused", [
    ("fcn8s_vgg16_bn", 32, 1, True), ("fcn8s_vgg16_bn", 20, 1, True), ("fcn_r18_d8", 32, 1, True),
    ("fcn32s_mindcv_resnet18", 32, 1, True), ("fcn8s_vgg16", 32, 1, False), ("fcn8s_vgg16_bn", 33, 1, False),
    ("fcn8s_vgg16_bn", 32, 2, False), ("fcn8s_vgg16_bn", 0, 1, False)])
def test_normalisation_of_a_single_value_is_refused(name, crop, batch, refused):
    """It has no variance, and its loss is no number: not the learning rate's fault."""
    config = TrainConfig(model=ModelConfig(name), augment=AugmentConfig(crop_size=crop, batch_size=batch))
    if not refused:
        check_settings(config)
        return
    with pytest.raises(UserError) as caught:
        check_settings(config)
    one_line(caught, "--augment.crop_size", "batch normalisation of a single value")


def test_a_freeze_that_matches_no_weight_is_refused():
    class Backbone(nn.Cell):
        """A backbone whose parameters do not have the names of its blocks."""
        blocks = ("conv1", "conv2")

        def __init__(self):
            super().__init__()
            self.other = nn.Conv2d(3, 3, 1)

    net = nn.Cell()
    net.backbone = Backbone()
    for block, words in (("conv2", "no weight"), ("conv3", "no such block")):
        with pytest.raises(UserError) as caught:
            freeze(net, block)
        one_line(caught, f"--optim.freeze {block}", words)
    assert freeze(net, "") == [] and net.backbone.other.weight.requires_grad


def changed(value):
    """Another value of the type of a setting."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else f"{value}x"


@pytest.mark.parametrize("name", [name for name in flat(plain_values(TrainConfig())) if not name.startswith("data.")])
def test_a_resumed_run_refuses_or_names_every_setting(name):
    """`optim.accumulate` as any other: what may change is listed, nothing changes silently."""
    config, run = TrainConfig(), RunDir("run")
    there = plain_values(config)
    *groups, last = name.split(".")
    place = there
    for group in groups:
        place = place[group]
    before = place[last]
    place[last] = changed(before)
    if name in UNCHECKED:
        assert changed_settings(there, config, run) == {}
    elif name in MAY_CHANGE:
        assert changed_settings(there, config, run) == {name: (place[last], before)}
    else:
        with pytest.raises(UserError) as caught:
            changed_settings(there, config, run)
        one_line(caught, name, "must not change")
    assert "optim.accumulate" not in (*UNCHECKED, *MAY_CHANGE)
