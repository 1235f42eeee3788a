"""The fully connected CRF: exact mean field against sums written out, the lattice against exact mean field."""

import math

import numpy as np
import pytest
import yaml

from mindfcn.errors import UserError
from mindfcn.inference.crf import CRF, MAX_PIXELS, NORMALISATIONS, PUBLISHED, crf_of, mean_field, permutohedral

OFF = CRF(gaussian_weight=0, bilateral_weight=0)


@pytest.fixture
def lattice():
    return pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed: pip install pydensecrf2")


def scene(height=20, width=24, classes=4, seed=0):
    """A photograph of two colours, and uncertain probabilities of which one class fits each half."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), (200, 60, 40), np.uint8)
    image[:, width // 2:] = (40, 90, 180)
    image = np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    logits = random.normal(0, 1, (classes, height, width))
    logits[0, :, :width // 2] += 1
    logits[1, :, width // 2:] += 1
    probabilities = np.exp(logits)
    return image, (probabilities / probabilities.sum(0)).astype(np.float32)


def written_out(image, probabilities, crf):
    """The paper's algorithm 1 with Potts' compatibility, pair by pair, as in its equation."""
    classes, height, width = probabilities.shape
    pixels = [(row, column) for row in range(height) for column in range(width)]
    colour = {pixel: [float(value) for value in image[pixel]] for pixel in pixels}

    def kernels(i, j):
        place = (i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2
        shade = sum((a - b) ** 2 for a, b in zip(colour[i], colour[j]))
        return (math.exp(-place / 2 / crf.gaussian_sxy ** 2),
                math.exp(-place / 2 / crf.bilateral_sxy ** 2 - shade / 2 / crf.bilateral_srgb ** 2))

    table = {(i, j): kernels(i, j) for i in pixels for j in pixels}
    sums = {i: [sum(table[i, j][m] for j in pixels) for m in (0, 1)] for i in pixels}
    weights = crf.gaussian_weight, crf.bilateral_weight

    def factor(i, j, m):
        return {"none": 1, "after": sums[i][m], "symmetric": math.sqrt(sums[i][m] * sums[j][m])}[crf.normalisation]

    q = {i: [float(value) for value in probabilities[(slice(None), *i)]] for i in pixels}
    start = {i: [-math.log(value) for value in q[i]] for i in pixels}
    for _ in range(crf.iterations):
        new = {}
        for i in pixels:
            costs = []
            for label in range(classes):
                cost = start[i][label]
                for m in (0, 1):
                    for other in set(range(classes)) - {label}:
                        cost += weights[m] * sum(table[i, j][m] / factor(i, j, m) * q[j][other]
                                                 for j in pixels if j != i)
                costs.append(cost)
            exponentials = [math.exp(min(costs) - cost) for cost in costs]
            new[i] = [value / sum(exponentials) for value in exponentials]
        q = new
    return np.array([[[q[row, column][label] for column in range(width)] for row in range(height)]
                     for label in range(classes)])


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_exact_mean_field_equals_the_papers_equation(normalisation):
    image, probabilities = scene(4, 5, 3)
    # In float32 they add up to 1 only nearly.
    probabilities = probabilities.astype(np.float64) / probabilities.sum(0, np.float64)
    crf = CRF(1.5, 2, 3, 4, 30, 3, normalisation)
    expected = written_out(image, probabilities, crf)
    np.testing.assert_allclose(mean_field(image, probabilities, crf), expected, rtol=1e-9)
    assert np.abs(expected - probabilities).max() > 0.1


def test_two_pixels_by_hand():
    """Equal colours, one pixel apart, gaussian kernel off: k = 2 exp(-1/2); one step of mean field."""
    image, probabilities = np.full((1, 2, 3), 100, np.uint8), np.array([[[0.6, 0.1]], [[0.4, 0.9]]])
    found = mean_field(image, probabilities, CRF(0, 1, 2, 1, 10, 1, "none"))
    k = 2 * math.exp(-0.5)
    first = 0.6 * math.exp(k * 0.1) / (0.6 * math.exp(k * 0.1) + 0.4 * math.exp(k * 0.9))
    second = 0.1 * math.exp(k * 0.6) / (0.1 * math.exp(k * 0.6) + 0.9 * math.exp(k * 0.4))
    np.testing.assert_allclose(found[0, 0], [first, second], rtol=1e-12)
    np.testing.assert_allclose(found.sum(0), 1)


def test_without_pairwise_terms_the_unary_remains(lattice):
    image, probabilities = scene()
    assert len(set(probabilities.argmax(0).ravel())) == 4
    for way in (mean_field, permutohedral):
        found = way(image, probabilities, OFF)
        np.testing.assert_allclose(found, probabilities, atol=1e-6)
        np.testing.assert_array_equal(found.argmax(0), probabilities.argmax(0))


def test_no_iteration_changes_nothing():
    image, probabilities = scene()
    np.testing.assert_allclose(mean_field(image, probabilities, CRF(iterations=0)), probabilities, atol=1e-7)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_lattice_agrees_with_exact_mean_field_on_most_pixels(lattice, name):
    image, probabilities = scene()
    exact, quick = (way(image, probabilities, PUBLISHED[name]) for way in (mean_field, permutohedral))
    assert quick.dtype == np.float32 and quick.shape == exact.shape
    np.testing.assert_allclose(quick.sum(0), 1, atol=1e-5)
    agree = (exact.argmax(0) == quick.argmax(0)).mean()
    changed = (exact.argmax(0) != probabilities.argmax(0)).mean()
    print(name, agree, changed, np.abs(exact - quick).mean())
    assert agree > 0.9


@pytest.mark.parametrize("name", ["krahenbuhl", "pydensecrf"])
def test_labels_follow_the_colours(lattice, name):
    """Noisy labels on two uniform halves become the halves, with the exact method and the lattice."""
    image, probabilities = scene()
    truth = np.broadcast_to(np.arange(24) >= 12, (20, 24)).astype(int)
    before = (probabilities.argmax(0) == truth).mean()
    for way in (mean_field, permutohedral):
        assert before < 0.7 < 0.97 < (way(image, probabilities, PUBLISHED[name]).argmax(0) == truth).mean()


def test_channels_of_the_colour_and_rows_and_columns_are_not_mixed_up(lattice):
    """A wide photograph, turned by a quarter and with channels in another order, gives the same, turned."""
    image, probabilities = scene(10, 30)
    crf = PUBLISHED["pydensecrf"]
    found = permutohedral(image, probabilities, crf)
    turned = permutohedral(image.transpose(1, 0, 2)[..., ::-1], probabilities.transpose(0, 2, 1), crf)
    assert (turned.argmax(0).T == found.argmax(0)).mean() > 0.95


def test_impossible_probabilities_stay_finite(lattice):
    image, probabilities = scene()
    probabilities[:] = 0
    probabilities[2] = 1
    for way in (mean_field, permutohedral):
        found = way(image, probabilities, PUBLISHED["deeplab_v1"])
        assert np.isfinite(found).all() and (found.argmax(0) == 2).all()


def test_too_many_pixels_for_all_pairs():
    with pytest.raises(ValueError, match="at most 4096"):
        mean_field(np.zeros((65, 64, 3), np.uint8), np.full((2, 65, 64), 0.5), CRF())
    assert 64 * 64 == MAX_PIXELS


def test_names_and_files(lattice, tmp_path):
    assert crf_of("deconvnet") == PUBLISHED["deconvnet"] and crf_of("deconvnet").bilateral_srgb == 3
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"bilateral_sxy": 50, "iterations": 5, "source": "here"}))
    assert crf_of(str(path)) == CRF(bilateral_sxy=50, iterations=5, source="here")


@pytest.mark.parametrize("text, words", [
    ("bilateral_width: 5", "does not hold a CRF"), ("- 5", "does not hold a CRF"), ("a: [", "does not hold a CRF"),
    ("iterations: 2.5", "does not hold a CRF"), ("gaussian_sxy: yes", "does not hold a CRF"),
    ("gaussian_sxy: 0", "gaussian_sxy 0 must be above 0"), ("bilateral_weight: -1", "must be at least 0"),
    ("normalisation: before", "one of none, after, symmetric"), ("iterations: -1", "iterations -1"),
    ("bilateral_srgb: .nan", "must be above 0"), ("bilateral_weight: .inf", "must be at least 0")])
def test_files_without_crf_parameters_are_refused(lattice, tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        crf_of(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_published_name_is_refused(lattice):
    with pytest.raises(UserError, match="deeplab: neither a published set .*deeplab_v1.* nor a file"):
        crf_of("deeplab")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydensecrf", None)
    with pytest.raises(UserError, match="pip install pydensecrf2"):
        crf_of("deconvnet")
