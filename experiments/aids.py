"""Trains one small network on the garden set with each training aid in turn, and prints what each was worth.

    python experiments/garden.py mydata && python experiments/aids.py mydata [--seeds 3] [--epochs 10] [--only adamw]

The network is FCN-8s with batch normalisation at an eighth of its width, from random weights. Runs go to --out, and
what is there already is not trained again. The table has the mean over the seeds and, in brackets, the lowest and the
highest, in percent.
"""

import argparse
import dataclasses
import json
import os

import numpy as np

from mindfcn.commands.train import train
from mindfcn.config import AugmentConfig, ModelConfig, OptimConfig, PrepareConfig, TrainConfig

ADAM = {"optim.lr": 0.002, "optim.min_lr": 0.00002}
PIPELINE = """transform:
  __class_fullname__: Compose
  transforms:
  - {__class_fullname__: Affine, p: 0.7, rotate: [-20, 20], scale: [0.9, 1.1], shear: [-5, 5]}
  - {__class_fullname__: RandomBrightnessContrast, p: 0.5}
  - {__class_fullname__: GaussNoise, p: 0.3}
"""
AIDS = {
    "plain": {}, "adam": {"optim.name": "adam", **ADAM},
    "adamw": {"optim.name": "adamw", "optim.weight_decay": 0.01, **ADAM},
    "clip_norm 1": {"optim.clip_norm": 1.0}, "label_smoothing 0.1": {"optim.label_smoothing": 0.1},
    "rare_crops 0.33": {"augment.rare_crops": 0.33}, "vertical_flip": {"augment.vertical_flip": True},
    "rotate 180": {"augment.rotate": 180.0}, "pipeline": {"augment.pipeline": "pipeline.yaml"}}


def main():
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of the set, with images/, masks/ and labels.yaml")
    parser.add_argument("--out", default="runs/aids")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=AIDS, default=list(AIDS))
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    with open(os.path.join(options.out, "pipeline.yaml"), "w", encoding="utf-8") as file:
        file.write(PIPELINE)
    rows = {aid: [] for aid in options.only}
    for seed in range(1, options.seeds + 1):
        for aid in options.only:
            rows[aid].append(result(aid, seed, options))
            print(f"seed {seed}, {aid}: {rows[aid][-1]}", flush=True)
    names = list(next(iter(rows.values()))[0])
    print("\n| aid | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for aid, results in rows.items():
        cells = [[100 * one[name] for one in results] for name in names]
        texts = [f"{np.mean(cell):.1f} ({min(cell):.1f}-{max(cell):.1f})" for cell in cells]
        print(f"| {aid} | " + " | ".join(texts) + " |")


def result(aid, seed, options):
    """{class or mean IoU: IoU} of a run, trained if it is not there yet."""
    run_dir = os.path.join(options.out, f"{aid.replace(' ', '_')}_{seed}")
    path = os.path.join(run_dir, "evaluation", "metrics.json")
    if not os.path.exists(path) and (stopped := train(settings(aid, seed, run_dir, options)).signal):
        raise SystemExit(128 + stopped)
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return {"mean IoU": found["metrics"]["mean IoU"], **dict(zip(found["classes"], found["class IoU"]))}


def settings(aid, seed, run_dir, options):
    """TrainConfig of a run."""
    config = TrainConfig(
        run_dir=run_dir, overwrite=True, eval_every=0, seed=seed,
        data=PrepareConfig(source="folder", root=options.root, records=os.path.join(options.out, "records")),
        augment=AugmentConfig(crop_size=96, min_scale=0.75, max_scale=1.5),
        model=ModelConfig(name="fcn8s_vgg16_bn", width=0.125, fc_width=64),
        optim=OptimConfig(epochs=options.epochs, lr=0.05, warmup_epochs=0.5))
    for name, value in AIDS[aid].items():
        group, setting = name.split(".")
        value = os.path.join(options.out, value) if setting == "pipeline" else value
        setattr(config, group, dataclasses.replace(getattr(config, group), **{setting: value}))
    return config


if __name__ == "__main__":
    main()
