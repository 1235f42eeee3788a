"""The optimisers and gradient clipping against PyTorch's on the same weights and batches."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.models import layers

torch = pytest.importorskip("torch")
STEPS = 6


class SmallNet(nn.Cell):
    """Two convolutions, the second one a head, as plain as PyTorch's."""

    def __init__(self):
        super().__init__()
        self.conv1 = layers.conv(3, 5, 3, bias=True)
        self.score_fr = layers.conv(5, 4, 1, bias=True)

    def construct(self, image):
        return self.score_fr(ops.relu(self.conv1(image)))


def batches():
    random = np.random.default_rng(1)
    return [(3 * random.standard_normal((2, 3, 8, 8)).astype(np.float32),
             random.integers(0, 4, (2, 8, 8)).astype(np.int32)) for _ in range(STEPS)]


def ours(config):
    """({name: initial weight}, {name: weight after STEPS updates}, the step)."""
    ms.set_seed(1)
    net = SmallNet()
    start = {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}
    update, _ = optimiser(net, config, STEPS)
    step = TrainStep(net, update, clip_norm=config.clip_norm)
    step.set_train()
    for image, label in batches():
        step(ms.Tensor(image), ms.Tensor(label))
    return start, {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}, step


def theirs(config, start):
    """{name: weight after STEPS updates} of PyTorch from the same weights."""
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    decays = config.name == "sgd"
    groups = [{"params": [value], "lr": config.lr * (config.head_lr if name.startswith("score") else 1),
               "weight_decay": 0.0 if name.endswith("bias") and not decays else config.weight_decay}
              for name, value in tensors.items()]
    if config.name == "sgd":
        update = torch.optim.SGD(groups, momentum=config.momentum)
    else:
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        update = kind(groups, betas=(config.momentum, config.beta2))
    norms = []
    for image, label in batches():
        hidden = torch.nn.functional.conv2d(torch.tensor(image), tensors["conv1.weight"], tensors["conv1.bias"],
                                            padding=1)
        scores = torch.nn.functional.conv2d(hidden.relu(), tensors["score_fr.weight"], tensors["score_fr.bias"])
        update.zero_grad()
        torch.nn.functional.cross_entropy(scores, torch.tensor(label, dtype=torch.long)).backward()
        if config.clip_norm:
            norms.append(float(torch.nn.utils.clip_grad_norm_(list(tensors.values()), config.clip_norm)))
        update.step()
    # Some are clipped, some are not.
    assert not norms or min(norms) < config.clip_norm < max(norms), norms
    return {name: value.detach().numpy() for name, value in tensors.items()}


@pytest.mark.parametrize("options", [
    {"name": "adam", "weight_decay": 0.1}, {"name": "adamw", "weight_decay": 0.5, "head_lr": 3.0, "clip_norm": 0.8,
                                            "momentum": 0.8, "beta2": 0.9},
    {"name": "sgd", "clip_norm": 1.0, "weight_decay": 0.1}],
    ids=lambda options: options["name"])
def test_updates_equal_pytorchs(mode, options):
    config = OptimConfig(lr=0.01, schedule="constant", **options)
    start, end, _ = ours(config)
    for name, expected in theirs(config, start).items():
        moved = np.abs(expected - start[name]).max()
        assert moved > 0.005
        np.testing.assert_allclose(end[name], expected, rtol=0, atol=2e-3 * moved, err_msg=name)


def test_a_resumed_run_restores_what_adam_keeps():
    state = ours(OptimConfig(name="adamw", lr=0.01, schedule="constant"))[2].state()
    kept = {name.split(".")[0] for name in state}
    assert {"moment1", "moment2", "beta1_power", "beta2_power", "global_step"} <= kept
    assert float(state["beta2_power"].asnumpy()) == pytest.approx(0.999 ** STEPS)
