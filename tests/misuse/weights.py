"""Weights: pickles that run code, files that are cut short, tensors that are missing or misshapen."""

import json
import pickle
import shutil
import struct
import zipfile

import numpy as np
import safetensors.numpy

from tests.misuse.case import Case

INIT = "main --config=small.py --config.init_from="
ONE = np.ones((4, 4), np.float32)


class Forbidden:
    """A pickle that would remove a folder when it is loaded."""

    def __reduce__(self):
        return shutil.rmtree, ("data",)


def tensors(**found: np.ndarray) -> bytes:
    return safetensors.numpy.save({name.replace("__", "/"): value for name, value in found.items()})


def convert(name: str, content: object, holds: str, sentence: str = "?", **options: str) -> Case:
    """A conversion of the file ``w.NAME`` into a folder."""
    extra = "".join(f" --{key}={value}" for key, value in options.items())
    return Case(
        f"convert --from=w.{name} --to=weights{extra}",
        sentence,
        files={f"w.{name}": content},
        holds=f"w.{name}: {holds}",
    )


def initial(content: object, holds: str, sentence: str = "?") -> Case:
    """A training that starts from ``w.safetensors``."""
    return Case(
        INIT + "w.safetensors",
        sentence,
        files={"w.safetensors": content},
        holds=f"w.safetensors: {holds}",
    )


def header(fields: object) -> bytes:
    """A safetensors file of a header and no tensors."""
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


def zipped(path) -> None:
    """What PyTorch writes is a zip file; this one holds a forbidden pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Forbidden(), 2))
        file.writestr("archive/version", "3\n")


LAYER = tensors(
    params__encoder__a__projection__kernel=ONE, params__encoder__a__projection__bias=ONE[0]
)
FOLDER = {"w/variables.safetensors": tensors(params__encoder__a__kernel=ONE)}
MANIFEST = {
    "format": 2,
    "backbones": {},
    "towers": {},
    "heads": {},
    "prefix": "",
    "conventions": {},
    "tensors": {"params/encoder/a/kernel": [4, 4]},
}


def folder(
    manifest: object,
    holds: str,
    sentence: str = "?",
    typed: str = "convert --from=w --to=w.safetensors",
) -> Case:
    """A converted directory whose manifest is ``manifest``."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    return Case(
        typed,
        sentence,
        files={**FOLDER, "w/manifest.json": text},
        holds=f"w/manifest.json: {holds}",
    )


def checkpoint(path: str, holds: str, sentence: str = "?") -> Case:
    """A finished run, a file of whose chosen checkpoint is cut, is evaluated."""
    return Case(
        "evaluate --run=run --epoch=last",
        sentence,
        files={"run/checkpoints": cut(path)},
        holds=holds,
        needs_run=True,
    )


def cut(pattern: str):
    def change(folder) -> None:
        newest = max(folder.iterdir(), key=lambda path: int(path.name))
        (path,) = newest.glob(pattern)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


CASES = {
    # ---- Pickles -------------------------------------------------------------------------------
    "pth_forbidden": convert("pth", pickle.dumps(Forbidden()), "a pickle that calls shutil.rmtree", sentence="w.pth is not a readable PyTorch checkpoint: it is damaged"),
    "pth_forbidden_zip": convert("pth", zipped, "a PyTorch file that calls shutil.rmtree", sentence="w.pth is refused: it refers to shutil.rmtree, which no"),
    "pth_empty": convert("pth", b"", "empty", sentence="w.pth is not a readable PyTorch checkpoint: it is damaged"),
    "pth_text": convert("pth", "hello\n", "text", sentence="w.pth is not a readable PyTorch checkpoint: it is damaged"),
    "pth_list": convert("pth", pickle.dumps([1, 2]), "a pickled list", sentence="w.pth is not a readable PyTorch checkpoint: it is damaged"),
    "pkl_forbidden": convert("pkl", pickle.dumps(Forbidden()), "a pickle that calls shutil.rmtree", sentence="w.pkl is refused: it refers to shutil.rmtree, which no"),
    "pkl_empty": convert("pkl", b"", "empty", sentence="w.pkl is not a readable pickle: Ran out of input"),
    "pkl_cut": convert("pkl", pickle.dumps({"state": list(range(100))})[:50], "50 bytes of a pickle", sentence="w.pkl is not a readable pickle: pickle data was truncated"),
    "pkl_list": convert("pkl", pickle.dumps([1, 2]), "a pickled list", sentence="w.pkl is not a checkpoint of M3AE: it has no parameters"),
    "pkl_endless": convert("pkl", b"\x80\x04" + b"(" * 100_000 + b".", "100,000 marks", sentence="w.pkl is not a readable pickle: unexpected MARK found"),
    # ---- Safetensors ---------------------------------------------------------------------------
    "safetensors_empty": convert("safetensors", b"", "empty", sentence="w.safetensors is not a readable safetensors file: Error"),
    "safetensors_text": convert("safetensors", "hello\n", "text", sentence="w.safetensors is not a readable safetensors file: Error"),
    "safetensors_cut": convert("safetensors", tensors(a=ONE)[:-8], "cut by 8 bytes", sentence="w.safetensors is not a readable safetensors file: Error"),
    "safetensors_huge_header": convert("safetensors", struct.pack("<Q", 2**60) + b"{}", "a header of 2^60 bytes", sentence="w.safetensors is not a readable safetensors file: Error"),
    "safetensors_no_tensor": convert("safetensors", header({}), "no tensor", sentence="w.safetensors holds no tensor: name another file"),
    "safetensors_beyond": convert("safetensors", header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}), "a tensor beyond its end", sentence="w.safetensors is not a readable safetensors file: Error"),
    "unknown_layout": convert("safetensors", tensors(weight=ONE), "a tensor 'weight'", sentence="w.safetensors is neither a classifier of the reference"),
    "resnet_lacks_layers": convert("safetensors", tensors(**{"conv1.weight": np.ones((64, 3, 7, 7), np.float32), "layer1.0.conv1.weight": ONE}), "two tensors of a ResNet-18", modalities="image", sentence="w.safetensors does not hold the expected tensors: 98"),
    "resnet_without_name": convert("safetensors", tensors(**{"conv1.weight": np.ones((64, 3, 7, 7), np.float32), "layer1.0.conv1.weight": ONE}), "two tensors of a ResNet-18", sentence="this checkpoint is for one modality (a ResNet-18 without"),
    "ignored_nothing": convert("safetensors", tensors(weight=ONE), "a tensor 'weight'", ignore="fc.*", sentence="w.safetensors has no tensor that matches the ignored"),
    "own_names": convert("safetensors", tensors(params__encoder__a__kernel=ONE), "tensors of a run", sentence="w.safetensors holds the weights of a run under our own"),
    "unknown_ending": convert("bin", b"\x00", "a byte", sentence="w.bin is not a readable PyTorch checkpoint: it is damaged"),
    "convention": convert("safetensors", tensors(weight=ONE), "a tensor 'weight'", convention="theirs", sentence="w.safetensors is neither a classifier of the reference"),
    # ---- Converted directories -----------------------------------------------------------------
    "folder_without_manifest": Case("convert --from=w --to=w.safetensors", "w is not a converted checkpoint: it has no manifest.json", files=FOLDER, holds="w: no manifest.json"),
    "manifest_text": folder("hello", "hello", sentence="w/manifest.json is not a manifest of mla_jax.convert"),
    "manifest_list": folder([], "[]", sentence="w/manifest.json is not a manifest of mla_jax.convert"),
    "manifest_shallow": folder({}, "{}", sentence="w/manifest.json is not a manifest of mla_jax.convert"),
    "manifest_format": folder({**MANIFEST, "format": 9}, "format 9", sentence="w/manifest.json has format 9; this version reads 2"),
    "manifest_other_tensors": folder({**MANIFEST, "tensors": {}}, "no tensors", sentence="w: manifest.json does not describe variables.safetensors;"),
    "manifest_towers": folder({**MANIFEST, "towers": []}, "towers: []", sentence="w does not hold the expected tensors: 1 unexpected"),
    "manifest_backbone": folder({**MANIFEST, "backbones": {"a": "vgg"}, "towers": {"a": ""}}, "backbone vgg", sentence="unknown backbone in the manifest of w 'vgg': known:"),
    "folder_with_options": folder(MANIFEST, "sound", typed="convert --from=w --to=w.pth --modalities=a", sentence="w is already converted: its tensors are written as they"),
    "folder_to_itself": folder(MANIFEST, "sound", typed="convert --from=w --to=w/variables.safetensors", sentence="--to=w/variables.safetensors is a file of --from=w: name"),
    # ---- First weights -------------------------------------------------------------------------
    "init_nothing": Case(INIT + "nowhere", "no checkpoint at nowhere"),
    "init_text": initial("hello\n", "text", sentence="w.safetensors is not a readable safetensors file: Error"),
    "init_cut": initial(tensors(params__encoder__a__projection__kernel=ONE)[:-8], "cut by 8 bytes", sentence="w.safetensors is not a readable safetensors file: Error"),
    "init_stranger": initial(tensors(params__encoder__c__kernel=ONE), "an encoder for c", sentence="w.safetensors holds an encoder for c, but this run has a,"),
    "init_missing": initial(tensors(params__encoder__a__kernel=ONE), "one tensor of another name", sentence="w.safetensors, encoder 'a', does not hold the expected"),
    "init_shape": initial(tensors(params__encoder__a__projection__kernel=np.ones((5, 4), np.float32), params__encoder__a__projection__bias=ONE[0]), "a kernel of 5 x 4", sentence="w.safetensors, encoder 'a', does not hold the expected"),
    "init_type": initial(tensors(params__encoder__a__projection__kernel=ONE.astype(np.float16), params__encoder__a__projection__bias=ONE[0].astype(np.float16)), "float16", sentence="w.safetensors, encoder 'a', does not hold the expected"),
    "init_nan": initial(tensors(params__encoder__a__projection__kernel=ONE * np.nan, params__encoder__a__projection__bias=ONE[0]), "NaN", sentence="w.safetensors holds NaN or infinity in encoder 'a'"),
    "init_twice": Case(INIT + "w.safetensors,w.safetensors", "w.safetensors,w.safetensors: two of these checkpoints", files={"w.safetensors": LAYER}, holds="w.safetensors: an encoder for a"),
    "init_conflict": initial(tensors(params__encoder__a=ONE, params__encoder__a__projection__kernel=ONE), "a tensor called as a group", sentence="w.safetensors holds tensors that no run has, such as"),
    "init_metadata": initial(safetensors.numpy.save({"params/encoder/a/kernel": ONE}, {"conventions": "{"}), "a header that is no JSON", sentence="the header of w.safetensors is damaged: convert the run"),
    "init_metadata_list": initial(safetensors.numpy.save({"params/encoder/a/kernel": ONE}, {"conventions": "[]"}), "a header of another form", sentence="the header of w.safetensors is damaged: convert the run"),
    "init_deep": initial(tensors(params__encoder=ONE), "a tensor called params/encoder", sentence="w.safetensors holds tensors that no run has, such as"),
    "init_empty_folder": Case(INIT + "w", "w is not a converted checkpoint: it has no", files={"w": lambda path: path.mkdir()}, holds="w: an empty folder"),
    # ---- Checkpoints ---------------------------------------------------------------------------
    "checkpoint_arrays": checkpoint("state/d/*", "the arrays of the newest checkpoint: half", sentence="checkpoint 4 of run/checkpoints cannot be used, it is"),
    "checkpoint_manifest": checkpoint("state/manifest.ocdbt", "the manifest of the newest checkpoint: half", sentence="checkpoint 4 of run/checkpoints cannot be used, it is"),
    "checkpoint_metadata": checkpoint("state/_METADATA", "the metadata of the newest checkpoint: half", sentence="checkpoint 4 of run/checkpoints cannot be used, it is"),
    "checkpoint_progress": checkpoint("progress/manifest.ocdbt", "the progress of the newest checkpoint: half", sentence="checkpoint 4 of run/checkpoints cannot be used, it is"),
    "checkpoint_empty": Case("evaluate --run=run --epoch=last", "checkpoint 9 of run/checkpoints cannot be used, it is", files={"run/checkpoints/9/x": ""}, holds="run/checkpoints/9: no checkpoint", needs_run=True),
    "checkpoint_of_another_width": Case("export --run=run --to=x.stablehlo", "checkpoint run/checkpoints/2 cannot be read: its arrays", files={"run/config.json": lambda p: p.write_text(p.read_text().replace('"feature_dim": 4', '"feature_dim": 8'))}, holds="run/config.json: feature_dim: 8", needs_run=True),
}  # fmt: skip
# ruff: noqa: E501
