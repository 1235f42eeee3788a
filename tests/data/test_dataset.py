"""Batches from records: the same for the same seed, each record once an epoch, and exact resumption."""

import functools
import itertools
import os
import shutil

import cv2
import numpy as np
import pytest
from mindspore import nn
from mindspore.mindrecord import FileWriter
from mindspore.train import Callback, Model

from mindfcn import runtime
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.mindrecord import read_records, write_records
from mindfcn.data.samples import Sample
from mindfcn.errors import UserError
from mindfcn.labels import VOC
from mindfcn.storage.images import read_palette_mask

COUNT = 11


@pytest.fixture(scope="module")
def pictures():
    """(name, image, mask) of small photographs, each of a different size and colour."""
    random = np.random.default_rng(1)
    found = []
    for number in range(COUNT):
        height, width = 20 + number, 30 - number
        image = random.integers(0, 40, (height, width, 3)).astype(np.uint8) + np.uint8(18 * number)
        mask = np.full((height, width), number, np.uint8)
        mask[0] = 255
        found.append((f"bild_{number}_图", image, mask))
    return found


@pytest.fixture(scope="module")
def path(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    samples = []
    for name, image, mask in pictures:
        for kind, array in (("image", image), ("mask", mask)):
            (folder / f"{name}_{kind}.png").write_bytes(cv2.imencode(".png", array)[1].tobytes())
        samples.append(Sample(name, str(folder / f"{name}_image.png"), str(folder / f"{name}_mask.png"),
                              read_palette_mask))
    write_records(samples, folder / "train.mindrecord", VOC)
    write_records(samples, folder / "three", VOC, shards=3)
    return str(folder / "train.mindrecord")


def training(path, **options):
    return SegDataset(data_file=path, **{"batch_size": 3, "crop_size": 16, "seed": 5, **options})


def batches(dataset, epochs=1):
    """A list of (image, label) batches for each epoch, as `Model.train` draws them."""
    iterator = dataset.get_dataset().create_tuple_iterator(num_epochs=epochs, output_numpy=True)
    return [[(image.copy(), label.copy()) for image, label in iterator] for _ in range(epochs)]


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for left, right in zip(one, other) for a, b in zip(left, right))


def classes(batch):
    """The class of each crop's photograph, which identifies it."""
    return [int(label[label != 255][0]) for label in batch[1]]


def test_shapes_and_types(path):
    epoch, = batches(training(path))
    assert len(epoch) == training(path).steps_per_epoch == training(path).get_dataset().get_dataset_size() == 3
    for image, label in epoch:
        assert image.shape == (3, 3, 16, 16) and image.dtype == np.float32
        assert label.shape == (3, 16, 16) and label.dtype == np.int32
    assert training(path).get_dataset().get_batch_size() == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_a_crop_is_drawn_from_seed_epoch_and_number(path, threads):
    """Each crop of a batch is what its record gives when it is cut alone."""
    dataset = training(path, num_parallel_calls=threads)
    records = [[np.frombuffer(column, np.uint8) for column in row[1:]] for row in read_records(path)]
    for epoch, found in enumerate(batches(dataset, 2)):
        alone = [dataset.preprocess_dataset(*records[number], np.random.RandomState([5, epoch, number]))
                 for number in dataset.order(epoch)]
        assert same([crop for batch in found for crop in zip(*batch)], alone)


def test_the_same_seed_gives_the_same_epochs_for_any_number_of_threads(path):
    one = batches(training(path, num_readers=1, num_parallel_calls=1), 2)
    for threads in (1, 2):
        again = batches(training(path, num_readers=threads, num_parallel_calls=threads), 2)
        assert same(one[0], again[0]) and same(one[1], again[1])
    assert not same(one[0], one[1]), "each epoch draws again"
    assert not same(one[0], batches(training(path, seed=6))[0])


def test_numpys_and_other_generators_do_not_matter(path):
    np.random.seed(1)
    one, = batches(training(path))
    np.random.seed(2)
    state = np.random.get_state()[1].copy()
    assert same(one, batches(training(path))[0])
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_without_a_seed_every_run_differs(path):
    assert not same(batches(training(path, seed=None))[0], batches(training(path, seed=None))[0])


def test_the_same_photograph_is_cut_differently_in_every_epoch(path):
    cuts = {}
    for epoch in batches(training(path, batch_size=1), 3):
        for batch in epoch:
            cuts.setdefault(classes(batch)[0], []).append(batch)
    assert sorted(cuts) == list(range(COUNT))
    for several in cuts.values():
        assert len(several) == 3
        assert not any(same([one], [other]) for one, other in itertools.combinations(several, 2))


def test_an_epoch_holds_each_photograph_once(path):
    for epoch in batches(training(path, batch_size=2), 3):
        seen = [number for batch in epoch for number in classes(batch)]
        assert len(seen) == 10 and len(set(seen)) == 10, "the last of eleven has no partner"
    orders = {tuple(training(path, batch_size=1).order(epoch)) for epoch in range(5)}
    assert len(orders) == 5


def test_photographs_of_rare_classes_are_cut_several_times_an_epoch(path):
    """Each class is in one of eleven photographs, so each is repeated sqrt(11) = 3.3 times."""
    dataset = training(path, batch_size=2, repeat_rare=1.0)
    first, second = batches(dataset, 2)
    assert len(first) == len(second) == dataset.steps_per_epoch == len(dataset.sources) // 2
    seen = [number for batch in first for number in classes(batch)]
    assert set(np.bincount(dataset.sources)) == {3, 4}
    assert sorted(seen) == sorted(dataset.sources[dataset.order(0)].tolist())
    crops = [crop.tobytes() for images, _ in first for crop in images]
    assert len(set(crops)) == len(crops), "each repetition is cut differently"
    names = [f"bild_{number}_图" for number in seen[4:6]]
    assert dataset.batch_names(0, 2) == names
    resumed = training(path, batch_size=2, repeat_rare=1.0, skip_batches=3)
    assert same(batches(resumed, 2)[0], first[3:]) and not same(first, second)


@pytest.mark.parametrize("first_epoch, skip_batches", [(0, 0), (0, 2), (1, 0), (1, 1), (2, 2)])
def test_a_resumed_run_continues_exactly(path, first_epoch, skip_batches):
    whole = batches(training(path), 4)
    rest = training(path, first_epoch=first_epoch, skip_batches=skip_batches)
    iterator = rest.get_dataset().create_tuple_iterator(num_epochs=4 - first_epoch, output_numpy=True)
    got = [[(image.copy(), label.copy()) for image, label in iterator] for _ in range(4 - first_epoch)]
    assert same(got[0], whole[first_epoch][skip_batches:])
    for ours, theirs in zip(got[1:], whole[first_epoch + 1:]):
        assert same(ours, theirs)


def test_colored_and_bounded_crops_are_drawn_alike_by_any_thread_and_after_a_resume(path):
    options = {"photometric": 1.0, "max_class_share": 0.5, "crop_tries": 4}
    whole = batches(training(path, **options, num_parallel_calls=1), 2)
    assert not same(whole[0], batches(training(path))[0])
    rest = training(path, **options, first_epoch=1, skip_batches=1, num_parallel_calls=2)
    assert same(batches(rest)[0], whole[1][1:])


class Classes(Callback):
    """Notes, step by step, which photographs `Model.train` fed."""

    def __init__(self):
        super().__init__()
        self.fed = []

    def on_train_step_end(self, run_context):
        label = run_context.original_args().train_dataset_element[1].asnumpy()
        self.fed.append((run_context.original_args().cur_epoch_num, classes((None, label))))


class Step(nn.Cell):
    """A training step without training."""

    def construct(self, image, label):
        return image.sum() * 0 + label.sum() * 0


def test_model_train_resumed_within_an_epoch_gets_the_same_batches(path):
    fed = []
    for first_epoch, skip_batches in ((0, 0), (1, 2)):
        pipeline = training(path, first_epoch=first_epoch, skip_batches=skip_batches).get_dataset()
        assert pipeline.get_dataset_size() == 3
        watcher = Classes()
        Model(Step()).train(3, pipeline, callbacks=[watcher], dataset_sink_mode=False, initial_epoch=first_epoch)
        fed.append(watcher.fed)
    assert [epoch for epoch, _ in fed[0]] == [1] * 3 + [2] * 3 + [3] * 3
    assert fed[1] == fed[0][5:]


@pytest.mark.parametrize("batch_size, ranks", [(2, 2), (1, 3), (3, 3)])
def test_ranks_share_an_epoch_without_overlap(path, batch_size, ranks):
    shares = [training(path, batch_size=batch_size, rank=rank, rank_size=ranks) for rank in range(ranks)]
    assert {share.steps_per_epoch for share in shares} == {COUNT // ranks // batch_size}
    for epochs in zip(*(batches(share, 2) for share in shares)):
        seen = [[number for batch in epoch for number in classes(batch)] for epoch in epochs]
        assert {len(numbers) for numbers in seen} == {COUNT // ranks // batch_size * batch_size}
        together = list(itertools.chain(*seen))
        assert len(set(together)) == len(together)


def test_a_photograph_is_cut_alike_whatever_rank_and_batch_it_falls_to(path):
    """Its crop follows from seed, epoch and its number alone."""
    def crops(dataset):
        return {number: (image, label) for batch in batches(dataset)[0]
                for number, image, label in zip(classes(batch), *batch)}
    alone = crops(training(path, batch_size=1))
    shared = crops(training(path, batch_size=2, rank=1, rank_size=2))
    assert shared and all(same([shared[number]], [alone[number]]) for number in shared)


def test_crop_size_0_gives_whole_photographs_neither_scaled_nor_flipped(path):
    """Those of the evaluation, bit for bit, in each epoch's own order."""
    native = batches(SegDataset(data_file=path, training=False))[0]
    dataset = training(path, batch_size=1, crop_size=0)
    for epoch, found in enumerate(batches(dataset, 2)):
        order = dataset.order(epoch)
        assert sorted(order) == list(range(COUNT)) and list(order) != sorted(order)
        assert same(found, [native[number] for number in order])
        assert dataset.batch_names(epoch, 7) == [dataset.names()[order[7]]]


def test_whole_photographs_continue_exactly_where_a_run_stopped(path):
    options = {"batch_size": 1, "crop_size": 0}
    whole = batches(training(path, **options), 3)
    rest = training(path, **options, first_epoch=1, skip_batches=4, num_parallel_calls=1)
    iterator = rest.get_dataset().create_tuple_iterator(num_epochs=2, output_numpy=True)
    got = [[(image.copy(), label.copy()) for image, label in iterator] for _ in range(2)]
    assert same(got[0], whole[1][4:]) and same(got[1], whole[2])


def test_flip_false_mirrors_none_and_changes_no_other_draw(path):
    """A crop is that of the flipping data set, or its mirror image."""
    plain, flipped = (batches(training(path, batch_size=1, flip=flip))[0] for flip in (False, True))
    mirrored = [(image[..., ::-1], label[..., ::-1]) for image, label in flipped]
    equal = [same([one], [other]) for one, other in zip(plain, flipped)]
    assert all(straight or same([one], [mirror]) for straight, one, mirror in zip(equal, plain, mirrored))
    assert 0 < sum(equal) < COUNT


def test_evaluation_gives_every_image_at_native_size_in_order(path, pictures):
    dataset = SegDataset(data_file=path, training=False, batch_size=4, crop_size=16)
    for _ in range(2):
        found, = batches(dataset)
        assert len(found) == dataset.steps_per_epoch == COUNT
        for (image, label), (_, photograph, mask) in zip(found, pictures):
            assert image.dtype == np.float32 and label.dtype == np.int32
            np.testing.assert_array_equal(label[0], mask)
            expected = (photograph - np.float32((103.53, 116.28, 123.675))) / np.float32((57.375, 57.12, 58.395))
            np.testing.assert_array_equal(image[0], expected.transpose(2, 0, 1))
    assert dataset.names() == [name for name, _, _ in pictures]


def test_shards_are_one_data_set(path, pictures):
    shards = path.replace("train.mindrecord", "three")
    dataset = SegDataset(data_file=shards, training=False)
    found, = batches(dataset)
    by_name = dict(zip(dataset.names(), found))
    assert sorted(by_name) == sorted(name for name, _, _ in pictures)
    for name, _, mask in pictures:
        np.testing.assert_array_equal(by_name[name][1][0], mask)
    names = [name for name, _, _ in pictures]
    trained = training(shards, batch_size=2)
    for step, batch in enumerate(batches(trained)[0]):
        assert [names.index(name) for name in trained.batch_names(0, step)] == classes(batch)


def test_batch_names_are_the_files_of_the_batch(path, pictures):
    dataset = training(path)
    for number, epoch in enumerate(batches(dataset, 2)):
        for step, batch in enumerate(epoch):
            assert dataset.batch_names(number, step) == [pictures[at][0] for at in classes(batch)]


def test_samples_by_number_come_in_the_order_asked_for(path, pictures):
    dataset = SegDataset(data_file=path, training=False)
    found = list(dataset.samples(np.array([7, 0, 3])))
    assert [name for name, _, _ in found] == [pictures[at][0] for at in (7, 0, 3)]
    for (_, image, mask), at in zip(found, (7, 0, 3)):
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), pictures[at][1])
        np.testing.assert_array_equal(mask, pictures[at][2])
    assert list(dataset.samples([])) == []


@pytest.mark.parametrize("options, words", [
    ({"batch_size": 12}, "holds 11 records, fewer than one batch of 12"),
    ({"batch_size": 6, "rank_size": 2}, "on each of 2 device"),
    ({"batch_size": 0}, "batch size 0"), ({"crop_size": -1}, "crop size -1"),
    ({"crop_size": 0}, "batch size 3: crop size 0 takes whole photographs, which differ in size; use batch size 1"),
    ({"min_scale": 2, "max_scale": 1}, "scales from 2 to 1"), ({"min_scale": 0}, "scales from 0"),
    ({"batch_size": 1.5}, "batch_size 1.5: give a whole number"), ({"crop_size": 64.5}, "crop_size 64.5"),
    ({"seed": -1}, "seed -1"), ({"seed": 1.5}, "seed 1.5"), ({"rank": 5, "rank_size": 2}, "rank 5 of 2")])
def test_impossible_settings_are_reported_in_one_line(path, options, words):
    with pytest.raises(UserError) as error:
        training(path, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("column, words", [("data", "an image in .*damaged is not an image"),
                                           ("label", "a mask in .*damaged is not an image")])
def test_a_damaged_record_ends_the_epoch_in_one_line(pictures, tmp_path, column, words):
    path = str(tmp_path / "damaged")
    writer = FileWriter(path, 1)
    writer.add_schema({"file_name": {"type": "string"}, "label": {"type": "bytes"}, "data": {"type": "bytes"}}, "x")
    rows = [{"file_name": name, "label": cv2.imencode(".png", mask)[1].tobytes(),
             "data": cv2.imencode(".jpg", image)[1].tobytes()} for name, image, mask in pictures]
    rows[4][column] = b"nothing to see"
    writer.write_raw_data(rows)
    writer.commit()
    with pytest.raises(UserError, match=words) as error, runtime.unwrap_user_errors():
        batches(training(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("is_training", [True, False])
def test_records_replaced_under_a_run_stop_it(path, tmp_path, is_training):
    """By others of the same names, as `prepare --overwrite` does while a run reads."""
    for name in os.listdir(os.path.dirname(path)):
        if name.startswith("train"):
            shutil.copy(os.path.join(os.path.dirname(path), name), tmp_path)
    copy = str(tmp_path / "train.mindrecord")
    dataset = training(copy) if is_training else SegDataset(data_file=copy, training=False)
    read = functools.partial(batches, dataset) if is_training else lambda: list(dataset.photographs())
    assert read()
    shutil.copy(copy, tmp_path / "again")
    os.replace(tmp_path / "again", copy)
    with pytest.raises(UserError, match="train.mindrecord was replaced"), runtime.unwrap_user_errors():
        read()


def test_records_written_as_the_course_does_are_read(pictures, tmp_path):
    """Its schema, its three columns and its call, without a manifest."""
    path = str(tmp_path / "mindname.mindrecord")
    writer = FileWriter(file_name=path, shard_num=1)
    writer.add_schema({"file_name": {"type": "string"}, "label": {"type": "bytes"}, "data": {"type": "bytes"}},
                      "seg_schema")
    writer.write_raw_data([{"file_name": name, "label": cv2.imencode(".png", mask)[1].tobytes(),
                            "data": cv2.imencode(".jpg", image)[1].tobytes()} for name, image, mask in pictures])
    writer.commit()
    dataset = SegDataset(image_mean=[103.53, 116.28, 123.675], image_std=[57.375, 57.120, 58.395], data_file=path,
                         batch_size=4, crop_size=24, max_scale=2.0, min_scale=0.5, ignore_label=255, num_classes=21,
                         num_readers=2, num_parallel_calls=4)
    pipeline = dataset.get_dataset()
    assert pipeline.get_dataset_size() == 2
    for image, label in pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True):
        assert image.shape == (4, 3, 24, 24) and label.shape == (4, 24, 24)
        assert np.isfinite(image).all() and set(np.unique(label)) <= {*range(COUNT), 255}
    evaluated = batches(SegDataset(data_file=path, training=False))[0]
    assert [label.shape[1:] for _, label in evaluated] == [mask.shape for _, _, mask in pictures]
    for image, _ in evaluated:
        assert np.isfinite(image).all()
