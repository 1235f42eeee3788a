"""The page in Chromium: drop a photograph, see the mask, toggle classes, download; on a desk and on a telephone."""

import base64
import io
import os
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
def page(window, live, request):
    """The page at one window size, after its model is shown; at the end the console must be empty."""
    chromium = window(*request.param)
    chromium.get(live(max_megapixels=0.02)[0])
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
    colours = {tuple(pixel[:3]) for pixel in canvas(page).reshape(-1, 4)}
    assert colours == {(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)}
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
    for _ in range(10):
        webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
        active = page.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("type"))
    assert reached == ["file", "all", "none", *["checkbox"] * 4, "strength", "save-picture", "save-mask"]
