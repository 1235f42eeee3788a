"""MindRecord files -> batches, for training and for evaluation."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

import mindspore.dataset as ds
import numpy as np

from mindfcn import runtime
from mindfcn.config import AugmentConfig
from mindfcn.console import FilePath
from mindfcn.data import transforms
from mindfcn.data.class_counts import ClassCounts, histogram, repeats
from mindfcn.data.multilabel import decode_multilabel
from mindfcn.data.pipeline import Pipeline
from mindfcn.data.records.integrity import count_records, record_columns, record_files
from mindfcn.data.records.mindrecord import FAILURES, first_line, read_manifest
from mindfcn.data.samples import check_numbers, decode_mask, decode_plane, in_threads
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.preprocess import COURSE, Preprocess
from mindfcn.storage.images import decode_image


class SegDataset:
    """The course's data set class, with a seed and an evaluation mode.

    Args:
        image_mean, image_std: three numbers each, BGR, on the 0..255 scale; not used if `preprocess` is given.
        data_file: MindRecord file.
        batch_size: images per batch; always 1 in evaluation, because sizes differ.
        crop_size: side of the training crops, pixels; 0 gives complete photographs, one per batch, neither scaled nor
            flipped (the published training).
        max_scale, min_scale: bounds of the random scale.
        ignore_label: label of padding, and of pixels that do not count.
        num_classes: number of classes.
        num_readers: threads that read records.
        num_parallel_calls: threads that decode and augment.
        training: True for random crops, shuffled, without the last incomplete batch; False for complete images at
            native size, in the records' order.
        flip: mirror half of the training crops.
        vertical_flip: turn half of the training crops upside down.
        rotate, rare_crops: rotation and placement of training crops; see `AugmentConfig`.
        pipeline: YAML file of an albumentations pipeline for training crops; "" is none.
        photometric: strength of random colour changes of training crops, 0..1; see `transforms.jitter_colors`.
        max_class_share, crop_tries: bound on one class's share of a crop; see `AugmentConfig`.
        shorter_side, repeat_rare: size of the photographs and repetition of rare classes; see `AugmentConfig`.
        seed: the same seed gives the same batches in every epoch, for any number of threads; None draws a seed.
        preprocess: normalisation that belongs to the weights; its modality decides which planes are read.
        first_epoch, skip_batches: epoch and batch, from 0, at which a resumed run continues.
        rank, rank_size: this device's number and the number of devices that share the records.
        limit: number of records to use, evenly spread over all; 0 uses all.
        geometric: read the second mask as well; labels are then (N, 2, H, W).
        multilabel: classes overlap; labels are then (N, num_classes, H, W) of 0, 1 and the ignore label.

    Raises:
        UserError: no such records, a column missing that the network needs, fewer records than one batch, or
            impossible settings.
    """

    def __init__(self, image_mean: Sequence[float] = COURSE.mean, image_std: Sequence[float] = COURSE.std,
                 data_file: FilePath = "", batch_size: int = 32, crop_size: int = 512, max_scale: float = 2.0,
                 min_scale: float = 0.5, ignore_label: int = 255, num_classes: int = 21, num_readers: int = 2,
                 num_parallel_calls: int = 4, *, training: bool = True, flip: bool = True, vertical_flip: bool = False,
                 rotate: float = 0.0, rare_crops: float = 0.0, pipeline: str = "", photometric: float = 0.0,
                 max_class_share: float = 1.0, crop_tries: int = 10, shorter_side: int = 0, repeat_rare: float = 0.0,
                 seed: Optional[int] = None, preprocess: Optional[Preprocess] = None, first_epoch: int = 0,
                 skip_batches: int = 0, rank: int = 0, rank_size: int = 1, limit: int = 0,
                 geometric: bool = False, multilabel: bool = False) -> None:
        if not 0 < min_scale <= max_scale:
            raise UserError(f"scales from {min_scale} to {max_scale}: need 0 < min_scale <= max_scale")
        whole = {"batch_size": batch_size, "crop_size": crop_size, "rank": rank, "rank_size": rank_size,
                 "seed": seed or 0}
        for name, value in whole.items():
            if not isinstance(value, (int, np.integer)):
                raise UserError(f"{name} {value!r}: give a whole number")
        if not 0 <= rank < rank_size or not 0 <= whole["seed"] < 2 ** 32:
            raise UserError(f"rank {rank} of {rank_size}, seed {seed}: ranks are 0 to rank_size - 1, and seeds 0 to "
                            "2^32 - 1")
        if batch_size < 1 or crop_size < 0:
            raise UserError(f"batch size {batch_size} must be at least 1, and crop size {crop_size} at least 0")
        if training and crop_size == 0 and batch_size > 1:
            raise UserError(f"batch size {batch_size}: crop size 0 takes whole photographs, which differ in size; "
                            "use batch size 1")
        self.preprocess = preprocess or Preprocess("BGR", image_mean, image_std)
        self.geometric, self.multilabel = geometric, multilabel
        self.path, self.files = os.fspath(data_file), record_files(data_file)
        self.stamps = [_stamp(file) for file in self.files]
        # `prepare` has checked every mask; records of other programs may hold any number.
        self.validated = read_manifest(data_file) is not None
        missing = [column for column in self.columns if column not in record_columns(data_file)]
        if missing:
            raise UserError(f"{data_file} has no column {missing[0]!r}, which {self.preprocess.modality} with these "
                            "labels needs; prepare records of a source that has it")
        count = count_records(data_file)
        self.selected = evenly_spaced(count, limit) if limit else range(count)
        self.count = len(self.selected)
        self.batch_size = batch_size
        self.augment = AugmentConfig(crop_size=crop_size, min_scale=min_scale, max_scale=max_scale, flip=flip,
                                     vertical_flip=vertical_flip, rotate=rotate, rare_crops=rare_crops,
                                     pipeline=pipeline,
                                     photometric=photometric, max_class_share=max_class_share, crop_tries=crop_tries,
                                     shorter_side=shorter_side, repeat_rare=repeat_rare, batch_size=batch_size,
                                     workers=num_parallel_calls)
        self.pipeline = None
        if training and pipeline:
            self.pipeline = Pipeline(pipeline, ignore_label, self.preprocess, crop_size)
        self.ignore_label = ignore_label
        self.num_classes = num_classes
        self.num_readers = _threads(num_readers)
        self.num_parallel_calls = _threads(num_parallel_calls)
        self.training = training
        self.seed = np.random.randint(2 ** 31) if seed is None else seed
        self.first_epoch = first_epoch
        self.skip_batches = skip_batches
        self.rank = rank
        self.rank_size = rank_size
        # Number of the record that each crop of an epoch is cut from.
        self.sources = np.arange(self.count)
        if training and repeat_rare:
            times = repeats(self._present(), repeat_rare, np.random.default_rng(self.seed))
            self.sources = np.repeat(self.sources, times)
        if training and self.steps_per_epoch == 0:
            raise UserError(f"{data_file} holds {self.count} records, fewer than one batch of {batch_size} on each of "
                            f"{rank_size} device(s); use a smaller batch size")

    @classmethod
    def for_training(cls, data_file: FilePath, augment: AugmentConfig, labels: LabelSet, preprocess: Preprocess,
                     seed: int, geometric: bool = False) -> "SegDataset":
        """Training crops of this process's share of the records.

        Args:
            data_file: MindRecord file.
            augment: AugmentConfig of the crops, with the batch size and the number of threads.
            labels: LabelSet of the masks.
            preprocess: normalisation that belongs to the weights.
            seed: draws the order of the records and the crops.
            geometric: read the second mask as well.
        """
        crops = dataclasses.asdict(augment)
        return cls(data_file=data_file, num_parallel_calls=crops.pop("workers"), num_classes=len(labels),
                   ignore_label=labels.ignore_label, preprocess=preprocess, seed=seed, rank=runtime.rank(),
                   rank_size=runtime.rank_size(), geometric=geometric, multilabel=labels.multilabel, **crops)

    @classmethod
    def for_evaluation(cls, data_file: FilePath, card: Any, limit: int = 0) -> "SegDataset":
        """This process's share of the records that a network is evaluated on, at native size.

        Args:
            data_file: MindRecord file.
            card: Card of the network, with its classes and the planes of its images.
            limit: number of records to use, evenly spread over all; 0 uses all.
        """
        return cls(data_file=data_file, training=False, preprocess=card.preprocess, num_classes=len(card.labels),
                   ignore_label=card.labels.ignore_label, rank=runtime.rank(), rank_size=runtime.rank_size(),
                   limit=limit, geometric=bool(card.geometric), multilabel=card.labels.multilabel)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a batch is made from."""
        planes = ["data" if plane == "image" else plane for plane in self.preprocess.planes]
        return [*planes, "label", *(["geometric"] if self.geometric else [])]

    @property
    def steps_per_epoch(self):
        """Number of batches in one epoch on one device."""
        if not self.training:
            return len(self._share())
        return len(self.sources) // self.rank_size // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """(n,) int64: numbers of the crops, among `sources`, that this device cuts in an epoch, in their order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.sources))
        return order[self.rank::self.rank_size][:self.steps_per_epoch * self.batch_size]

    def batch_names(self, epoch: int, step: int) -> list[str]:
        """File names of the batch at `step` (from 0) of `epoch` (from 0)."""
        records = self.sources[self.order(epoch)[step * self.batch_size:(step + 1) * self.batch_size]].tolist()
        return [str(name) for name, in self._read(["file_name"], records)]

    def names(self) -> list[str]:
        """File names of all records, in their order."""
        return [str(name) for name, in self._read(["file_name"])]

    def samples(self, records: Iterable[int]) -> Iterator[tuple[str, bytes, np.ndarray]]:
        """Yield (file name, encoded photograph, mask as in `photographs`) of the records with these numbers."""
        records = [int(record) for record in records]
        for name, image, label in self._read(["file_name", "data", "label"], records) if records else ():
            yield str(name), image.tobytes(), self._mask(label.tobytes(), f"{name}'s mask in {self.files[0]}")

    def examples(self, records: Iterable[int]) -> Iterator[tuple]:
        """Yield (file name, photograph (H, W, 3) uint8 BGR, image as `to_input` takes it, mask, geometric mask or None)
        of the records with these numbers.
        """
        records = [int(record) for record in records]
        columns = list(dict.fromkeys(["file_name", "data", *self.columns]))
        for name, *row in self._read(columns, records) if records else ():
            row = dict(zip(columns[1:], (part.tobytes() for part in row)))
            photograph = decode_image(row["data"], str(name))
            image = {plane: decode_plane(plane, row[plane], f"{name}'s {plane}") for plane in self.preprocess.planes
                     if plane != "image"}
            mask, *second = (self._mask(row[column], f"{name}'s mask") for column in self.columns
                             if column in ("label", "geometric"))
            seen: Any = photograph if self.preprocess.modality == "rgb" else {"image": photograph, **image}
            yield str(name), photograph, seen, mask, *(second or [None])

    def bands(self) -> Iterator[np.ndarray]:
        """Yield the bands, (H, W, N), of all records. Raises UserError if two have different numbers of them."""
        first = None
        for name, data in self._read(["file_name", "bands"]):
            array = decode_plane("bands", data.tobytes(), f"{name}'s bands in {self.files[0]}")
            first = first or array.shape[2]
            if array.shape[2] != first:
                raise UserError(f"{name} has {array.shape[2]} bands and those before it {first}; give images of the "
                                "same bands")
            yield array

    def class_counts(self) -> ClassCounts:
        """ClassCounts of the masks of all records, including those of other devices."""
        counts = ClassCounts(self.num_classes)
        for pixels in self._histograms():
            counts.add(pixels)
        return counts

    def _present(self):
        """(count, classes) bool: which classes each record contains."""
        return np.array([pixels[:self.num_classes] > 0 for pixels in self._histograms()])

    def _histograms(self):
        """Iterate over the histograms (256,) of the masks of all records, in their order."""
        labels = (_bytes(label) for label, in self._read(["label"]))
        where = f"a mask in {self.files[0]}"
        return in_threads(lambda label: histogram(self._mask(label, where), self.ignore_label), labels,
                          self.num_parallel_calls)

    def _mask(self, data, where):
        """Decode a column of masks. Raises UserError."""
        return decode_multilabel(data, self.num_classes, where) if self.multilabel else decode_mask(data, where)

    @contextlib.contextmanager
    def _reading(self):
        """Raise a UserError that names the file where MindSpore fails to read records."""
        try:
            yield
        except FAILURES as error:
            missing = [part for file in self.files for part in (file, f"{file}.db") if not os.path.isfile(part)]
            if missing:
                raise UserError(f"{missing[0]} has vanished; check the disk or mount, bring it back and start again"
                                ) from None
            raise UserError(f"cannot read {', '.join(self.files)}: {first_line(error)}; check the disk, or prepare the "
                            "records again") from None

    def preprocess_dataset(self, image: Any, label: Any, random: Any = np.random) -> tuple[np.ndarray, np.ndarray]:
        """Decode an image and its mask and cut one training crop; with crop size 0, keep the complete photograph.

        Returns:
            image (3, crop, crop) float32, normalised; label (crop, crop) int32.
        """
        return self._crop((image, label), random) if self.augment.crop_size else self._complete(image, label)

    def get_dataset(self) -> ds.Dataset:
        """The pipeline of (data, label) batches: float32 (N, C, H, W) and int32 (N, H, W), or with several masks."""
        if not self.training:
            return self._evaluation_dataset(self._complete).batch(1)
        dataset = ds.GeneratorDataset(_Epochs(self), ["data", "label"], shuffle=False, python_multiprocessing=False)
        # The source has no __len__: MindSpore refuses epochs of another length, and a resumed epoch is shorter.
        dataset.dataset_size = self.steps_per_epoch
        dataset.copy_batch_size(self.batch_size)
        return dataset

    def photographs(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield (image, mask) of each record that this device evaluates, in their order.

        The image is (H, W, 3) uint8 BGR, or planes as `to_input` takes them; the mask is uint8: (H, W), with a second
        one (H, W, 2), or the bands (H, W, C) of overlapping classes.
        """
        with self._reading(), runtime.unwrap_user_errors():
            if self.preprocess.modality == "rgb":
                rows = self._evaluation_dataset(self._decode)
            else:
                # A MindSpore column holds one array, not a dictionary of planes.
                rows = self._rows(self.columns, None if self.rank_size == 1 else self._share())
            for row in rows.create_tuple_iterator(num_epochs=1, output_numpy=True):
                self.check_unchanged()
                yield row if self.preprocess.modality == "rgb" else self._decode(*row)

    def check_unchanged(self) -> None:
        """Raise UserError if the records have been replaced since this data set was opened."""
        for file, stamp in zip(self.files, self.stamps):
            if stamp != _stamp(file) and os.path.isfile(file):
                raise UserError(f"{file} was replaced while it was in use; start again, so that all images are of the "
                                "same records")

    def _evaluation_dataset(self, read):
        dataset = self._rows(self.columns, None if self.rank_size == 1 else self._share())
        return dataset.map(read, self.columns, ["data", "label"], num_parallel_workers=self.num_parallel_calls)

    def _share(self):
        """Numbers of the records that this device evaluates."""
        return range(self.rank, self.count, self.rank_size)

    def _complete(self, *row):
        image, label = self._decode(*row)
        label = np.moveaxis(label, -1, 0) if label.ndim == 3 else label
        return transforms.to_input(image, self.preprocess), label.astype(np.int32)

    def _batch(self, epoch, rows):
        """Make (data, label) of a batch from rows of (crop number, columns ...)."""
        if self.augment.crop_size == 0:
            (_, *row), = rows
            return tuple(array[None] for array in self._complete(*row))
        side = self.augment.crop_size
        data = np.empty((len(rows), self.preprocess.channels, side, side), np.float32)
        planes = [self.num_classes] if self.multilabel else [2] if self.geometric else []
        label = np.empty((len(rows), *planes, side, side), np.int32)
        # Each crop has its own seed, so the number of threads and their timing change nothing.
        for (number, *row), *out in zip(rows, data, label):
            self._crop(row, np.random.RandomState([self.seed, epoch, number]), out)
        return data, label

    def _crop(self, row, random, out=None):
        image, label = self._decode(*row)
        return transforms.augment(image, label, random, self.augment, self.preprocess, self.ignore_label, out,
                                  self.pipeline)

    def _decode(self, *row):
        """Decode the columns to (image as `transforms` takes it, mask as in `photographs`). Raises UserError."""
        planes, source = self.preprocess.planes, self.files[0]
        image = {plane: decode_plane(plane, data.tobytes(), f"an image in {source}")
                 for plane, data in zip(planes, row)}
        masks = [self._mask(label.tobytes(), f"a mask in {source}") for label in row[len(planes):]]
        height, width = masks[0].shape[:2]
        for array in (*image.values(), *masks):
            if array.shape[:2] != (height, width):
                raise UserError(f"an image in {source} is {array.shape[1]}x{array.shape[0]} pixels but its mask "
                                f"{width}x{height}; prepare the records again")
        if "bands" in image and image["bands"].shape[2] != self.preprocess.channels:
            raise UserError(f"an image in {source} has {image['bands'].shape[2]} bands, the network takes "
                            f"{self.preprocess.channels}; give images of its bands")
        if not self.validated:
            check_numbers(masks[0], self.num_classes, self.ignore_label, f"in {source}")
        if self.preprocess.modality == "rgb":
            image = image["image"]
        return image, np.stack(masks, -1) if self.geometric else masks[0]

    def _read(self, columns, records=None):
        # MindSpore's sampler takes at most as many numbers as there are records.
        parts = [None] if records is None else [records[start:start + self.count]
                                                for start in range(0, len(records), self.count)]
        with self._reading():
            for part in parts:
                yield from self._rows(columns, part).create_tuple_iterator(num_epochs=1, output_numpy=True)

    def _rows(self, columns, records=None):
        """MindDataset of columns of the records with these numbers, counted among the selected ones; None reads all."""
        read_all = records is None and isinstance(self.selected, range)
        order = {"shuffle": False} if read_all else {"sampler": ds.SubsetSampler(
            [self.selected[record] for record in (range(self.count) if records is None else records)])}
        return ds.MindDataset(self.files, columns_list=columns, num_parallel_workers=self.num_readers, **order)


def evenly_spaced(count, limit):
    """Up to `limit` of the numbers 0..count - 1, evenly spread, as a list."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int)).tolist()


class _Epochs:
    """Iterate over the batches of successive epochs, each in its own order; one thread makes one batch."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.epoch = dataset.first_epoch
        self.skip = dataset.skip_batches * dataset.batch_size

    def __iter__(self):
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        order = self.dataset.order(epoch)[skip:]
        rows = ((number, *map(_bytes, row)) for number, row in
                zip(order.tolist(), self.dataset._read(self.dataset.columns, self.dataset.sources[order].tolist())))
        threads = self.dataset.num_parallel_calls
        ahead = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            while batch := list(itertools.islice(rows, self.dataset.batch_size)):
                self.dataset.check_unchanged()
                ahead.append(pool.submit(self.dataset._batch, epoch, batch))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def _stamp(file):
    """What changes if another file gets this name, or None if there is no file."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _bytes(column):
    return np.frombuffer(column.tobytes(), np.uint8)


def _threads(count):
    return max(1, min(count, os.cpu_count() or 1))
