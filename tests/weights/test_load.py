"""Loading a VGG16's or a complete network's weights: every weight is reported once."""

import math

import mindspore as ms
import numpy as np
import pytest
from helpers import one_line, parameters
from safetensors.numpy import save_file

from mindfcn.errors import UserError
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE as BGR
from mindfcn.weights.load import backbone_parameters, load_backbone, load_vgg16, load_weights

PAPER, COURSE = "fcn8s_vgg16", "fcn8s_vgg16_bn"
WIDTHS = (8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64)  # VGG16's, by 8
POOLED = (1, 3, 6, 9, 12)  # the convolutions before a pooling
FC = 24
CONVS = {PAPER: "1.0 1.2 2.0 2.2 3.0 3.2 3.4 4.0 4.2 4.4 5.0 5.2 5.4".split(),
         COURSE: "1.0 1.3 2.0 2.3 3.0 3.3 3.6 4.0 4.3 4.6 5.0 5.3 5.6".split()}

pytestmark = pytest.mark.usefixtures("pynative")


def network(name, classes=3, fc_width=FC, **options):
    return create_model(name, classes, fc_width=fc_width, width=0.125, **options).set_train(False)


def places(normalised):
    """Indices of the convolutions in torchvision's `features`, from its configuration."""
    found, at = [], 0
    for number in range(13):
        found.append(at)
        at += (3 if normalised else 2) + (number in POOLED)
    return found


def torchvision(normalised=False, seed=1, fc=FC):
    """A state_dict of torchvision's vgg16 or vgg16_bn with random numbers and an eighth of the channels."""
    random = np.random.default_rng(seed)
    weights, channels = {}, 3
    for at, width in zip(places(normalised), WIDTHS):
        weights[f"features.{at}.weight"] = random.standard_normal((width, channels, 3, 3)) * math.sqrt(2 / 9 / channels)
        weights[f"features.{at}.bias"] = random.standard_normal(width) * 0.3
        if normalised:
            for kind, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5),
                                    ("running_var", 0.5, 1.5)):
                weights[f"features.{at + 1}.{kind}"] = random.uniform(low, high, width)
        channels = width
    for name, out, size in (("classifier.0", fc, 64 * 49), ("classifier.3", fc, fc), ("classifier.6", 10, fc)):
        weights[f"{name}.weight"] = random.standard_normal((out, size)) * math.sqrt(2 / size)
        weights[f"{name}.bias"] = random.standard_normal(out) * 0.3
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def assert_reported_once(report, net):
    """Assert that every parameter of the network is in the report exactly once, and in its table too."""
    names = report.loaded + report.missing + [mismatch[0] for mismatch in report.shape_mismatches]
    assert sorted(names) == sorted(backbone_parameters(net))
    assert {name for name, _ in report.converted} <= set(report.loaded)
    listed = [name for name, _ in report.rows()]
    assert sorted(listed) == sorted(names + report.unexpected)
    assert all(name in str(report) for name in listed)
    assert f"{len(report.loaded)} loaded" in report.summary() and "\n" not in report.summary()


def write(path, weights):
    if path.suffix == ".npz":
        np.savez(path, **weights)
    elif path.suffix == ".safetensors":
        save_file(weights, path)
    elif path.suffix == ".ckpt":
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(weight)} for name, weight in weights.items()], str(path))
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.tensor(weight) for name, weight in weights.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".ckpt", ".pth"])
@pytest.mark.parametrize("name", [PAPER, COURSE])
def test_a_torchvision_vgg16_fills_both_forms(name, suffix, tmp_path):
    weights, net = torchvision(), network(name)
    before = parameters(net)
    report = load_vgg16(net, write(tmp_path / f"vgg16{suffix}", weights))
    after = parameters(net)
    assert_reported_once(report, net)
    assert sorted(report.unexpected) == ["classifier.6.bias", "classifier.6.weight"] and report.shape_mismatches == []
    for at, place in zip(places(False), CONVS[name]):
        kernel, bias = weights[f"features.{at}.weight"], weights[f"features.{at}.bias"]
        np.testing.assert_array_equal(after[f"conv{place}.weight"], kernel[:, ::-1] if at == 0 else kernel)
        if name == PAPER:
            np.testing.assert_array_equal(after[f"conv{place}.bias"], bias)
        else:
            np.testing.assert_array_equal(after[f"conv{place[:-1]}{int(place[-1]) + 1}.moving_mean"], -bias)
    np.testing.assert_array_equal(after["conv6.0.weight"], weights["classifier.0.weight"].reshape(FC, 64, 7, 7))
    np.testing.assert_array_equal(after["conv7.0.weight"][:, :, 0, 0], weights["classifier.3.weight"])
    if name == PAPER:
        assert report.missing == []
    else:
        kinds = ("gamma", "beta", "moving_variance")
        assert sorted(report.missing) == sorted(entry for entry in after if entry.startswith("conv")
                                                and entry.endswith(kinds))
    for entry in after:
        if entry in report.missing or not entry.startswith("conv"):
            np.testing.assert_array_equal(after[entry], before[entry])


def test_a_torchvision_vgg16_bn_fills_the_course_form_with_its_moving_averages():
    weights, net = torchvision(True), network(COURSE)
    report = load_vgg16(net, weights)
    after = parameters(net)
    assert_reported_once(report, net)
    for at, place in zip(places(True), CONVS[COURSE]):
        norm, source = f"conv{place[:-1]}{int(place[-1]) + 1}", f"features.{at + 1}"
        np.testing.assert_array_equal(after[f"{norm}.gamma"], weights[f"{source}.weight"])
        np.testing.assert_array_equal(after[f"{norm}.beta"], weights[f"{source}.bias"])
        np.testing.assert_array_equal(after[f"{norm}.moving_variance"], weights[f"{source}.running_var"])
        np.testing.assert_allclose(after[f"{norm}.moving_mean"],
                                   weights[f"{source}.running_mean"] - weights[f"features.{at}.bias"], rtol=1e-6)
    with pytest.raises(UserError, match="_bn"):
        load_vgg16(network(PAPER), weights)


def torch_pools(torch, weights, image, normalised):
    """torchvision's features on an RGB image: the maps after the third, fourth and fifth pooling."""
    functions = torch.nn.functional
    x, pools = torch.tensor(image), []
    with torch.no_grad():
        for number, at in enumerate(places(normalised)):
            tensor = {kind: torch.tensor(weights[f"features.{at}.{kind}"]) for kind in ("weight", "bias")}
            x = functions.conv2d(x, tensor["weight"], tensor["bias"], padding=1)
            if normalised:
                norm = [torch.tensor(weights[f"features.{at + 1}.{kind}"])
                        for kind in ("running_mean", "running_var", "weight", "bias")]
                x = functions.batch_norm(x, *norm, training=False)
            x = functions.relu(x)
            if number in POOLED:
                x = functions.max_pool2d(x, 2)
                pools.append(x.numpy())
    return pools[2:]


@pytest.mark.parametrize("name, normalised", [(PAPER, False), (COURSE, False), (COURSE, True)])
def test_features_equal_torchvisions_on_the_same_photograph(name, normalised):
    """MindFCN's VGG16 takes BGR, torchvision's RGB; a plain VGG16 loaded into the batch-normalised form agrees too."""
    torch = pytest.importorskip("torch")
    weights, net = torchvision(normalised), network(name)
    load_vgg16(net, weights)
    image = np.random.default_rng(2).standard_normal((1, 3, 64, 96)).astype(np.float32)
    pool3, pool4, pool5 = torch_pools(torch, weights, image, normalised)
    maps = net.backbone(ms.Tensor(np.ascontiguousarray(image[:, ::-1])))
    for actual, expected in ((maps["pool3"], pool3), (maps["pool4"], pool4)):
        assert np.abs(actual.asnumpy() - expected).max() < 3e-4 * np.abs(expected).max()
    actual = net.backbone.pool5(net.backbone.conv5(maps["pool4"])).asnumpy()
    assert np.abs(actual - pool5).max() < 3e-4 * np.abs(pool5).max()


def test_a_plain_vgg16_gives_the_same_maps_with_normalisation_and_without():
    """The bias is in the moving mean, the variance is 1; what remains is epsilon, 5e-6 a layer."""
    weights = torchvision(seed=5)
    plain, normalised = network(PAPER), network(COURSE)
    load_vgg16(plain, weights)
    load_vgg16(normalised, weights)
    image = ms.Tensor(np.random.default_rng(3).standard_normal((1, 3, 64, 64)).astype(np.float32))
    maps = [net.backbone(image) for net in (plain, normalised)]
    for name in ("pool3", "pool4"):
        one, other = (entry[name].asnumpy() for entry in maps)
        assert np.abs(one).max() > 0.1
        assert np.abs(one - other).max() < 1e-3 * np.abs(one).max()
    fc7 = [entry["fc7"].asnumpy() for entry in maps]
    bias = weights["classifier.0.bias"]
    np.testing.assert_array_equal(parameters(normalised)["conv6.1.moving_mean"], -bias)
    assert np.abs(fc7[0] - fc7[1]).max() < 1e-3 * np.abs(fc7[0]).max()


def test_fc6_and_fc7_on_a_7x7_map_are_the_dense_layers():
    weights, net = torchvision(seed=7), network(PAPER)
    load_vgg16(net, weights)
    pool5 = np.random.default_rng(4).standard_normal((2, 64, 7, 7)).astype(np.float32)
    hidden = np.maximum(pool5.reshape(2, -1) @ weights["classifier.0.weight"].T + weights["classifier.0.bias"], 0)
    expected = np.maximum(hidden @ weights["classifier.3.weight"].T + weights["classifier.3.bias"], 0)
    fc7 = net.backbone.conv7(net.backbone.conv6(ms.Tensor(pool5))).asnumpy()
    assert fc7.shape == (2, FC, 7, 7) and (expected > 0).any()
    np.testing.assert_allclose(fc7[:, :, 3, 3], expected, rtol=1e-4, atol=1e-4)


def test_narrow_dense_layers_keep_their_initial_values():
    net = network(PAPER, fc_width=10)
    before = parameters(net)
    report = load_vgg16(net, torchvision())
    assert_reported_once(report, net)
    assert {mismatch[0] for mismatch in report.shape_mismatches} == {f"conv{layer}.0.{kind}" for layer in (6, 7)
                                                      for kind in ("weight", "bias")}
    assert ("conv6.0.weight", (10, 64, 7, 7), (FC, 64, 7, 7)) in report.shape_mismatches
    for name, _, _ in report.shape_mismatches:
        np.testing.assert_array_equal(parameters(net)[name], before[name])


def test_weights_that_do_not_fit_vgg16_are_reported_in_one_line(tmp_path):
    net = network(PAPER)
    with pytest.raises(UserError) as error:
        load_vgg16(net, {"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, where="resnet.pth")
    one_line(error, "resnet.pth", "layer1.0.conv1.weight", "VGG16")
    with pytest.raises(UserError) as error:
        load_vgg16(create_model(PAPER, 3, fc_width=FC, width=0.25), torchvision())
    one_line(error, "conv1.0.weight", "(8, 3, 3, 3)", "(16, 3, 3, 3)")
    path = write(tmp_path / "vgg16.npz", torchvision())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError) as error:
        load_vgg16(net, path)
    one_line(error, "vgg16.npz")
    with pytest.raises(UserError) as error:
        load_vgg16(net, tmp_path / "absent.npz")
    one_line(error, "absent.npz")
    for name, value in (("features.5.weight", np.nan), ("classifier.0.bias", np.inf)):
        nonfinite = torchvision()
        nonfinite[name].flat[3] = value
        for form in (PAPER, COURSE):
            with pytest.raises(UserError) as error:
                load_vgg16(network(form), nonfinite, where="nonfinite.pth")
            one_line(error, "nonfinite.pth", "NaN")


@pytest.mark.parametrize("name", [PAPER, COURSE])
def test_a_whole_network_is_loaded_to_the_last_number(name):
    net, other = network(name), network(name)
    random = np.random.default_rng(8)
    for parameter in net.get_parameters():
        if not parameter.name.endswith(".step"):
            parameter.set_data(ms.Tensor(random.uniform(0.5, 1, parameter.shape).astype(np.float32)))
    weights = {entry: value for entry, value in parameters(net).items() if not entry.endswith(".step")}
    report = load_weights(other, weights, f"{name}.ckpt")
    assert sorted(report.loaded) == sorted(weights) and not report.missing + report.unexpected + report.shape_mismatches
    for entry, value in weights.items():
        np.testing.assert_array_equal(parameters(other)[entry], value)


def test_counters_of_dropout_are_neither_required_nor_loaded():
    net = network(PAPER)
    weights = parameters(net)
    assert {name for name in weights if name.endswith(".step")} == {"drop6.step", "drop7.step"}
    weights["drop6.step"] = np.array([77], np.int32)
    report = load_weights(net, weights)
    assert parameters(net)["drop6.step"] == 0 and not any("drop" in name for name, _ in report.rows())
    load_weights(net, {name: value for name, value in weights.items() if not name.startswith("drop")})


def test_other_networks_are_reported_in_one_line():
    net = network(COURSE)
    weights = parameters(net)
    with pytest.raises(UserError) as error:
        load_weights(net, parameters(network(PAPER)), "paper.ckpt")
    one_line(error, "paper.ckpt", "another architecture", "--fallback_model")
    with pytest.raises(UserError) as error:
        load_weights(net, parameters(network(COURSE, 5)), "five.ckpt")
    one_line(error, "five.ckpt", "trained for 5 classes", "network has 3")
    with pytest.raises(UserError) as error:
        load_weights(net, parameters(network(COURSE, fc_width=16)), "narrow.ckpt")
    one_line(error, "narrow.ckpt", "conv6.0.weight")
    with pytest.raises(UserError) as error:
        load_weights(net, {**weights, "conv3.3.weight": np.full_like(weights["conv3.3.weight"], np.nan)}, "nan.ckpt")
    one_line(error, "nan.ckpt", "conv3.3.weight", "NaN")
    with pytest.raises(UserError) as error:
        load_weights(net, {name: value for name, value in weights.items() if name != "upscore8.weight"}, "cut.ckpt")
    one_line(error, "cut.ckpt", "upscore8.weight", "1 missing")


def test_the_courses_pretrained_checkpoint_fills_its_backbone():
    """fcn8s_vgg16_pretrain.ckpt: the course's names and channel order, convolutions 1 to 5 only."""
    net, source = network(COURSE), network(COURSE)
    with_numbers = {name: value + 0.25 for name, value in parameters(source).items()
                    if name[:5] in ("conv1", "conv2", "conv3", "conv4", "conv5")}
    report = load_vgg16(net, with_numbers)
    assert_reported_once(report, net)
    assert report.converted == [] and report.unexpected == []
    assert {name[:5] for name in report.missing} == {"conv6", "conv7"}
    for name, value in with_numbers.items():
        np.testing.assert_array_equal(parameters(net)[name], value)


def test_a_backbone_of_mindcv_takes_its_own_weights():
    pytest.importorskip("mindcv")
    net = create_model("fcn32s_mindcv_resnet18", 3)
    random = np.random.default_rng(6)
    weights = {name: random.standard_normal(parameter.shape).astype(np.float32)
               for name, parameter in backbone_parameters(net).items()}
    weights["classifier.weight"] = np.zeros((10, 512), np.float32)
    report = load_backbone(net, weights)
    assert_reported_once(report, net.backbone)
    assert report.missing == [] and report.unexpected == ["classifier.weight"] and report.preprocess == BGR
    assert report.converted == [("conv1.weight", "RGB to BGR")]
    found = parameters(net)
    np.testing.assert_array_equal(found["conv1.weight"], weights["conv1.weight"][:, ::-1])
    np.testing.assert_array_equal(found["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    with pytest.raises(UserError, match="lack"):
        load_backbone(net, torchvision())
