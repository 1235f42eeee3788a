"""The page in Chromium: drop a photograph, see the mask, toggle classes, download; on a desk and on a telephone."""

import base64
import io
import os
import re
import time

import numpy as np
import pytest
from drawn import photograph
from PIL import Image

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

# Drops a file on the page, as a mouse does.
DROP = """
const files = new DataTransfer();
files.items.add(new File([Uint8Array.from(arguments[0])], arguments[1]));
document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true}));
"""


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desk", "telephone"])
def page(window, live, request, tmp_path):
    """The page at one window size, after its model is shown; at the end the console must be empty."""
    chromium = window(*request.param)
    (tmp_path / "garden.png").write_bytes(photograph(24, 36)[0])
    chromium.get(live(max_megapixels=0.02, images=[str(tmp_path)])[0])
    until(lambda: text(chromium, "model"))
    yield chromium
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= request.param[0], "too wide"
    assert [line for line in chromium.get_log("browser") if "/api/predict" not in line["message"]] == []


def until(condition, seconds=20):
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "timed out"
        time.sleep(0.05)
    return found


def text(page, name):
    return page.find_element(By.ID, name).text


def drop(page, data, name="photo.png"):
    page.execute_script(DROP, list(data), name)


def canvas(page):
    """(H, W, 4) of the canvas."""
    url = page.execute_script('return document.getElementById("picture").toDataURL();')
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA")).astype(int)


def downloaded(page, name):
    path = page.downloads / name
    until(lambda: path.exists() and path.stat().st_size)
    data = path.read_bytes()
    os.remove(path)
    return data


def test_a_dropped_photograph_is_tinted_toggled_and_downloaded(page):
    assert "fcn32s_colours, 4 classes, mean IoU 0.500" in text(page, "model")
    data, mask = photograph(90, 120)
    drop(page, data, "my photo.v2.png")
    until(lambda: "120 × 90 pixels" in text(page, "status"))
    names = [entry.text for entry in page.find_elements(By.CSS_SELECTOR, "#classes .name")]
    assert names == ["dark", "green", "<b>red</b>", "blue"] and not page.find_elements(By.CSS_SELECTOR, "#classes b")
    shares = [entry.text for entry in page.find_elements(By.CSS_SELECTOR, "#classes .share")]
    assert shares[1].split("\n") == [f"{100 * (mask == 2).mean():.1f} %", f"{(mask == 2).sum():,} pixels"]

    tinted = canvas(page)
    assert tinted.shape[:2] == mask.shape and (tinted[60, 60] == [0, 0, 0, 255]).all(), "the background is not tinted"
    # 55 % of the class's (60, 180, 75) on pure green
    assert np.abs(tinted[20, 90, :3] - [33, 214, 41]).max() <= 3
    boxes = page.find_elements(By.CSS_SELECTOR, "#classes input")
    assert [box.is_selected() for box in boxes] == [False, True, True, True]
    boxes[1].send_keys(Keys.SPACE)
    plain = canvas(page)
    assert (plain[20, 90] == [0, 255, 0, 255]).all() and (plain[mask == 1] == tinted[mask == 1]).all()
    page.find_element(By.ID, "none").click()
    colors = {tuple(pixel[:3]) for pixel in canvas(page).reshape(-1, 4)}
    assert colors == {(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)}
    page.find_element(By.ID, "all").click()
    np.testing.assert_array_equal(canvas(page)[mask > 0], tinted[mask > 0])

    page.find_element(By.ID, "save-mask").click()
    saved = Image.open(io.BytesIO(downloaded(page, "my photo.v2.png")))
    assert saved.mode == "P"
    np.testing.assert_array_equal(np.array(saved), mask)
    page.find_element(By.ID, "save-picture").click()
    picture = Image.open(io.BytesIO(downloaded(page, "my photo.v2_overlay.png"))).convert("RGBA")
    np.testing.assert_array_equal(np.array(picture), canvas(page))


def test_a_small_photograph_is_enlarged_and_shows_the_class_under_the_pointer(page):
    drop(page, photograph(30, 40)[0])
    until(lambda: "40 × 30 pixels" in text(page, "status"))
    shown = page.find_element(By.ID, "picture")
    size = shown.size
    assert size["width"] > 300 and size["width"] / size["height"] == pytest.approx(4 / 3, rel=0.01)
    assert canvas(page).shape[:2] == (30, 40), "downloads keep the photograph's size"
    for across, down, name in ((-0.4, -0.4, "<b>red</b>"), (0.3, -0.3, "green"), (0.4, 0.4, "dark"), (0, 0.48, "blue")):
        webdriver.ActionChains(page).move_to_element_with_offset(
            shown, round(across * size["width"]), round(down * size["height"])).perform()
        assert text(page, "pointed") == name
        label, pointer = page.find_element(By.ID, "pointed").rect, shown.rect["x"] + (0.5 + across) * size["width"]
        beside = label["x"] - pointer if across <= 0 else pointer - label["x"] - label["width"]
        assert 5 < beside < 40, "next to the pointer"
    webdriver.ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    assert not page.find_element(By.ID, "pointed").is_displayed()


def test_the_divider_shows_the_photograph_on_its_left(page):
    drop(page, photograph(90, 120)[0])
    until(lambda: "120 × 90 pixels" in text(page, "status"))
    tinted = canvas(page)
    page.find_element(By.ID, "divide").send_keys(Keys.HOME, *50 * [Keys.ARROW_RIGHT])
    halves = canvas(page)
    np.testing.assert_array_equal(halves[:, 60:], tinted[:, 60:])
    assert (halves[10, 5] == [255, 0, 0, 255]).all() and (tinted[10, 5] != halves[10, 5]).any()
    page.find_element(By.ID, "save-picture").click()
    picture = Image.open(io.BytesIO(downloaded(page, "photo_overlay.png"))).convert("RGBA")
    np.testing.assert_array_equal(np.array(picture), tinted)


def test_the_photograph_is_shown_while_one_waits(page):
    """An upload without an answer yet: the request is held back in the page."""
    page.execute_script("""const ask = window.fetch;
        window.held = new Promise((go) => { window.go = go; });
        window.fetch = (...all) => String(all[0]).endsWith("predict") ? held.then(() => ask(...all)) : ask(...all);""")
    drop(page, photograph(90, 120)[0])
    until(lambda: page.find_element(By.ID, "picture").is_displayed())
    assert text(page, "status") == "Segmenting ..." and (canvas(page)[20, 90] == [0, 255, 0, 255]).all()
    assert not page.find_element(By.ID, "result").is_displayed()
    page.execute_script("go()")
    until(lambda: "120 × 90 pixels" in text(page, "status"))


def test_several_photographs_are_answered_in_turn_and_chosen_from(page, tmp_path):
    files = {"a.png": photograph(90, 120)[0], "b.png": b"not a photograph", "c.png": photograph(30, 40)[0]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    page.find_element(By.ID, "file").send_keys("\n".join(str(tmp_path / name) for name in files))
    until(lambda: "120 × 90 pixels" in text(page, "status"))
    buttons = page.find_elements(By.CSS_SELECTOR, "#taken button")
    assert [button.get_attribute("title") for button in buttons] == ["a", "b", "c"]
    buttons[2].click()
    until(lambda: "40 × 30 pixels" in text(page, "status"))
    buttons[1].click()
    until(lambda: "not an image" in text(page, "error"))
    assert not page.find_element(By.ID, "picture").is_displayed()
    buttons[0].click()
    assert "120 × 90 pixels" in text(page, "status") and canvas(page).shape[:2] == (90, 120)
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["true", "false", "false"]


def test_the_classes_are_shown_before_a_photograph_and_a_picture_can_be_tried(page):
    names = [entry.text for entry in page.find_elements(By.CSS_SELECTOR, "#known .name")]
    assert names == ["dark", "<b>red</b>", "green", "blue"]
    swatches = page.find_elements(By.CSS_SELECTOR, "#known .swatch")
    assert swatches[2].value_of_css_property("background-color").startswith("rgba(60, 180, 75")
    button, = page.find_elements(By.CSS_SELECTOR, "#examples button")
    assert button.get_attribute("title") == "garden.png"
    button.click()
    until(lambda: "36 × 24 pixels" in text(page, "status"))
    assert [entry.text for entry in page.find_elements(By.CSS_SELECTOR, "#classes .name")][0] == "dark"


def test_every_word_of_the_page_is_chinese_at_a_click(page):
    assert page.execute_script("""const keys = Object.keys;
        return keys(WORDS.en).join() === keys(WORDS.zh).join()
            && [...document.querySelectorAll("[data-word]")].every((one) => one.dataset.word in WORDS.en)""")
    drop(page, photograph()[0])
    until(lambda: "40 × 30 pixels" in text(page, "status"))
    page.find_element(By.ID, "language").click()
    until(lambda: "40 × 30 像素" in text(page, "status"))
    assert page.execute_script("return document.documentElement.lang") == "zh"
    shown = page.execute_script("return document.body.innerText")
    for word in ("MindFCN", "English", "fcn32s_colours", "IoU", "PNG", "<b>red</b>", "dark", "green", "blue", "garden"):
        shown = shown.replace(word, "")
    assert not re.search("[A-Za-z]{2,}", shown), shown


def test_a_photograph_that_is_too_large_is_reduced_and_a_rotated_one_is_upright(page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "large.jpg").write_bytes(photograph(300, 400, "JPEG", exif=exif, quality=95)[0])
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "large.jpg"))
    until(lambda: "reduced from 300 × 400" in text(page, "status"))
    height, width = canvas(page).shape[:2]
    assert height > width and 0.95 * 20000 < height * width <= 20000


def test_an_error_is_shown_and_the_next_photograph_too(page):
    drop(page, b"not a photograph")
    until(lambda: "not an image" in text(page, "error"))
    drop(page, photograph()[0])
    until(lambda: "40 × 30 pixels" in text(page, "status"))
    assert not page.find_element(By.ID, "error").is_displayed()


def test_the_keyboard_reaches_every_control(page):
    drop(page, photograph()[0])
    until(lambda: "40 × 30 pixels" in text(page, "status"))
    page.execute_script("document.activeElement.blur(); getSelection().removeAllRanges();")
    reached = []
    for _ in range(14):
        webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
        active = page.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("type"))
    assert reached == ["language", "file", "divide", "button", "all", "none", *["checkbox"] * 4, "strength",
                       "save-picture", "save-mask", None]
    assert active.tag_name == "summary"
