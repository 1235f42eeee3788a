"""The page of a report, read without a browser: self-contained, escaped, and with the figures it was given."""

import base64
import html.parser
import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.metrics import ConfusionMatrix
from mindfcn.report import page as page_module
from mindfcn.report.page import SIDE, Page, picture, write_page

EVIL = '<script>alert("1")</script>&\'{{ 7 * 7 }}'
RNG = np.random.default_rng(0)


class Tree(html.parser.HTMLParser):
    """Reads a page: its tags with attributes, and the text of each element by id of the section around it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text, self.open = [], {}, "", []
        self.section = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "section":
            self.section = attributes.get("id")
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
        if tag in ("td", "th", "script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if self.open:
            self.rows[self.section][-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def labels_of(count, first="background"):
    colors = [(number, 255 - number, 7 * number % 256) for number in range(count)]
    return LabelSet((first, *(f"class {number}" for number in range(1, count))), colors)


def counted(count, absent=()):
    """A ConfusionMatrix of random counts, without a sign of the absent classes."""
    matrix = ConfusionMatrix(count)
    matrix.counts += RNG.integers(0, 1000, (count, count)) ** 2
    matrix.counts[list(absent)] = matrix.counts[:, list(absent)] = 0
    return matrix


def image_of(height, width):
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def mask_of(height, width, count):
    return RNG.integers(0, count, (height, width)).astype(np.uint8)


def pictures_of(count, labels, height=40, width=60):
    masks = {"truth": mask_of(height, width, len(labels)), "prediction": mask_of(height, width, len(labels))}
    return [picture(f"{number}.jpg", image_of(height, width), masks, labels, "mean IoU 1.0 %")
            for number in range(count)]


def drawn_plot(path, width):
    """Path of a PNG file in the place of a plot."""
    Image.new("RGB", (width, 30), "white").save(path)
    return str(path)


@pytest.fixture(scope="module")
def plot(tmp_path_factory):
    """Path of a PNG file of 900x30 pixels in the place of a plot."""
    return drawn_plot(tmp_path_factory.mktemp("plots") / "plot.png", 900)


WEAK = {"sizes": {"small": {"mean IoU": 0.25, "mean pixel accuracy": 0.5, "objects": 7}}}


def full_page(path, labels, **options):
    settings = {"facts": {"network": "fcn8s"}, "notes": ["a note"], "matrix": counted(len(labels)),
                "galleries": {"Worst images": pictures_of(2, labels)},
                "details": {"Settings": {"optim.lr": 0.05}}}
    return Page(str(path), "Evaluation", labels, **{**settings, **options})


def read(page):
    write_page(page)
    with open(page.path, encoding="utf-8") as file:
        return Tree(file.read())


def numbers(cells):
    return [None if cell.strip() == "–" else float(cell) for cell in cells]


# ------------------------------------------------------------------------------------------------- one file, escaped

def test_a_page_asks_for_nothing_from_outside(tmp_path, plot):
    found = read(full_page(tmp_path / "out" / "report.html", labels_of(4), curves=plot, trimap=plot))
    assert os.listdir(tmp_path / "out") == ["report.html"]
    addresses = [attributes[name] for _, attributes in found.tags for name in
                 ("src", "href", "srcset", "poster", "action", "data", "xlink:href") if name in attributes]
    assert len(addresses) == 2 * 3 + 2 + 1 and all(address.startswith("data:") for address in addresses)
    text = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"https?:|//cdn|url\(|@import|<iframe|<object|fetch\(|XMLHttp", text)
    policy = next(meta["content"] for meta in found.named("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'") and "img-src data:" in policy


def test_text_is_escaped(tmp_path):
    labels = labels_of(3, EVIL)
    shown = picture(EVIL, image_of(9, 9), {EVIL: mask_of(9, 9, 3)}, labels, EVIL)
    page = full_page(tmp_path / "report.html", labels, facts={EVIL: EVIL}, notes=[EVIL], scores={EVIL: 0.5},
                     table=((EVIL,), [((EVIL,), True)]), details={EVIL: {EVIL: EVIL}}, galleries={EVIL: [shown]})
    page.title = EVIL
    found = read(page)
    assert len(found.named("script")) == 1 and not any("onerror" in attributes for _, attributes in found.tags)
    assert found.text.count(EVIL) >= 17, "each place shows it letter for letter"
    assert [image["alt"] for image in found.named("img")] == [f"photograph: {EVIL}", f"{EVIL}: {EVIL}"]
    assert "<script>alert" not in (tmp_path / "report.html").read_text()


def test_long_names_and_every_script(tmp_path):
    labels = LabelSet(("背景", "деревья", "a" * 300), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    found = read(full_page(tmp_path / "report.html", labels))
    assert "背景" in found.text and "деревья" in found.text and "a" * 39 + "…" in found.text
    assert "a" * 40 not in found.text


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write .*report.html"):
        write_page(full_page(tmp_path / "file" / "report.html", labels_of(2)))
    page = full_page(tmp_path / "report.html", labels_of(2))
    write_page(page)
    before = (tmp_path / "report.html").read_bytes()
    page.matrix.counts = np.zeros((3, 3))
    with pytest.raises((IndexError, ValueError)):
        write_page(page)
    assert (tmp_path / "report.html").read_bytes() == before and sorted(os.listdir(tmp_path)) == ["file", "report.html"]


@pytest.mark.parametrize("options, gone", [
    ({"matrix": None, **WEAK}, {"metrics", "classes", "confusion"}),
    (WEAK, set()), ({"curves": "", **WEAK}, {"curves"}),
    ({"galleries": {"Worst images": []}, **WEAK}, {None}), ({"details": {}, **WEAK}, {"details"}),
    ({}, {"weaknesses"})])
def test_missing_parts_have_no_section(tmp_path, plot, options, gone):
    found = read(full_page(tmp_path / "report.html", labels_of(3), **{"curves": plot, **options}))
    sections = {attributes.get("id") for attributes in found.named("section")}
    assert sections == {"metrics", "classes", "weaknesses", "confusion", "curves", "details", None} - gone


# ------------------------------------------------------------------------------------------------- figures

@pytest.mark.parametrize("count", [1, 2, 21])
def test_figures_are_those_of_the_matrix(tmp_path, count):
    matrix, labels = counted(count, absent=[3, 5] if count > 5 else ()), labels_of(count)
    found = read(full_page(tmp_path / "report.html", labels, matrix=matrix))
    tiles = re.findall(r"([A-Za-z ]+)([\d.]+)\s%", found.text.split("Classes")[0])
    assert {name.strip(): float(value) for name, value in tiles} == pytest.approx(
        {name: 100 * value for name, value in matrix.compute().items()}, abs=0.005)

    rows = found.rows["classes"][1:]
    order = [labels.names.index(row[0]) for row in rows]
    assert sorted(order) == list(range(count))
    figures = np.array([matrix.class_ious(), matrix.class_accuracies(), matrix.class_shares()])[:, order]
    shown = np.array([numbers(row[1:]) for row in rows], np.float64).T
    np.testing.assert_allclose(shown, 100 * figures, atol=0.005)
    known = [iou for iou in shown[0] if not np.isnan(iou)]
    assert known == sorted(known, reverse=True) and np.isnan(shown[0][len(known):]).all()
    widths = [float(re.search(r"width: ([\d.]+)%", attributes["style"])[1]) for attributes in found.named("span")
              if attributes.get("style", "").startswith("width")]
    np.testing.assert_allclose(widths, np.nan_to_num(shown[0]), atol=0.005)


def test_sizes_are_those_given(tmp_path):
    labels = labels_of(3)
    sizes = {"small": {"mean IoU": 0.125, "mean pixel accuracy": 0.25, "objects": 1234},
             "medium": {"mean IoU": float("nan"), "mean pixel accuracy": float("nan"), "objects": 0},
             "large": {"mean IoU": 0.5, "mean pixel accuracy": 0.75, "objects": 3}}
    tree = read(Page(str(tmp_path / "a.html"), "T", labels, matrix=counted(3), sizes=sizes))
    assert tree.rows["weaknesses"][1:] == [["small", "12.50", "25.00", "1,234"], ["medium", "–", "–", "0"],
                                           ["large", "50.00", "75.00", "3"]]
    assert "weaknesses" not in read(Page(str(tmp_path / "b.html"), "T", labels, matrix=counted(3))).rows


def test_cells_are_the_shares_and_the_counts_of_the_matrix(tmp_path):
    matrix, labels = counted(5, absent=[2]), labels_of(5)
    found = read(full_page(tmp_path / "report.html", labels, matrix=matrix))
    counts = [int(attributes["title"].split()[0].replace(",", "")) for attributes in found.named("td")
              if " predicted as " in attributes.get("title", "")]
    assert counts == matrix.counts[[0, 1, 3, 4]].ravel().tolist()
    assert found.rows["confusion"][0][1:] == list(labels.names)
    for row, line in zip(matrix.counts, found.rows["confusion"][1:]):
        expected = [f"{100 * count / row.sum():.0f}" if count / row.sum() >= 0.005 else "" for count in row] \
            if row.any() else [""] * 5
        assert line[1:] == expected
    np.fill_diagonal(shares := matrix.counts / np.maximum(matrix.counts.sum(1, keepdims=True), 1), 0)
    true, taken = np.unravel_index(shares.argmax(), shares.shape)
    most = f"Confused most: {labels.names[true]} taken for {labels.names[taken]} {100 * shares.max():.1f}\xa0%"
    assert most in found.text


def test_class_ious_of_two_networks_are_compared(tmp_path):
    """The largest differences first, the better one bold, classes that never occur left out."""
    scores = {"a": [0.5, 0.25, np.nan, np.nan], "b": [0.75, 0.125, np.nan, 0.5]}
    found = read(Page(str(tmp_path / "a.html"), "T", labels_of(4), class_scores=scores))
    assert found.rows["compared"] == [["class", "a", "b", "difference"], ["background", "50.00", "75.00", "+25.00"],
                                      ["class 1", "25.00", "12.50", "-12.50"], ["class 3", "–", "50.00", "–"]]
    assert [attributes.get("class") for attributes in found.named("td")] == [
        None, "best", None, "best", None, None, None, "best", None]
    found = read(Page(str(tmp_path / "b.html"), "T", labels_of(4), class_scores={**scores, "c": 4 * [0.1]}))
    assert found.rows["compared"][0] == ["class", "a", "b", "c"]


def test_a_matrix_without_a_pixel(tmp_path):
    found = read(full_page(tmp_path / "report.html", labels_of(3), matrix=ConfusionMatrix(3)))
    assert found.text.count("–") > 4 and "nan" not in found.text and "Confused most" not in found.text


def test_many_classes_have_a_drawn_matrix(tmp_path):
    matrix = counted(40, absent=[7])
    found = read(full_page(tmp_path / "report.html", labels_of(40), matrix=matrix))
    drawn = next(image["src"] for image in found.named("img") if image["alt"] == "Confusion matrix")
    assert "confusion" not in found.rows and len(found.rows["classes"]) == 41
    red = np.array(decoded(drawn))[..., 0]
    assert (red[7] == 200).all() and (np.delete(red[:, 7], 7) == 245).all()
    others = np.delete(np.arange(40), 7)
    shares = matrix.counts[others] / matrix.counts[others].sum(1, keepdims=True)
    order = np.argsort(shares, axis=None)
    assert (np.diff(red[others].ravel()[order].astype(int)) <= 0).all() and red[others].min() < 200


def test_plots_are_the_files_that_were_drawn(tmp_path):
    curves, trimap = drawn_plot(tmp_path / "curves.png", 120), drawn_plot(tmp_path / "trimap.png", 60)
    found = read(full_page(tmp_path / "report.html", labels_of(2), curves=curves, trimap=trimap))
    sources = [image["src"] for image in found.named("img") if image.get("class") == "plot"]
    assert [decoded(source).size for source in sources] == [(60, 30), (120, 30)]
    for source, path in zip(sources, (trimap, curves)):
        with open(path, "rb") as file:
            assert base64.b64decode(source.partition(",")[2]) == file.read()


# ------------------------------------------------------------------------------------------------- pictures

def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("height, width", [(30, 20), (1000, 1500), (1, 3000)])
def test_a_picture_holds_photograph_and_masks(height, width):
    labels = labels_of(5)
    image = np.full((height, width, 3), (200, 30, 90), np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[:, width // 2:] = 3
    truth[:, :width // 10] = 255
    shown = picture("a.jpg", image, {"truth": truth, "prediction": truth // 255}, labels)
    photograph, *masks = map(decoded, shown.layers.values())
    assert list(shown.layers) == ["photograph", "truth", "prediction"] and photograph.format == "JPEG"
    assert photograph.size == masks[0].size and max(photograph.size) == min(SIDE, max(height, width))
    assert abs(np.array(photograph, int) - (200, 30, 90)).max() < 6
    colors = {tuple(color) for color in np.array(masks[0].convert("RGB")).reshape(-1, 3).tolist()}
    assert colors == {tuple(labels.palette()[number].tolist()) for number in (0, 3, 255)}
    assert [name for name, *_ in shown.classes] == ["background", "class 1", "class 3"]


def test_classes_carry_the_iou_of_the_image(tmp_path):
    labels = labels_of(4)
    iou = np.array([0.5, np.nan, 0.125, 0])
    shown = picture("a.jpg", image_of(9, 9), {"truth": mask_of(9, 9, 4)}, labels, "mean IoU 20.8 %", iou)
    assert [value for *_, value in shown.classes] == [0.5, None, 0.125, 0.0]
    found = read(full_page(tmp_path / "report.html", labels, galleries={"Worst images": [shown]}))
    assert re.search(r"background\s+50.0\s+class 1\s+class 2\s+12.5\s+class 3\s+0.0", found.text)


def test_pictures_beyond_the_limit_are_left_out_and_counted(tmp_path, monkeypatch):
    labels = labels_of(3)
    worst, best = pictures_of(5, labels), pictures_of(5, labels)
    size = max(sum(map(len, shown.layers.values())) for shown in worst + best)
    monkeypatch.setattr(page_module, "MAX_BYTES", 4 * size)
    found = read(full_page(tmp_path / "report.html", labels, galleries={"Worst": worst, "Best": best}))
    assert len(found.named("figure")) == 4 and "6 more pictures are left out" in found.text
    order = [image["alt"] for image in found.named("img") if image["alt"].startswith("photograph")]
    assert order == 2 * ["photograph: 0.jpg", "photograph: 1.jpg"]


def test_the_largest_page_is_bounded(tmp_path):
    """255 classes, and more pictures of noise than a page takes."""
    labels = labels_of(255)
    noise = [picture(str(number), image_of(600, 600), {"truth": mask_of(600, 600, 255)}, labels) for number in range(3)]
    assert sum(map(len, noise[0].layers.values())) * 30 > page_module.MAX_BYTES
    found = read(full_page(tmp_path / "report.html", labels, galleries={"Worst": noise * 10}))
    assert "more pictures are left out" in found.text
    assert os.path.getsize(tmp_path / "report.html") < 8 * 2 ** 20


# ------------------------------------------------------------------------------------------------- in a browser

RED, GREEN, BLUE = (214, 40, 40), (20, 160, 90), (30, 60, 200)
SHADES = LabelSet(("background", "red " * 12, "green", "blue"), ((0, 0, 0), RED, GREEN, BLUE))


def flat_picture(name, height, width, masks=("truth", "prediction")):
    """A green photograph; the masks are blue, then red, then blue again."""
    image = np.full((height, width, 3), GREEN, np.uint8)
    return picture(name, image, {heading: np.full((height, width), 3 - 2 * (place % 2), np.uint8)
                                 for place, heading in enumerate(masks)}, SHADES, "mean IoU 1.0 %", np.ones(4))


@pytest.fixture(scope="module")
def pages(tmp_path_factory, plot):
    """Paths of an evaluation's page and of a comparison's."""
    folder = tmp_path_factory.mktemp("pages")
    galleries = {"Worst images": [flat_picture("wide" * 30 + ".jpg", 40, 60), flat_picture("high.jpg", 600, 200)],
                 "Best images": [flat_picture("large.jpg", 500, 700)]}
    evaluation = full_page(folder / "evaluation.html", SHADES, galleries=galleries, facts={"records": "/long" * 40},
                           curves=plot, trimap=plot, **WEAK)
    networks = [f"fcn{number}s_vgg16_bn" for number in (32, 16, 8)]
    comparison = Page(str(folder / "comparison.html"), "Comparison", SHADES, scores=dict.fromkeys(networks, 0.5),
                      class_scores=dict.fromkeys(networks, 4 * [0.5]),
                      table=(("network", *"abcdefgh"), [((name, *8 * ["1000.00"]), False) for name in networks]),
                      galleries={"Masks": [flat_picture("a.jpg", 50, 70, ("truth", *networks))]})
    largest = full_page(folder / "classes.html", labels_of(30), galleries={}, curves=plot)
    for page in (evaluation, comparison, largest):
        write_page(page)
    return {name: (folder / f"{name}.html").as_uri() for name in ("evaluation", "comparison", "classes")}


@pytest.fixture
def opened(window):
    """Function (address, width, dark=False) that loads a page as a desktop's or a phone's window shows it."""
    def load(address, width, dark=False):
        chromium = window(width, 800, dark)
        chromium.get(address)
        chromium.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        return chromium
    return load


def color_of(element):
    """The colour in the middle of what an element shows on the screen."""
    # Pictures are painted when they have come into view and are decoded; a screenshot waits for neither.
    element.parent.execute_async_script("""
        const [element, done] = arguments;
        element.scrollIntoView({block: 'center', behavior: 'instant'});
        const decoded = [...element.querySelectorAll('img')].map((one) => one.decode());
        Promise.all(decoded).then(() => requestAnimationFrame(() => requestAnimationFrame(done)));""", element)
    shot = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
    return shot.getpixel((shot.width // 2, shot.height // 2))


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("name", ["evaluation", "comparison", "classes"])
def test_a_browser_shows_the_whole_page(opened, pages, name, width):
    chromium = opened(pages[name], width)
    assert chromium.get_log("browser") == []
    sizes = chromium.execute_script("return [...document.images].map((one) => [one.complete, one.naturalWidth])")
    assert all(complete and pixels > 0 for complete, pixels in sizes)
    assert len(sizes) == {"evaluation": 11, "comparison": 5, "classes": 1}[name]
    loaded = chromium.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [address for address in loaded if not address.startswith("data:")] == []
    page_width = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth)"
    assert chromium.execute_script(page_width) == width, "it scrolls sideways"
    outside = """return [...document.querySelectorAll('main *, header *')].filter((one) => !one.closest('.wide, svg')
        && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML.slice(0, 200))"""
    assert chromium.execute_script(outside) == []


def mixed(mask, strength):
    """The colour of a mask over the green photograph; `strength` of the slider, 0..100."""
    return np.add(np.multiply(GREEN, 1 - strength / 100), np.multiply(mask, strength / 100))


def assert_colors(elements, expected):
    for element, color in zip(elements, expected):
        assert np.abs(np.subtract(color_of(element), color)).max() <= 4


def test_cards_open_on_the_overlay_and_buttons_choose_the_mask(opened, pages):
    chromium = opened(pages["evaluation"], 1280)
    figures = chromium.find_elements("css selector", ".shown")
    layers = [figure.find_element("css selector", ".layers") for figure in figures]
    assert_colors(layers, 3 * [mixed(RED, 60)])
    buttons = figures[0].find_elements("css selector", "button")
    assert [button.text for button in buttons] == ["photograph", "truth", "prediction"]
    buttons[1].click()
    assert_colors(layers, (mixed(BLUE, 60), mixed(RED, 60), mixed(RED, 60)))
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["false", "true", "false"]
    chromium.find_elements("css selector", ".all button")[0].click()
    assert_colors(layers, (GREEN, GREEN, mixed(RED, 60)))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_slider_goes_from_photograph_to_mask(opened, pages, width):
    """With the keyboard, and with a pointer or a finger."""
    from selenium.webdriver.common.keys import Keys
    chromium = opened(pages["evaluation"], width)
    slider, layers = (chromium.find_elements("css selector", selector)[0] for selector in (".all input", ".layers"))
    slider.send_keys(Keys.HOME)
    assert_colors([layers], [GREEN])
    slider.send_keys(*25 * [Keys.ARROW_RIGHT])
    assert_colors([layers], [mixed(RED, 25)])
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    box = chromium.execute_script("return arguments[0].getBoundingClientRect().toJSON()", slider)
    middle, reach = box["top"] + box["height"] / 2, (box["left"] + 8 + (box["width"] - 16) / 4, box["right"] - 1)
    if width < 800:
        for kind, across in (("touchStart", reach[0]), ("touchMove", np.mean(reach)), ("touchMove", reach[1])):
            chromium.execute_cdp_cmd("Input.dispatchTouchEvent", {
                "type": kind, "touchPoints": [{"x": float(across), "y": middle}]})
        chromium.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    else:
        for kind, across in (("mousePressed", reach[0]), ("mouseMoved", reach[1]), ("mouseReleased", reach[1])):
            chromium.execute_cdp_cmd("Input.dispatchMouseEvent", {
                "type": kind, "x": float(across), "y": middle, "button": "left", "buttons": 1, "clickCount": 1})
    assert_colors([layers], [RED])
    assert chromium.get_log("browser") == []


def test_class_0_hides_the_photograph_only_at_full_strength(opened, tmp_path):
    labels = LabelSet(("background", "red"), (BLUE, RED))
    image, mask = np.full((40, 60, 3), GREEN, np.uint8), np.zeros((40, 60), np.uint8)
    shown = picture("a.jpg", image, {"prediction": mask}, labels)
    write_page(Page(str(tmp_path / "a.html"), "T", labels, galleries={"Masks": [shown]}))
    chromium = opened((tmp_path / "a.html").as_uri(), 1280)
    layers = chromium.find_element("css selector", ".layers")
    assert_colors([layers], [GREEN])
    chromium.execute_script("""const slider = document.querySelector(".all input");
        slider.value = 100; slider.dispatchEvent(new Event("input"));""")
    assert_colors([layers], [BLUE])


def test_photograph_truth_and_prediction_are_printed_side_by_side(opened, pages):
    chromium = opened(pages["evaluation"], 1280)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    images = chromium.find_element("css selector", ".layers").find_elements("css selector", "img")
    assert_colors(images, (GREEN, BLUE, RED))
    boxes = [image.rect for image in images]
    assert len({box["y"] for box in boxes}) == 1 and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("name", ["evaluation", "comparison", "classes"])
def test_no_word_is_broken_on_a_telephone(opened, pages, name):
    """Words of up to 14 letters; longer ones are file names."""
    chromium = opened(pages[name], 390)
    broken = chromium.execute_script(r"""
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), broken = [];
        const range = document.createRange();
        for (let node = texts.nextNode(); node; node = texts.nextNode()) {
          if (!node.parentElement.checkVisibility()) continue;
          for (const word of node.data.matchAll(/[^\s\/_.-]{2,14}(?![^\s\/_.-])/g)) {
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map((one) => one.top)).size > 1) broken.push(word[0]);
          }
        }
        return broken;""")
    assert [word for word in broken if "wide" not in word and "long" not in word] == []


def luminance(color):
    """Relative luminance of sRGB, as in WCAG 2."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
              for value in np.array(color[:3]) / 255]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_light_and_dark(opened, pages, dark):
    """At least 4.5 to 1, on the ground that lies beneath: the nearest element above it that has one."""
    chromium = opened(pages["evaluation"], 1280, dark)
    pairs = chromium.execute_script("""
        const texts = [...document.querySelectorAll('body *')].filter((one) => [...one.childNodes].some(
            (node) => node.nodeType === 3 && node.textContent.trim()) && one.checkVisibility());
        return texts.filter((one) => !one.closest('.matrix td, script')).map((one) => {
            let ground = one;
            while (ground.parentElement && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
                ground = ground.parentElement;
            return [one.outerHTML.slice(0, 80), getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
        });""")
    assert len(pairs) > 30
    for text, ink, paper in pairs:
        low, high = sorted(luminance(list(map(float, re.findall(r"[\d.]+", color)))) for color in (ink, paper))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ink, paper)
    body = pairs[0][2]
    assert (luminance(list(map(float, re.findall(r"[\d.]+", body)))) < 0.2) == dark
