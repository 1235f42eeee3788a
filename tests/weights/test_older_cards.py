"""Cards that were written before options and modules got the field's names still make the same networks."""

import json

import pytest

from mindfcn.models.factory import create_model
from mindfcn.weights.card import Card

LABELS = {"names": ["background", "disc"], "colours": [[0, 0, 0], [230, 80, 70]], "ignore_label": 255}
# As a run of November 2026 wrote it.
CARD = {"model": {"name": "fcn8s_vgg16", "geometry": "paper", "width": 0.125, "fc_width": 8, "skip_scales": [1.0, 0.5]},
        "labels": LABELS,
        "preprocess": {"order": "BGR", "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]},
        "records": "data/records/sample/val.mindrecord",
        "training": {"epoch": 8, "step": 1024, "seed": 1, "steps_per_epoch": 128,
                     "best": {"epoch": 8, "mean IoU": 0.66},
                     "settings": {"model": {"name": "fcn8s_vgg16", "geometry": "paper", "width": 0.125}}},
        "metrics": {"mean IoU": 0.66}}


@pytest.mark.parametrize("geometry, padding", [("paper", "pad100"), ("padded", "same"), (None, None)])
def test_a_card_of_an_older_release_makes_the_same_network(geometry, padding):
    entries = json.loads(json.dumps(CARD))
    if geometry is None:
        del entries["model"]["geometry"]
    else:
        entries["model"]["geometry"] = geometry
    card = Card.from_json(json.dumps(entries), "old.ckpt")
    assert card.options().get("padding") == padding and card.skip_scales == (1.0, 0.5)
    net = create_model(card.model["name"], len(card.labels), **card.options())
    assert net.backbone.multiple == (1 if padding == "pad100" else 32)
    assert net.head.scale_pool3.factor == 0.5
    # What is written again has the same keys.
    assert json.loads(card.to_json()) == entries


def test_a_card_that_is_written_today_has_the_same_keys():
    entry = Card.model_entry("fcn8s_vgg16", {"padding": "pad100", "width": 0.125, "fc_width": 8})
    assert entry == {"name": "fcn8s_vgg16", "geometry": "paper", "width": 0.125, "fc_width": 8}
    assert Card(entry).options() == {"padding": "pad100", "width": 0.125, "fc_width": 8}
