import os
import shutil
import threading
import time
import tracemalloc
import weakref

import cv2
import numpy as np
import pytest
from PIL import Image

from mindfcn import runtime
from mindfcn.commands.predict import segment_images
from mindfcn.config import PredictConfig
from mindfcn.console import Console
from mindfcn.data.image_paths import find_images, output_names
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.video import VideoReader

LABELS = LabelSet(("dark", "bright"), ((0, 0, 0), (255, 200, 0)))


def segment(image, probabilities):
    """Bright pixels are class 1; their probability is their brightness."""
    assert image.dtype == np.uint8 and image.shape[2] == 3
    bright = image.mean(axis=2, dtype=np.float32) / 255
    return (bright > 0.5).astype(np.uint8), np.stack([1 - bright, bright]) if probabilities else None


def paint(path, size=(30, 20), box=(0, 0, 10, 20), mode="L", **options):
    """Save a dark picture with a bright box; return the expected mask."""
    picture = Image.new("L", size, 20)
    picture.paste(230, box)
    picture.convert(mode).save(path, **options)
    return (np.array(picture) > 127).astype(np.uint8)


def run(tmp_path, images, **options):
    return segment_images(PredictConfig("x.ckpt", images=[str(image) for image in images],
                                        out=str(tmp_path / "out"), **options),
                   segment, LABELS)


def mask_of(entry):
    picture = Image.open(entry["mask"])
    assert picture.mode == "P"
    return np.array(picture)


@pytest.mark.parametrize("name, mode", [
    ("grey.png", "L"), ("colour.jpg", "RGB"), ("alpha.png", "RGBA"), ("grey alpha.png", "LA"), ("数据.jpg", "RGB"),
    ("один.bmp", "RGB"), ("a.b.c.webp", "RGB"), ("é.TIFF", "RGB"), ("[1].png", "L")])
def test_any_image_becomes_a_mask_of_its_size(tmp_path, name, mode):
    expected = paint(tmp_path / name, mode=mode)
    result = run(tmp_path, [tmp_path / name])
    assert result.failed == [] and len(result.written) == 1
    assert result.written[0]["mask"] == str(tmp_path / "out" / (os.path.splitext(name)[0] + ".png"))
    np.testing.assert_array_equal(mask_of(result.written[0]), expected)


def test_16_bit_and_one_pixel(tmp_path):
    deep = np.zeros((4, 6), np.uint16)
    deep[:, :2] = 60000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("RGB", (1, 1), (255, 255, 255)).save(tmp_path / "one.png")
    result = run(tmp_path, [tmp_path / "deep.png", tmp_path / "one.png"], probabilities=True)
    np.testing.assert_array_equal(mask_of(result.written[0]), (deep > 30000).astype(np.uint8))
    np.testing.assert_array_equal(mask_of(result.written[1]), [[1]])


def test_an_image_turned_by_exif_is_predicted_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = paint(tmp_path / "a.jpg", mode="RGB", exif=exif, quality=95)
    np.testing.assert_array_equal(mask_of(run(tmp_path, [tmp_path / "a.jpg"]).written[0]), np.rot90(stored, -1))


def test_requested_outputs_are_written_and_no_others(tmp_path):
    paint(tmp_path / "a.png")
    out = tmp_path / "out"
    entry = run(tmp_path, [tmp_path / "a.png"], overlay=False).written[0]
    assert os.listdir(out) == ["a.png"] and entry["overlay"] is None and entry["probabilities"] is None
    shutil.rmtree(out)
    entry = run(tmp_path, [tmp_path / "a.png"], probabilities=True, voc_names=True).written[0]
    files = sorted(os.path.relpath(os.path.join(folder, name), out) for folder, _, names in os.walk(out)
                   for name in names)
    assert files == ["a.npz", "a_overlay.jpg", os.path.join("results", "VOC2012", "Segmentation", "comp6_test_cls",
                                                            "a.png")]
    assert entry["image"] == str(tmp_path / "a.png")
    assert [os.path.relpath(entry[key], out) for key in ("probabilities", "overlay", "mask")] == files


def test_probabilities_and_overlay_hold_the_result(tmp_path):
    expected = paint(tmp_path / "a.png", size=(300, 200), box=(0, 0, 100, 200))
    entry = run(tmp_path, [tmp_path / "a.png"], probabilities=True).written[0]
    probabilities = np.load(entry["probabilities"])["probabilities"]
    assert probabilities.dtype == np.float16 and probabilities.shape == (2, 200, 300)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), expected)
    overlay = np.array(Image.open(entry["overlay"])).astype(int)
    assert overlay.shape[0] > 200 and overlay.shape[1] == 300
    # half 230 and half the class's orange on the left, the dark photograph on the right
    assert np.abs(overlay[100, 50] - [243, 215, 115]).max() < 8 and np.abs(overlay[100, 250] - 20).max() < 8


def test_the_overlay_keeps_the_colors_of_the_photograph(tmp_path):
    Image.new("RGB", (100, 100), (180, 60, 10)).save(tmp_path / "a.png")
    overlay = np.array(Image.open(run(tmp_path, [tmp_path / "a.png"]).written[0]["overlay"])).astype(int)
    assert np.abs(overlay[50, 50] - [180, 60, 10]).max() < 8


def test_unreadable_files_are_named_and_the_others_are_predicted(tmp_path):
    expected = paint(tmp_path / "good.jpg", mode="RGB", quality=95)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    os.truncate(tmp_path / "cut.jpg", (tmp_path / "cut.jpg").stat().st_size // 2)
    (tmp_path / "text.jpg").write_text("not a photograph")
    (tmp_path / "empty.png").write_bytes(b"")
    messages, counted = [], []

    class Counting(Console):
        def track(self, iterable, total=None, **_):
            for done, item in enumerate(iterable, 1):
                yield item
                counted.append(done)

    result = segment_images(PredictConfig("x.ckpt", images=[str(tmp_path)], out=str(tmp_path / "out")), segment, LABELS,
                     Counting(messages.append))
    assert [os.path.basename(path) for path, _ in result.failed] == ["cut.jpg", "empty.png", "text.jpg"]
    assert all(path in reason and "\n" not in reason for path, reason in result.failed)
    assert "incomplete" in result.failed[0][1]
    assert len(messages) == 3 and "text.jpg" in messages[2]
    assert counted == [1, 2, 3, 4]
    np.testing.assert_array_equal(mask_of(result.written[0]), expected)
    assert sorted(os.listdir(tmp_path / "out")) == ["good.png", "good_overlay.jpg"]


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path):
    paths = [tmp_path / name for name in ("x.jpg", "x.png", "a/x.jpg", "b/x.jpg", "b/y.png", "X.bmp")]
    expected = []
    for place, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        expected.append(paint(path, box=(0, 0, 4 * place + 3, 20), mode="RGB"))
    result = run(tmp_path, paths)
    masks = [entry["mask"] for entry in result.written]
    assert len({mask.casefold() for mask in masks}) == len(paths)
    for entry, mask in zip(result.written, expected):
        # the border of a JPEG's box may blur by a pixel
        assert (mask_of(entry) != mask).sum() <= 20
    assert [entry["mask"] for entry in run(tmp_path, paths[::-1]).written] == masks[::-1]


@pytest.mark.parametrize("paths, names", [
    (["/p/x.jpg", "/p/y.jpg"], ["x", "y"]),
    (["/p/x.jpg", "/p/x.png"], ["x_jpg", "x_png"]),
    (["/a/x.jpg", "/b/x.jpg"], ["a_x", "b_x"]),
    (["/a/x.jpg", "/b/x.jpg", "/c/a_x.jpg"], ["a_x_jpg", "b_x", "a_x"]),
    (["/p/a/x.jpg", "/q/a/x.jpg"], ["a_x_jpg_1", "a_x_jpg_2"]),
    (["/p/x.jpg", "/p/X.jpg"], ["p_x_jpg_2", "p_X_jpg_1"]),
])
def test_output_names(paths, names):
    assert output_names(paths) == names
    assert output_names(paths[::-1]) == names[::-1]


def test_an_input_is_never_overwritten(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.png", "b_overlay.jpg", "b.jpg"):
        paint(out / name, mode="RGB")
    os.symlink(out / "a.png", tmp_path / "a.png")
    before = {path: path.read_bytes() for path in out.iterdir()}
    for images in (["out/a.png"], ["a.png"], ["out/b.jpg", "out/b_overlay.jpg"]):
        with pytest.raises(UserError, match="overwrite"):
            run(tmp_path, [tmp_path / image for image in images])
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_reported_before_the_work(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file where the folder should be")
    worked = []
    with pytest.raises(UserError, match="out"):
        segment_images(PredictConfig("x.ckpt", images=[str(tmp_path / "a.png")], out=str(tmp_path / "out")),
                lambda *arguments: worked.append(1), LABELS)
    assert worked == []


def test_addresses_are_refused():
    with pytest.raises(UserError, match="https://x.org/a.jpg is an address.*download it first"):
        find_images(["https://x.org/a.jpg"])


def test_find_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("p/deep/er")
    os.makedirs("p/folder.jpg")
    for name in ("p/b.jpg", "p/a.PNG", "p/notes.txt", "p/.hidden.jpg", "p/deep/c.jpg", "p/deep/er/d.tif", "p/[x].jpg"):
        open(name, "w").close()
    assert find_images(["p"]) == ["p/[x].jpg", "p/a.PNG", "p/b.jpg"]
    assert find_images(["p/*"]) == find_images("p/") == find_images(["p"])
    assert find_images(["p/**/*.jpg"]) == ["p/[x].jpg", "p/b.jpg", "p/deep/c.jpg"]
    assert find_images(["p/deep/../b.jpg", "p/notes.txt", "p"]) == [
        "p/deep/../b.jpg", "p/notes.txt", "p/[x].jpg", "p/a.PNG"]
    assert find_images(["p/[x].jpg"]) == ["p/[x].jpg"]
    os.rename("p", "[p]")
    assert find_images(["[p]"]) == ["[p]/[x].jpg", "[p]/a.PNG", "[p]/b.jpg"]


@pytest.mark.parametrize("patterns, words", [
    (["there.jpg"], "there.jpg"), (["*.bmp"], r"\*.bmp"), (["empty"], "empty"), (["good.jpg", "z/**"], "z/"),
    ([], "no images")])
def test_a_pattern_that_finds_nothing_is_named(tmp_path, monkeypatch, patterns, words):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    paint("good.jpg")
    with pytest.raises(UserError, match=words):
        find_images(patterns)


def test_scales_and_mirroring_work_with_any_way_to_segment(tmp_path):
    """Halves of a photograph: each scale blurs their edge a little, and the mean of the views keeps the halves."""
    expected = paint(tmp_path / "a.png", size=(40, 20), box=(0, 0, 20, 20))
    plain = run(tmp_path, [tmp_path / "a.png"], probabilities=True).written[0]
    before = np.load(plain["probabilities"])["probabilities"]
    entry = run(tmp_path, [tmp_path / "a.png"], probabilities=True, scales=[0.5, 1.0], flip=True).written[0]
    after = np.load(entry["probabilities"])["probabilities"]
    np.testing.assert_array_equal(mask_of(entry), expected)
    assert np.abs(after[:, :, :15] - before[:, :, :15]).max() < 0.01 < np.abs(after - before).max()


def test_an_impossible_way_is_reported_before_anything_is_written(tmp_path):
    paint(tmp_path / "a.png")
    for settings, words in (({"scales": [0.0]}, "--scales"), ({"overlap": 8}, "--window"),
                            ({"window": 64}, "--overlap"), ({"crf": "nobody"}, "nobody|pydensecrf2")):
        with pytest.raises(UserError, match=words):
            run(tmp_path, [tmp_path / "a.png"], **settings)
    assert not (tmp_path / "out").exists()


def test_a_photograph_too_large_for_the_memory_is_named_and_the_others_are_predicted(tmp_path):
    """Each library has its own words for it; any other error of theirs is a fault of the program and is raised."""
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        paint(tmp_path / name, size=(30 + number, 20))
    errors = {31: MemoryError(), 32: RuntimeError("Memory not enough: alloc failed\n - C++ Call Stack")}

    def narrow(image, probabilities):
        if image.shape[1] in errors:
            raise errors[image.shape[1]]
        return segment(image, probabilities)

    said = []
    config = PredictConfig("x.ckpt", images=[str(tmp_path)], out=str(tmp_path / "out"))
    result = segment_images(config, narrow, LABELS, Console(said.append))
    assert [os.path.basename(entry["image"]) for entry in result.written] == ["a.png", "d.png"]
    for (path, reason), name in zip(result.failed, ("b.png", "c.png")):
        assert path == str(tmp_path / name) and path in reason and "--window" in reason and "\n" not in reason
    assert len(said) == 2
    errors[33] = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        segment_images(config, narrow, LABELS)


def test_a_result_that_cannot_be_written_does_not_end_the_batch(tmp_path):
    """A name that is long enough for the photograph, but not for its overlay."""
    paint(tmp_path / ("n" * 250 + ".png"))
    paint(tmp_path / "z.png")
    result = run(tmp_path, [tmp_path])
    assert [os.path.basename(entry["image"]) for entry in result.written] == ["z.png"]
    assert len(result.failed) == 1 and "shorter name" in result.failed[0][1]


def test_results_are_not_taken_for_photographs(tmp_path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "deep" / "b.png") if (tmp_path / "deep").mkdir() is None else None
    with pytest.raises(UserError, match="--out .* is the folder of the photographs"):
        segment_images(PredictConfig("x.ckpt", images=[str(tmp_path)], out=str(tmp_path)), segment, LABELS)
    with pytest.raises(UserError, match="--out .* is the folder of the photographs"):
        find_images([str(tmp_path / "*.png")], str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["a.png", "deep"]
    said = []
    for _ in range(2):
        result = segment_images(PredictConfig("x.ckpt", images=[str(tmp_path / "**" / "*.png")],
                                              out=str(tmp_path / "out")), segment, LABELS, Console(said.append))
        assert sorted(os.path.basename(entry["image"]) for entry in result.written) == ["a.png", "b.png"]
    assert len(said) == 1 and "2 files of" in said[0] and "out left out" in said[0]


def test_files_that_are_passed_over_are_counted(tmp_path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.jfif", mode="RGB", format="JPEG")
    for name in ("c.gif", "d.gif", "e.heic", "notes"):
        (tmp_path / name).write_bytes(b"")
    said = []
    found = find_images([str(tmp_path)], console=Console(said.append))
    assert [os.path.basename(path) for path in found][:2] == ["a.png", "b.jfif"]
    if len(found) == 2:
        assert "4 other files passed over (2 .gif, 1 .heic, 1 without suffix)" in said[0] and "pillow-heif" in said[0]
    else:
        assert "3 other files" in said[0]


def test_images_of_phones(tmp_path):
    """AVIF where this Pillow has it; a HEIC file where its plugin is missing says what to install."""
    from PIL import features
    if not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = paint(tmp_path / "a.avif", mode="RGB", quality=100, exif=exif)
    turned = mask_of(run(tmp_path, [tmp_path]).written[0])
    assert turned.shape == (30, 20) and (turned != np.rot90(stored, -1)).mean() < 0.05


def test_a_heic_image_names_the_plugin_that_reads_it(tmp_path, monkeypatch):
    from mindfcn.storage import images
    monkeypatch.setattr(images, "_heif_formats", lambda: ())
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (path, reason), = run(tmp_path, [tmp_path / "a.heic"]).failed
    assert "pip install pillow-heif" in reason and path in reason


def test_a_call_that_was_cut_short_continues(tmp_path):
    """Images whose files are all there are left as they are, and those of a killed process are made again."""
    for name in ("a", "b", "c", "d"):
        paint(tmp_path / f"{name}.png")
    run(tmp_path, [tmp_path])
    out = tmp_path / "out"
    (out / "b.png").unlink()
    (out / "c_overlay.jpg").unlink()
    (out / ".partial-b.png").mkdir()
    (out / ".partial-b.png" / "b.png").write_bytes(b"half")
    before = {name: (out / name).stat().st_mtime_ns for name in ("a.png", "a_overlay.jpg", "d.png", "d_overlay.jpg")}
    said = []
    config = PredictConfig("x.ckpt", images=[str(tmp_path)], out=str(out), skip_existing=True)
    result = segment_images(config, segment, LABELS, Console(said.append))
    assert [os.path.basename(entry["image"]) for entry in result.written] == ["b.png", "c.png"]
    assert (result.skipped, result.totals) == (2, {"written": 2, "failed": 0, "skipped": 2})
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert sorted(os.listdir(out)) == sorted(f"{name}{end}" for name in "abcd" for end in (".png", "_overlay.jpg"))
    assert run(tmp_path, [tmp_path], skip_existing=True, probabilities=True).skipped == 0


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_each_process_segments_its_share(tmp_path, monkeypatch, ranks):
    """tests/engine/test_ranks.py starts real processes."""
    for name in ("a", "b", "c", "d"):
        paint(tmp_path / f"{name}.png")
    monkeypatch.setenv("MS_WORKER_NUM", str(ranks))
    monkeypatch.setattr(runtime, "rank_size", lambda: ranks)
    monkeypatch.setattr(runtime, "gather_over_ranks", lambda array: np.stack([array] * ranks))
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        result = run(tmp_path, [tmp_path])
        shares.append("".join(os.path.basename(entry["image"])[0] for entry in result.written))
        assert result.totals["written"] == ranks * len(shares[-1])
    assert shares == {2: ["ac", "bd"], 3: ["ad", "b", "c"], 5: ["a", "b", "c", "d", ""]}[ranks]


def test_the_memory_of_a_folder_is_that_of_an_image(tmp_path, monkeypatch):
    """At most three photographs of 3 MB are kept: one that is read, one that is computed, one that is written.

    So 40 take at most two more, with their masks, than 4 that happen to come one after the other.
    """
    from mindfcn.commands import predict
    read, write, kept, most = predict._read, predict._write, [], []

    def writing(*arguments):
        # Slower than the network, so that images would wait.
        if len(kept) < 10:
            time.sleep(0.3)
        write(*arguments)

    def reading(*arguments):
        image, seen = read(*arguments)
        kept.append(weakref.ref(image))
        most.append(sum(one() is not None for one in kept))
        return image, seen

    monkeypatch.setattr(predict, "_read", reading)
    monkeypatch.setattr(predict, "_write", writing)
    for number in range(40):
        Image.new("RGB", (1000, 1000), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    peaks = []
    for images in (["0[0-3].png"], ["*.png"]):
        tracemalloc.start()
        segment_images(PredictConfig("x.ckpt", images=[str(tmp_path / name) for name in images],
                                     out=str(tmp_path / f"out{len(peaks)}"), overlay=False), segment, LABELS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(most) == 44 and max(most) <= 3, most
    assert peaks[1] < peaks[0] + 2 * 4.1e6, peaks


def test_the_next_image_is_read_and_the_last_one_written_while_one_is_computed(tmp_path, monkeypatch):
    """Each of three images would wait for ever for another if they were taken one after the other."""
    from mindfcn.commands import predict
    for name in ("a", "b", "c"):
        paint(tmp_path / f"{name}.png")
    read_c, written_a = threading.Event(), threading.Event()
    read, write, computed = predict._read, predict._write, []

    def reading(path, *arguments):
        if path.endswith("c.png"):
            read_c.set()
        return read(path, *arguments)

    def writing(target, *arguments):
        if target["mask"].endswith("a.png"):
            assert len(computed) == 2 or second.wait(60)
            written_a.set()
        write(target, *arguments)

    second = threading.Event()

    def computing(image, probabilities):
        computed.append(image)
        if len(computed) == 2:
            second.set()
            assert read_c.wait(60) and written_a.wait(60)
        return segment(image, probabilities)

    monkeypatch.setattr(predict, "_read", reading)
    monkeypatch.setattr(predict, "_write", writing)
    config = PredictConfig("x.ckpt", images=[str(tmp_path)], out=str(tmp_path / "out"))
    result = segment_images(config, computing, LABELS)
    assert [os.path.basename(entry["image"]) for entry in result.written] == ["a.png", "b.png", "c.png"]


def test_links_in_circles_are_not_followed(tmp_path):
    """Two links to the folder above give 2^40 paths to whoever follows them."""
    paint(tmp_path / "a.png")
    (tmp_path / "deep").mkdir()
    paint(tmp_path / "deep" / "b.png")
    for name in ("x", "y"):
        os.symlink(tmp_path, tmp_path / "deep" / name)
    names = [os.path.relpath(path, tmp_path) for path in find_images([str(tmp_path / "**" / "*.png")])]
    assert names == ["a.png", os.path.join("deep", "b.png")]
    assert len(find_images([str(tmp_path / "**")])) == 2


def test_names_in_two_normal_forms_have_two_results(tmp_path):
    import unicodedata
    names = [unicodedata.normalize(form, "\u00e9.png") for form in ("NFC", "NFD")]
    assert len({unicodedata.normalize("NFC", name) for name in output_names([f"/p/{name}" for name in names])}) == 2


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="these file systems hold text alone")
def test_names_that_are_not_utf8_are_predicted_and_printed(tmp_path, capfd):
    from mindfcn.cli.console import Terminal
    path = os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.png"
    paint(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path)
    entry = run(tmp_path, [tmp_path]).written[0]
    assert os.path.exists(entry["mask"])
    Terminal().say(entry["image"])
    assert capfd.readouterr().out.endswith("/caf\\udce9\\x1b[31m.png\n")


def test_a_file_of_depth_belongs_to_one_image(tmp_path):
    from mindfcn.commands.predict import _check_depth_names
    _check_depth_names(["a/x.jpg", "a/y.jpg"])
    with pytest.raises(UserError, match="x.png would be the depth of both a/x.jpg and b/x.png"):
        _check_depth_names(["a/x.jpg", "b/x.png"])


def film(path, count=12, size=(32, 24)):
    """A video of a bright box that moves to the right; returns the masks."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    masks = np.zeros((count, size[1], size[0]), np.uint8)
    for number, mask in enumerate(masks):
        mask[8:16, number:number + 8] = 1
        writer.write(np.uint8([20, 230])[mask][..., None].repeat(3, -1))
    writer.release()
    return masks


def test_a_video_becomes_a_folder_of_masks_and_an_overlay(tmp_path):
    expected = film(tmp_path / "clip.avi")
    paint(tmp_path / "a.png")
    result = run(tmp_path, [tmp_path / "clip.avi", tmp_path / "a.png"])
    assert not result.failed and [os.path.basename(entry["mask"]) for entry in result.written] == ["clip", "a.png"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "a_overlay.jpg", "clip", "clip_overlay.mp4"]
    names = sorted(os.listdir(tmp_path / "out" / "clip"))
    assert names == [f"{number:06d}.png" for number in range(12)]
    found = np.array([np.array(Image.open(tmp_path / "out" / "clip" / name)) for name in names])
    assert Image.open(tmp_path / "out" / "clip" / names[0]).mode == "P" and (found != expected).mean() < 0.01
    frames = list(VideoReader(tmp_path / "out" / "clip_overlay.mp4"))
    assert len(frames) == 12 and frames[0].shape == (24, 32, 3)
    # The box is bright and tinted in the class's colour, (255, 200, 0): its blue is lower than its red.
    box = frames[5][10:14, 7:11].astype(int).reshape(-1, 3).mean(0)
    assert box[2] > box[0] + 40 and frames[5][20:, :4].mean() < 60


def test_a_damaged_video_is_named_and_leaves_nothing(tmp_path):
    film(tmp_path / "clip.avi", count=60)
    paint(tmp_path / "a.png")
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(content[:len(content) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    result = run(tmp_path, [tmp_path / "clip.avi", tmp_path / "text.mp4", tmp_path / "a.png"])
    assert [os.path.basename(path) for path, _ in result.failed] == ["clip.avi", "text.mp4"]
    assert "incomplete" in result.failed[0][1] and "no video" in result.failed[1][1]
    assert all("\n" not in reason for _, reason in result.failed)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "a_overlay.jpg"]


def test_masks_of_an_earlier_video_are_not_replaced(tmp_path):
    film(tmp_path / "clip.avi")
    entry, = run(tmp_path, [tmp_path / "clip.avi"], overlay=False).written
    assert entry["overlay"] is None and os.listdir(tmp_path / "out") == ["clip"]
    again = run(tmp_path, [tmp_path / "clip.avi"])
    assert "clip is there already; remove it" in again.failed[0][1] and len(os.listdir(tmp_path / "out")) == 1


def test_a_video_cut_short_between_its_two_results_is_segmented_again(tmp_path, monkeypatch):
    film(tmp_path / "clip.avi")
    replace, published = os.replace, []

    def interrupted(source, path):
        if os.path.dirname(path) == str(tmp_path / "out"):
            published.append(path)
            if len(published) == 2:
                raise KeyboardInterrupt
        replace(source, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        run(tmp_path, [tmp_path / "clip.avi"])
    again = run(tmp_path, [tmp_path / "clip.avi"], skip_existing=True)
    assert len(again.written) == 1 and not again.failed
    assert sorted(os.listdir(tmp_path / "out")) == ["clip", "clip_overlay.mp4"]
    assert run(tmp_path, [tmp_path / "clip.avi"], skip_existing=True).skipped == 1


def test_folders_and_patterns_give_videos_and_photographs_settings_are_refused(tmp_path):
    film(tmp_path / "clip.avi")
    for pattern in (tmp_path, tmp_path / "*.avi"):
        assert find_images([str(pattern)], videos=True) == [str(tmp_path / "clip.avi")]
        with pytest.raises(UserError, match="holds no image"):
            find_images([str(pattern)])
    for option, value in (("probabilities", True), ("voc_names", True), ("bits", 12)):
        with pytest.raises(UserError, match=f"--{option} is for photographs"):
            run(tmp_path, [tmp_path / "clip.avi"], **{option: value})
    with pytest.raises(UserError, match="https://a.b/c.mp4 is an address.*download it first"):
        run(tmp_path, ["https://a.b/c.mp4"])
