"""The drawn rooms: files of NYUDv2's format, true depth, and colours that do not give away a surface's class."""

import numpy as np
import pytest

from mindfcn.data.hha import encode_hha
from mindfcn.data.sources.nyud import NYUD, list_nyud
from mindfcn.data.synthetic.rooms import BED, CEILING, FLOOR, WALL, draw_room, draw_rooms, room_camera
from mindfcn.errors import UserError
from mindfcn.storage.images import decode_image


def test_depth_is_true():
    """HHA finds the floor, level, in depth that was drawn by other arithmetic."""
    seen = 0
    for index in range(12):
        image, depth, mask = draw_room(120, 1, index)
        assert image.shape == (90, 120, 3) and np.isfinite(depth).all() and (depth > 0).all()
        assert mask.max() < len(NYUD)
        hha = encode_hha(depth, room_camera(120)).astype(int)
        for number, angle in ((FLOOR, 38), (CEILING, 218), (WALL, 128)):
            where = mask == number
            if where.mean() > 0.15 and (mask == FLOOR).mean() > 0.1:
                seen += 1
                assert abs(np.median(hha[where][:, 2]) - angle) <= 2, (index, number)
                if number == FLOOR:
                    assert np.median(hha[where][:, 1]) <= 2
    assert seen > 6


def test_surfaces_are_painted_alike():
    """Mean colours of floors, walls, ceilings and beds do not differ by more than chance; those of windows do."""
    colours = {number: [] for number in range(len(NYUD))}
    for index in range(40):
        image, _, mask = draw_room(64, 2, index)
        for number in np.unique(mask):
            colours[number].append(image[mask == number].mean(0))
    means = {NYUD.names[number]: np.mean(rows, 0) for number, rows in colours.items() if len(rows) >= 10}
    surfaces = [means[NYUD.names[number]] for number in (WALL, FLOOR, CEILING, BED)]
    assert np.ptp(surfaces, 0).max() < 30
    assert means["window"][0] - means["window"][2] > 60 and means["picture"][2] - means["picture"][0] > 60


def test_the_set_has_nyudv2_files_and_is_reproducible(tmp_path):
    draw_rooms(tmp_path / "a", 5, 40, 3)
    draw_rooms(tmp_path / "b", 5, 40, 3)
    samples = list_nyud(tmp_path / "a", "trainval") + list_nyud(tmp_path / "a", "test")
    assert [sample.name for sample in samples] == ["5001", "5002", "5003", "5004", "5005"]
    for index, sample in enumerate(samples):
        image, depth, mask = draw_room(40, 3, index)
        np.testing.assert_array_equal(decode_image(sample.read_image(sample.image), "x"), image)
        np.testing.assert_array_equal(sample.read_label(sample.label), mask)
        millimetres = sample.extras["depth"].read(sample.extras["depth"].path)
        np.testing.assert_array_equal(millimetres, np.rint(1000 * depth))
        np.testing.assert_array_equal(sample.extras["hha"].read(sample.extras["hha"].path),
                                      encode_hha(millimetres / 1000, room_camera(40)))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 15
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    before = (tmp_path / "a" / "rooms.json").stat().st_mtime_ns
    draw_rooms(tmp_path / "a", 5, 40, 3)
    assert (tmp_path / "a" / "rooms.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="drawn rooms of other settings"):
        draw_rooms(tmp_path / "a", 6, 40, 3)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        draw_rooms(tmp_path / "c", 5, 40, 3)
    with pytest.raises(UserError, match="size 7 of the drawn rooms"):
        draw_rooms(tmp_path / "d", 5, 7, 3)
