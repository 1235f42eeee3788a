"""Every network by its name: sizes, classes, gradients, parameters, and PyTorch's results on the same weights."""

import math

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its network is compiled)
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy
from mindfcn.models.factory import HEADS, MODELS, PAIRS, create_model, split_name
from mindfcn.models.fcn import FCN8s
from mindfcn.models.layers import bilinear_weight

NARROW = {"fc_width": 8, "width": 0.125}
BACKBONES = {"vgg16": NARROW, "vgg16_bn": NARROW, "alexnet": NARROW, "caffenet": NARROW, "googlenet": {"width": 0.25}}
# every backbone, and every head
NAMES = [*(f"fcn8s_{backbone}" for backbone in BACKBONES),
         "fcn16s_vgg16", "fcn32s_vgg16", "fcn16s_alexnet", "fcn32s_caffenet"]
PAPER, COURSE = "fcn8s_vgg16", "fcn8s_vgg16_bn"
BLOCKS = {"conv1": 2, "conv2": 2, "conv3": 3, "conv4": 3, "conv5": 3, "conv6": 1, "conv7": 1}
HEAD = ("score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8")

pytestmark = pytest.mark.usefixtures("pynative")


def tiny(name, classes=3, **options):
    return create_model(name, classes, **{**BACKBONES.get(split_name(name)[1], NARROW), **options})


def scrambled(name, classes=3, seed=1, **options):
    """A tiny network with random numbers in every parameter, so that none of them is without effect."""
    net = tiny(name, classes, **options)
    random = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        shape = parameter.shape
        if parameter.name.endswith("weight"):
            # each pixel that is upsampled sees 2x2 of the coarse ones
            inputs = 4 * shape[0] if parameter.name.startswith("upscore") else math.prod(shape[1:])
            value = random.standard_normal(shape) * math.sqrt(2 / inputs)
        elif parameter.name.endswith(("gamma", "moving_variance")):
            value = random.uniform(0.5, 1.5, shape)
        elif parameter.name.endswith(".step"):
            continue
        else:
            value = random.standard_normal(shape) * 0.1
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return net.set_train(False)


def picture(height, width, count=1, seed=2):
    return np.random.default_rng(seed).standard_normal((count, 3, height, width)).astype(np.float32)


def run(net, image):
    return net(ms.Tensor(image)).asnumpy()


class Once(nn.Cell):
    """A backbone for several networks that computes the maps of an image for the first of them; None forgets them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.multiple, self.maps = backbone, backbone.multiple, None

    def construct(self, image):
        if self.maps is None:
            self.maps = self.backbone(image)
        return self.maps


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    """(name, scrambled network, its logits of a picture of 33x47 pixels), for tests that change nothing in it."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net = scrambled(request.param)
    return request.param, net, run(net, picture(33, 47))


def test_every_head_has_a_network_on_every_backbone():
    assert {name for name in MODELS if name not in PAIRS} == {
        f"{head}_{backbone}" for head in HEADS for backbone in BACKBONES}


@pytest.mark.parametrize("padding", ["same", "pad100"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_have_the_size_of_the_image(backbone, padding):
    """Of the networks of all heads, each with the maps of the first one's backbone."""
    nets = {head: scrambled(f"{head}_{backbone}", padding=padding) for head in HEADS}
    maps = Once(next(iter(nets.values())).backbone)
    for net in nets.values():
        assert type(net.backbone) is type(maps.backbone) and net.backbone.channels == maps.backbone.channels
        net.backbone = maps
    for height, width in ((1, 1), (1, 33), (31, 32), (33, 47), (64, 96)):
        maps.maps = None
        for head, net in nets.items():
            logits = run(net, picture(height, width, 2))
            assert logits.shape == (2, 3, height, width) and logits.dtype == np.float32, head
            assert np.isfinite(logits).all(), head


@pytest.mark.parametrize("name", NAMES)
def test_number_of_classes(name):
    maps = Once(scrambled(name).backbone)
    for classes in (1, 2, 21):
        net = scrambled(name, classes)
        for parameter in net.get_parameters():
            if parameter.name.startswith(("score", "upscore")):
                assert parameter.shape[0] == classes
        net.backbone = maps
        assert run(net, picture(32, 32)).shape == (1, classes, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_has_a_gradient(name):
    net = scrambled(name).set_train(True)
    labels = ms.Tensor(np.random.default_rng(3).integers(0, 3, (2, 40, 33)), ms.int32)
    loss = CrossEntropy()
    gradients = ms.grad(lambda image: loss(net(image), labels), None, net.trainable_params())(
        ms.Tensor(picture(40, 33, 2)))
    assert len(gradients) == len(net.trainable_params())
    for parameter, gradient in zip(net.trainable_params(), gradients):
        assert gradient.shape == parameter.shape
        assert np.isfinite(gradient.asnumpy()).all() and np.abs(gradient.asnumpy()).max() > 0, parameter.name


def test_saved_and_loaded_by_mindspore_it_gives_the_same_logits(network, tmp_path):
    name, net, expected = network
    other, image = scrambled(name, seed=9), picture(33, 47)
    assert np.abs(expected - run(other, image)).max() > 1e-3
    ms.save_checkpoint(net, str(tmp_path / "net.ckpt"))
    missing, unexpected = ms.load_param_into_net(other, ms.load_checkpoint(str(tmp_path / "net.ckpt")))
    assert (missing, unexpected) == ([], [])
    np.testing.assert_array_equal(run(other, image), expected)


class EvaluatedAndTrained(nn.Cell):
    """Logits of a network in evaluation and of a second one in training, in one graph."""

    def __init__(self, evaluated, trained):
        super().__init__()
        self.evaluated, self.trained = evaluated.set_train(False), trained.set_train(True)

    def construct(self, image):
        return self.evaluated(image), self.trained(image)


@pytest.mark.parametrize("name", [PAPER, "fcn8s_small_bn", "fcn16s_caffenet", *(
    pytest.param(name, marks=pytest.mark.long) for name in (COURSE, "fcn32s_googlenet"))])
def test_compiled_equals_operator_by_operator(name):
    net = scrambled(name, dropout=0.5)
    image = picture(33, 47)
    plain = run(net, image)
    trained = run(net.set_train(True), image)
    again = EvaluatedAndTrained(scrambled(name, dropout=0.5), scrambled(name, dropout=0.5))
    ms.set_context(mode=ms.GRAPH_MODE)
    evaluated, found = again(ms.Tensor(image))
    np.testing.assert_allclose(evaluated.asnumpy(), plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.asnumpy(), trained, rtol=1e-3, atol=1e-4)
    assert np.abs(plain - trained).max() > 1e-2, "dropout or batch statistics must show"
    states = [list(cell.get_parameters()) for cell in (again.trained, net)]
    assert len(states[0]) == len(states[1])
    for ours, theirs in zip(*states):
        assert ours.name.endswith(theirs.name)
        np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-4, atol=1e-6)


def test_inception_compiled_equals_operator_by_operator(short_googlenet):
    test_compiled_equals_operator_by_operator("fcn32s_googlenet")


def test_odd_sizes_are_padded_with_the_mean_color_below_and_at_the_right(network):
    _, net, expected = network
    padded = np.zeros((1, 3, 64, 64), np.float32)
    padded[:, :, :33, :47] = picture(33, 47)
    np.testing.assert_array_equal(expected, run(net, padded)[:, :, :33, :47])


def test_an_image_does_not_depend_on_its_batch(network):
    _, net, expected = network
    images = np.concatenate([picture(33, 47, seed=3), picture(33, 47)])
    np.testing.assert_allclose(run(net, images)[1:], expected, rtol=1e-4, atol=1e-5)


def test_the_paper_form_starts_at_ln_21():
    """Its score layers are zero, so every class is equally likely whatever the image."""
    net = tiny(PAPER, 21).set_train(True)
    logits = net(ms.Tensor(picture(32, 64)))
    assert (logits.asnumpy() == 0).all()
    labels = ms.Tensor(np.random.default_rng(1).integers(0, 21, (1, 32, 64)), ms.int32)
    assert float(CrossEntropy()(logits, labels)) == pytest.approx(math.log(21), abs=1e-5)


def test_the_paper_form_drops_in_training_only():
    net = scrambled(PAPER, dropout=0.5)
    image = picture(32, 32)
    still = [run(net, image) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert {parameter.name for parameter in net.get_parameters() if not parameter.requires_grad} == {
        "drop6.step", "drop7.step"}
    moving = [run(net.set_train(True), image) for _ in range(2)]
    assert np.abs(moving[0] - moving[1]).max() > 1e-3
    undropped = scrambled(PAPER, dropout=0.0).set_train(True)
    np.testing.assert_allclose(run(undropped, image), still[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_of_the_fixed_32s_only_the_score_layer_trains(backbone):
    net = tiny(f"fcn32s_fixed_{backbone}")
    assert {parameter.name.split(".")[0] for parameter in net.trainable_params()} == {"score_fr"}


def test_all_at_once_multiplies_pool4_and_pool3_by_the_papers_factors():
    """The same as score layers with weights as much smaller."""
    net, plain = scrambled("fcn8s_atonce_vgg16"), scrambled(PAPER)
    for name, factor in (("score_pool4", 0.01), ("score_pool3", 0.0001)):
        weight = getattr(plain.head, name).weight
        weight.set_data(weight * factor)
    np.testing.assert_allclose(run(net, picture(33, 47)), run(plain, picture(33, 47)), rtol=1e-4, atol=1e-5)
    scaled = create_model("fcn8s_atonce_vgg16", 3, **BACKBONES["vgg16"], skip_scales=(1, 0.5))
    assert scaled.head.scale_pool3.factor == 0.5


@pytest.mark.parametrize("upsampling, learned", [
    ("bilinear", {"upscore2", "upscore_pool4", "upscore8"}), ("final_fixed", {"upscore2", "upscore_pool4"}),
    ("fixed", set())])
def test_upsampling_is_learned_or_fixed(upsampling, learned):
    net = tiny(PAPER, upsampling=upsampling)
    trained = {parameter.name.split(".")[0] for parameter in net.trainable_params()}
    assert {name for name in trained if name.startswith("upscore")} == learned
    for name in ("upscore2", "upscore_pool4", "upscore8"):
        weight = getattr(net.head, name).weight.asnumpy()
        np.testing.assert_array_equal(weight, bilinear_weight(3, weight.shape[-1]))


def test_fcn16s_with_zero_skip_scores_is_the_32s_score_upsampled_twice():
    net, coarse = scrambled("fcn16s_vgg16"), scrambled("fcn32s_vgg16")
    for parameter in net.head.score_pool4.get_parameters():
        parameter.set_data(parameter * 0)
    for name in ("upscore2", "upscore16"):
        weight = getattr(net.head, name).weight
        weight.set_data(ms.Tensor(bilinear_weight(3, weight.shape[-1])))
    ms.load_param_into_net(net, {parameter.name: parameter for parameter in coarse.get_parameters()
                                 if not parameter.name.startswith("upscore")})
    image = picture(64, 96)
    score = coarse.head.score_fr(coarse.backbone(ms.Tensor(image))["fc7"]).asnumpy()
    expected = upsampled(upsampled(score, 2), 16)
    np.testing.assert_allclose(run(net, image), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def upsampled(maps, factor):
    """Half-pixel bilinear interpolation of (N, C, h, w) in float64, with zeros around the maps."""
    for axis in (2, 3):
        size = maps.shape[axis]
        at = (np.arange(size * factor) + 0.5) / factor - 0.5
        weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)[None]))
        maps = np.moveaxis(np.tensordot(maps.astype(np.float64), weights, (axis, 1)), -1, axis)
    return maps


def official_names():
    """Of the course's checkpoints, trainable and moving ones."""
    trainable, moving = [], []
    for block, count in BLOCKS.items():
        for place in range(0, 3 * count, 3):
            trainable += [f"{block}.{place}.weight", f"{block}.{place + 1}.gamma", f"{block}.{place + 1}.beta"]
            moving += [f"{block}.{place + 1}.moving_mean", f"{block}.{place + 1}.moving_variance"]
    return trainable + [f"{layer}.weight" for layer in HEAD], moving


def shapes_of_the_course():
    """Weights of FCN8s(21) by its table: channels, kernels and upsampling factors."""
    shapes, channels = {}, 3
    for block, width in zip(BLOCKS, (64, 128, 256, 512, 512, 4096, 4096)):
        kernel = {"conv6": 7, "conv7": 1}.get(block, 3)
        for place in range(BLOCKS[block]):
            shapes[f"{block}.{3 * place}.weight"] = (width, channels, kernel, kernel)
            channels = width
    for layer, channels in (("score_fr", 4096), ("score_pool4", 512), ("score_pool3", 256)):
        shapes[f"{layer}.weight"] = (21, channels, 1, 1)
    for layer, kernel in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
        shapes[f"{layer}.weight"] = (21, 21, kernel, kernel)
    return shapes


def test_names_shapes_and_number_of_parameters_are_the_courses():
    with nn.no_init_parameters():
        net = FCN8s(21)
    trainable, moving = official_names()
    assert sorted(parameter.name for parameter in net.trainable_params()) == sorted(trainable)
    assert sorted(parameter.name for parameter in net.get_parameters()) == sorted(trainable + moving)
    assert sum(math.prod(parameter.shape) for parameter in net.trainable_params()) == 134_502_112
    weights = [parameter for parameter in net.trainable_params() if parameter.name.endswith("weight")]
    assert {parameter.name: parameter.shape for parameter in weights} == shapes_of_the_course()


def test_the_paper_form_has_vgg16s_numbers():
    """VGG16 without its classifier has 138,357,544 - 4,097,000 parameters; its score layers have biases."""
    with nn.no_init_parameters():
        net = create_model(PAPER, 21)
    parameters = {parameter.name: parameter for parameter in net.trainable_params()}
    backbone = [name for name in parameters if name.startswith("conv")]
    assert len(backbone) == 30
    assert sum(math.prod(parameters[name].shape) for name in backbone) == 138_357_544 - 4_097_000
    assert {name for name in parameters if not name.startswith("conv")} == {
        *(f"{layer}.weight" for layer in HEAD), "score_fr.bias", "score_pool4.bias", "score_pool3.bias"}


def test_unknown_names_are_reported_in_one_line():
    with pytest.raises(UserError) as error:
        create_model("fcn9s")
    assert "\n" not in str(error.value) and "'fcn9s'" in str(error.value)
    assert all(part in str(error.value) for part in (*HEADS, *BACKBONES, *PAIRS))
    with pytest.raises(UserError, match="^fcn8s_googlenet has no option fc_width; it has dropout, width, padding"):
        create_model("fcn8s_googlenet", fc_width=8)
    for arguments, options, words in (((None,), {}, "name is None"), ((PAPER, "21"), {}, "'21' classes"),
                                      ((PAPER, 0), {}, "0 classes"), ((PAPER, 2), {"width": 0}, "width 0"),
                                      ((PAPER, 2), {"width": -1}, "width -1")):
        with pytest.raises(UserError, match=words):
            create_model(*arguments, **options)


def torch_logits(torch, parameters, image, batch_norm):
    """The network from the paper's figure 3 in torch's functions, fed with our parameters."""
    functions = torch.nn.functional
    step = 3 if batch_norm else 2

    def block(x, name):
        for at in range(0, step * BLOCKS[name], step):
            weight = parameters[f"{name}.{at}.weight"]
            bias = None if batch_norm else parameters[f"{name}.{at}.bias"]
            x = functions.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
            if batch_norm:
                norm = [parameters[f"{name}.{at + 1}.{kind}"]
                        for kind in ("moving_mean", "moving_variance", "gamma", "beta")]
                x = functions.batch_norm(x, *norm, training=False, eps=1e-5)
            x = functions.relu(x)
        return x

    def score(x, name):
        return functions.conv2d(x, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))

    def upsample(x, name, stride):
        return functions.conv_transpose2d(x, parameters[f"{name}.weight"], stride=stride, padding=stride // 2)

    height, width = image.shape[2:]
    pools, x = {}, functions.pad(image, (0, -width % 32, 0, -height % 32))
    for number in range(1, 6):
        x = pools[number] = functions.max_pool2d(block(x, f"conv{number}"), 2)
    fused = upsample(score(block(block(x, "conv6"), "conv7"), "score_fr"), "upscore2", 2)
    fused = upsample(fused + score(pools[4], "score_pool4"), "upscore_pool4", 2)
    return upsample(fused + score(pools[3], "score_pool3"), "upscore8", 8)[:, :, :height, :width]


@pytest.mark.parametrize("name", [PAPER, COURSE])
def test_logits_equal_pytorchs(name):
    torch = pytest.importorskip("torch")
    net = scrambled(name, 5)
    image = picture(70, 97, 2)
    parameters = {parameter.name: torch.tensor(parameter.asnumpy()) for parameter in net.get_parameters()}
    with torch.no_grad():
        expected = torch_logits(torch, parameters, torch.tensor(image), name == COURSE).numpy()
    ours = run(net, image)
    assert ours.std() > 0.01
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
