"""Annotation tools' libraries write a data set, mindfcn convert reads it, and the libraries' own masks must be equal.

    pip install labelme pycocotools supervision datumaro label-studio-sdk cityscapesscripts
    python experiments/annotation_tools.py FOLDER [--images 40] [--only labelme,coco]

Photographs are drawn garden beds (garden.py); the polygons are the outlines of their leaves, fruit and beetles. A line
for each format: the library and its version, photographs, shapes, and the number of pixels that differ.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import shutil

import cv2
import numpy as np
from garden import NAMES, draw
from PIL import Image

from mindfcn.commands.convert import convert
from mindfcn.config import ConvertConfig

CLASSES = NAMES[1:]
# Classes of Cityscapes that stand for them.
CITYSCAPES = ("vegetation", "car", "person")


def main():
    """Write, convert and compare each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--only", default="", help="formats, with commas between them; all if empty")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    beds = [bed(options.folder / "beds", number) for number in range(options.images)]
    print(f"{'format':18}{'library':32}photographs  shapes  pixels that differ")
    for name in options.only.split(",") if options.only else TOOLS:
        library, write = TOOLS[name]
        source, truth = write(options.folder / name, beds)
        out = options.folder / f"{name}_converted"
        result = convert(ConvertConfig(str(source), str(out)))
        wrong = sum(int((masks_of(out, result.labels, stem) != mask).sum()) for stem, mask in truth.items())
        report = json.loads((out / "conversion.json").read_text())
        shapes = sum(row["shapes"] for row in report["classes"])
        version = f"{library} {importlib.metadata.version(library)}"
        print(f"{name:18}{version:32}{result.photographs:11}{shapes:8}{wrong:20}", flush=True)
        assert result.photographs == len(truth) == len(beds) and not wrong, result.left_out


def bed(folder, number):
    """(path of a photograph, its mask (H, W) uint8 without ignored pixels, [(class name, (K, 2) int polygon)])."""
    image, mask = draw(192, np.random.default_rng([1, number]))
    mask[mask == 255] = 0
    path = folder / f"bed_{number + 1:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    polygons = []
    for place, name in enumerate(CLASSES, 1):
        outlines, _ = cv2.findContours((mask == place).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        polygons += [(name, outline[:, 0]) for outline in outlines if cv2.contourArea(outline) > 4]
    return path, mask, polygons


def masks_of(folder, labels, stem):
    """A converted mask with the classes of CLASSES as 1, 2, 3 and everything else 0."""
    table = np.zeros(256, np.uint8)
    for classes in (CLASSES, CITYSCAPES):
        for place, name in enumerate(classes, 1):
            if name in labels.names:
                table[labels.names.index(name)] = place
    return table[np.asarray(Image.open(folder / "masks" / f"{stem}.png"))]


def painted(shapes, size):
    """Masks [(class name, (H, W) bool)] painted into one, smaller ones over larger ones."""
    found = np.zeros(size, np.uint8)
    for name, inside in sorted(shapes, key=lambda shape: -int(shape[1].sum())):
        found[inside] = CLASSES.index(name) + 1
    return found


def labelme(folder, beds):
    """LabelMe's own files, and its own `shapes_to_label`."""
    from labelme import LabelFile, utils
    folder.mkdir(parents=True)
    truth = {}
    for path, mask, polygons in beds:
        data = path.read_bytes()
        (folder / path.name).write_bytes(data)
        shapes = [{"label": name, "points": (points + 0.3).tolist(), "group_id": None, "shape_type": "polygon",
                   "flags": {}, "description": "", "mask": None} for name, points in polygons]
        height, width = mask.shape
        LabelFile().save(str(folder / f"{path.stem}.json"), shapes, path.name, height, width, data)
        numbers = {name: number for number, name in enumerate(NAMES)}
        truth[path.stem] = utils.shapes_to_label(mask.shape, shapes, numbers)[0]
    return folder, truth


def supervised(folder, beds):
    """A DetectionDataset of supervision with the masks of all polygons."""
    import supervision
    folder.mkdir(parents=True)
    annotations = {}
    for path, mask, polygons in beds:
        masks = [supervision.polygon_to_mask(points, mask.shape[::-1]).astype(bool) for _, points in polygons]
        masks = np.array(masks).reshape(-1, *mask.shape)
        annotations[str(path)] = supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).reshape(-1, 4), mask=masks,
            class_id=np.array([CLASSES.index(name) for name, _ in polygons], int))
    return supervision.DetectionDataset(list(CLASSES), [str(path) for path, *_ in beds], annotations)


def coco(folder, beds):
    """supervision writes COCO's JSON, pycocotools paints it."""
    supervised(folder, beds).as_coco(str(folder / "images"), str(folder / "instances.json"))
    return folder, coco_truth(folder / "instances.json")


def coco_truth(path):
    """{stem: mask} by pycocotools' COCO class."""
    from pycocotools.coco import COCO
    data = COCO(str(path))
    truth = {}
    for key, image in data.imgs.items():
        shapes = [(data.cats[one["category_id"]]["name"], data.annToMask(one).astype(bool))
                  for one in data.loadAnns(data.getAnnIds(key))]
        truth[pathlib.PureWindowsPath(image["file_name"]).stem] = painted(shapes, (image["height"], image["width"]))
    return truth


def yolo(folder, beds):
    """supervision writes YOLO's polygons and reads them again."""
    import supervision
    places = [str(folder / name) for name in ("images", "labels", "data.yaml")]
    supervised(folder, beds).as_yolo(*places)
    (folder / "data.yaml").write_text((folder / "data.yaml").read_text() + "train: images\n")
    truth = {}
    for path, image, found in supervision.DetectionDataset.from_yolo(*places, force_masks=True):
        masks = [] if found.mask is None else [(CLASSES[number], mask)
                                               for number, mask in zip(found.class_id, found.mask)]
        truth[pathlib.Path(path).stem] = painted(masks, image.shape[:2])
    return folder, truth


def datumaro_set(beds):
    """A Dataset of Datumaro with a mask of each class."""
    from datumaro.components.annotation import AnnotationType, LabelCategories, Mask
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image as Media
    items = [DatasetItem(path.stem, media=Media.from_file(path=str(path)), annotations=[
        Mask(mask == number, label=number, id=number, group=number)
        for number in range(1, len(NAMES)) if (mask == number).any()]) for path, mask, _ in beds]
    categories = {AnnotationType.label: LabelCategories.from_iterable(NAMES)}
    return Dataset.from_iterable(items, categories=categories)


def labelmap(folder, beds):
    """Datumaro writes labelmap.txt and masks in its colours; the truth is what it was given."""
    datumaro_set(beds).export(str(folder), "voc_segmentation", save_media=True, label_map="source")
    return folder, {path.stem: mask for path, mask, _ in beds}


def datumaro_coco(folder, beds):
    """Datumaro writes COCO's run lengths, holes included; the truth is what it was given."""
    datumaro_set(beds).export(str(folder), "coco_instances", save_media=True)
    return folder, {path.stem: mask for path, mask, _ in beds}


def label_studio(folder, beds):
    """Label Studio's converter writes COCO's JSON of polygons, pycocotools paints it."""
    from label_studio_sdk.converter import Converter
    folder.mkdir(parents=True)
    tasks = []
    for number, (path, mask, polygons) in enumerate(beds, 1):
        (folder / "images").mkdir(exist_ok=True)
        shutil.copy(path, folder / "images")
        height, width = mask.shape
        results = [{"id": f"{number}_{place}", "type": "polygonlabels", "from_name": "label", "to_name": "image",
                    "original_width": width, "original_height": height, "value": {
                        "points": (100 * points / (width, height)).tolist(), "polygonlabels": [name]}}
                   for place, (name, points) in enumerate(polygons)]
        tasks.append({"id": number, "data": {"image": f"images/{path.name}"},
                      "annotations": [{"id": number, "completed_by": 1, "result": results}]})
    (folder / "tasks.txt").write_text(json.dumps(tasks))
    config = ('<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
              + "".join(f'<Label value="{name}"/>' for name in CLASSES) + "</PolygonLabels></View>")
    Converter(config, str(folder), download_resources=False).convert_to_coco(
        str(folder / "tasks.txt"), str(folder), output_image_dir=str(folder / "images"), is_dir=False)
    os.remove(folder / "tasks.txt")
    # Label Studio names its copies itself.
    for image, (path, *_) in zip(json.loads((folder / "result.json").read_text())["images"], beds):
        (folder / "images" / path.name).rename(folder / image["file_name"])
    return folder, coco_truth(folder / "result.json")


def cityscapes(folder, beds):
    """cityscapesscripts paints polygons of its classes into labelIds; leaf, fruit and beetle are three of those."""
    from cityscapesscripts.preparation.json2labelImg import json2labelImg
    names = dict(zip(CLASSES, CITYSCAPES))
    truth = {}
    for path, mask, polygons in beds:
        places = {}
        for kind, suffix in (("leftImg8bit", "leftImg8bit.png"), ("gtFine", "gtFine_polygons.json")):
            places[kind] = folder / kind / "train" / "garden" / f"{path.stem}_{suffix}"
            places[kind].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, places["leftImg8bit"])
        places["gtFine"].write_text(json.dumps({"imgHeight": mask.shape[0], "imgWidth": mask.shape[1], "objects": [
            {"label": names[name], "polygon": points.tolist()} for name, points in polygons]}))
        for encoding, suffix in (("ids", "labelIds.png"), ("trainIds", "labelTrainIds.png")):
            made = str(places["gtFine"]).replace("polygons.json", suffix)
            json2labelImg(str(places["gtFine"]), made, encoding)
        found = np.asarray(Image.open(made))
        truth[f"{path.stem}_leftImg8bit"] = np.select([found == 8, found == 13, found == 11], [1, 2, 3], 0)
    return folder, truth


TOOLS = {"labelme": ("labelme", labelme), "coco": ("supervision", coco), "yolo": ("supervision", yolo),
         "labelmap": ("datumaro", labelmap), "coco_runs": ("datumaro", datumaro_coco),
         "label_studio": ("label-studio-sdk", label_studio), "cityscapes": ("cityscapesscripts", cityscapes)}

if __name__ == "__main__":
    main()
