"""Files of annotation tools, as the tools write them, and an independent rasterisation of polygons."""

import base64
import io
import json

import numpy as np
from matplotlib.path import Path
from PIL import Image

SIZE = (30, 40)


def photograph(path, height=30, width=40, seed=1):
    """Write a photograph of noise. Returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


def labelme(path, shapes, image, embedded=None, size=SIZE):
    """Write a file of LabelMe: shapes are (label, shape_type, points) or dictionaries of more keys."""
    entries = [shape if isinstance(shape, dict) else {
        "label": shape[0], "points": shape[2], "group_id": None, "description": "", "shape_type": shape[1], "flags": {},
        "mask": None} for shape in shapes]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "version": "5.5.0", "flags": {}, "shapes": entries, "imagePath": image,
        "imageData": embedded and base64.b64encode(embedded).decode(), "imageHeight": size[0], "imageWidth": size[1]}))


def png_text(mask):
    """A mask as LabelMe writes it into its JSON: PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def coco(path, images, categories, annotations):
    """Write a COCO file: images {id: name}, categories {id: name}, annotations [(image, category, segmentation)]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "info": {}, "licenses": [],
        "images": [{"id": key, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for key, name in images.items()],
        "categories": [{"id": key, "name": name, "supercategory": ""} for key, name in categories.items()],
        "annotations": [{"id": number, "image_id": one[0], "category_id": one[1], "segmentation": one[2], "area": 0,
                         "bbox": [0, 0, 1, 1], "iscrowd": int(len(one) > 3 and one[3])}
                        for number, one in enumerate(annotations, 1)]}))


def inside_and_near(points, size=SIZE, reach=1.0):
    """(pixels whose centres lie in a polygon, pixels whose centres lie within `reach` of its outline), (H, W) bool.

    Points are x, y with pixel centres at whole numbers plus `0.5`; computed by Matplotlib and by distances to segments.
    """
    rows, columns = np.indices(size)
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    inside = Path(points).contains_points(centres).reshape(size)
    start = np.asarray(points, float)
    along = np.roll(start, -1, 0) - start
    place = ((centres[:, None] - start) * along).sum(-1) / np.maximum((along ** 2).sum(-1), 1e-9)
    nearest = start + np.clip(place, 0, 1)[..., None] * along
    distance = np.linalg.norm(centres[:, None] - nearest, axis=-1).min(1).reshape(size)
    return inside, distance <= reach
