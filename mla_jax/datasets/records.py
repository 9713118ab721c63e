"""Prepared examples on disk: TFDS ``array_record`` files, without TensorFlow.

A record is a ``tf.train.Example`` of TFDS features, so ``tfds.builder_from_directory`` reads the
folder too.  Pictures are JPEG or raw uint8, spectrograms float16, token ids int32.  ``index.json``
beside the records holds what a split needs without opening them: ids, labels, what is present.
"""

import concurrent.futures
import contextlib
import functools
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mla_jax import storage
from mla_jax.data.cores import usable_cores
from mla_jax.data.dataset import RESERVED_NAMES
from mla_jax.data.streams import Stream
from mla_jax.errors import UserError

if TYPE_CHECKING:  # preparing starts one process per core, and none of them needs JAX
    from mla_jax.state import Batch

VERSION = "1.0.0"
SPLIT = "all_examples"
INDEX = "index.json"
RESERVED = ("id", "label", "present", "aspect", *RESERVED_NAMES)
PICTURES = ("image", "clip", "flow")
IMAGES = ("jpeg", "raw")
"""How pictures are stored: JPEG files, or the uint8 of their pixels, which need no decoding."""
JPEG_QUALITY = 95
INDEX_KINDS = {
    **dict.fromkeys(("name", "fingerprint"), str),
    **dict.fromkeys(("streams", "groups", "lists"), dict),
    **dict.fromkeys(("classes", "shard_bytes", "ids", "label", "present", "aspect"), list),
}
"""What every ``index.json`` holds: types by name."""


def directory(data_dir: str, name: str, configuration: str) -> pathlib.Path:
    """Where TFDS looks for a data set: ``data_dir/name/configuration/version``."""
    return storage.place(data_dir).expanduser() / name / configuration / VERSION


def shard_name(name: str, shard: int, shards: int) -> str:
    return f"{name}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}"


def stored_shape(stream: Stream) -> tuple[int, ...]:
    """Of one record's array, before a spectrogram gets its channel."""
    return stream.shape[:-1] if stream.kind == "spectrogram" else stream.shape


# ---- Writing -------------------------------------------------------------------------------


def tfds_features(
    streams: Mapping[str, Stream], classes: Sequence[str], images: str = "jpeg"
) -> Any:
    """The ``tfds.features.FeaturesDict`` of a data set.

    JPEG pictures are sequences of images, empty where the modality is missing: flow alternates
    between its horizontal and its vertical component.  Raw ones are one array of the stream's
    shape, zeros where the modality is missing.
    """
    import tensorflow_datasets as tfds

    features = {
        "id": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=list(classes)),
        "present": tfds.features.Tensor(shape=(len(streams),), dtype=np.uint8, encoding="bytes"),
        "aspect": tfds.features.Tensor(shape=(len(streams),), dtype=np.float32, encoding="bytes"),
    }
    for modality, stream in streams.items():
        if stream.kind in PICTURES and images == "jpeg":
            *_, height, width, channels = stream.shape
            image = (height, width, 1 if stream.kind == "flow" else channels)
            features[modality] = tfds.features.Sequence(
                tfds.features.Image(shape=image, encoding_format="jpeg")
            )
        else:
            features[modality] = tfds.features.Tensor(
                shape=stored_shape(stream), dtype=np.dtype(stream.dtype), encoding="bytes"
            )
    return tfds.features.FeaturesDict(features)


def serialize(features: Any, example: Mapping[str, Any]) -> bytes:
    """The record of an example, the same bytes on every run.

    Protocol buffers order the entries of a map at random unless told otherwise.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    record = tf_example_pb2.Example.FromString(features.serialize_example(dict(example)))
    return record.SerializeToString(deterministic=True)


@contextlib.contextmanager
def open_shard(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    """A function that appends a record; the file appears when all went well, or not at all."""
    from array_record.python import array_record_module

    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    try:
        yield writer.write
    finally:
        writer.close()
    temporary.replace(path)


def write_tfds_metadata(
    folder: pathlib.Path, name: str, features: Any, shard_lengths: Sequence[int], size: int
) -> None:
    """``dataset_info.json`` and ``features.json``, from which TFDS reads the records."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=list(shard_lengths),
        num_bytes=size,
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[split], check_data=False
    )


# ---- Reading -------------------------------------------------------------------------------


def read_index(folder: pathlib.Path) -> dict[str, Any]:
    """The content of ``index.json``.

    Raises:
      UserError: it is damaged, or a file of records is missing or of another size.
    """
    again = "run prepare again, with --force if the raw files are still there"
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / INDEX} is damaged ({error}): {again}") from error
    for key, kind in INDEX_KINDS.items():
        if not isinstance(index, dict) or not isinstance(index.get(key), kind):
            raise UserError(f"{folder / INDEX} is damaged (no valid '{key}'): {again}")
    sizes = index["shard_bytes"]
    for shard, size in enumerate(sizes):
        path = folder / shard_name(index["name"], shard, len(sizes))
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{path} is missing or incomplete: {again}")
    return index


def stored_images(index: Mapping[str, Any]) -> str:
    """How the pictures of an ``index.json`` are stored: one of ``IMAGES``."""
    return index.get("settings", {}).get("images", "jpeg")


class RecordSplit:
    """A split of prepared examples, read from disk by number; as ``ArraySplit`` to the trainer.

    Batches also have ``aspect: float32[B, M]``, the width over the height that a picture had
    before it was stored (1 where it is none or missing).  A missing modality is zeros.
    """

    def __init__(
        self,
        paths: Sequence[str],
        rows: np.ndarray,
        streams: Mapping[str, Stream],
        label: np.ndarray,
        present: np.ndarray,
        aspect: np.ndarray,
        images: str = "jpeg",
    ):
        """``rows: int[N]``, the examples of the split among all records; the arrays are theirs.

        ``images``: one of ``IMAGES``, as ``stored_images`` says.
        """
        self.paths, self.rows, self.streams = list(paths), np.asarray(rows), dict(streams)
        self.label, self.present, self.aspect = label, present, aspect
        self.images = images

    @property
    def examples(self) -> int:
        return len(self.label)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one example of each modality."""
        return {modality: stream.shape for modality, stream in self.streams.items()}

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""
        return self.fetch_wanted(index, np.ones((len(index), len(self.streams)), bool))

    def fetch_wanted(self, index: np.ndarray, wanted: np.ndarray) -> "Batch":
        """``fetch`` with zeros, and nothing decoded, outside ``wanted: bool[B, M]``."""
        index = np.asarray(index, np.int32)
        records = self._source.__getitems__([int(row) for row in self.rows[index]])
        examples = list(self._threads.map(self._decode, records, wanted))
        return {
            "inputs": {m: np.stack([example[m] for example in examples]) for m in self.streams},
            "present": self.present[index],
            "label": self.label[index],
            "index": index,
            "valid": np.ones(index.shape, bool),
            "aspect": self.aspect[index],
        }

    @functools.cached_property
    def _source(self) -> Any:
        from array_record.python import array_record_data_source

        return array_record_data_source.ArrayRecordDataSource(self.paths)

    @functools.cached_property
    def _threads(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(min(8, usable_cores()))

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process opens its own files and threads."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_source", "_threads")}

    def _decode(self, record: bytes, wanted: np.ndarray) -> dict[str, np.ndarray]:
        from tensorflow_datasets.proto import tf_example_pb2

        features = tf_example_pb2.Example.FromString(record).features.feature
        return {
            modality: decode(stream, features[modality].bytes_list.value, self.images)
            if wants
            else np.zeros(stream.shape, stream.dtype)
            for (modality, stream), wants in zip(self.streams.items(), wanted, strict=True)
        }


def decode(stream: Stream, values: Sequence[bytes], images: str = "jpeg") -> np.ndarray:
    """What a record holds of one modality, as an array of the stream's shape and type."""
    if stream.kind not in PICTURES or images == "raw":
        return np.frombuffer(values[0], stream.dtype).reshape(stream.shape)
    if not values:
        return np.zeros(stream.shape, np.uint8)
    pictures = [decode_jpeg(value) for value in values]
    if stream.kind == "image":
        return pictures[0]
    if stream.kind == "clip":
        return np.stack(pictures)
    return np.stack([np.stack(pictures[i : i + 2], -1) for i in range(0, len(pictures), 2)])


def decode_jpeg(content: bytes) -> np.ndarray:
    """``uint8[H, W, 3]``, or ``uint8[H, W]`` of a grey one."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)))
