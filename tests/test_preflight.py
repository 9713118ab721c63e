"""The preflight: its arithmetic by hand, its command for simulated devices and for a TPU slice."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from mla_jax import preflight as preflight_module
from mla_jax.config import files
from mla_jax.data.streams import Stream
from mla_jax.errors import UserError
from mla_jax.preflight import estimate, input_rate, preflight, programs, topologies, verdicts
from mla_jax.preflight.program_text import Collective, Product
from mla_jax.preflight.report import to_json, to_markdown
from tests.conftest import TINY

ROOT = pathlib.Path(__file__).parents[1]
V5E, V4 = topologies.CHIPS["v5e"], topologies.CHIPS["v4"]
TINY_CHIP = topologies.Chip(100.0, 1000, 10.0, 5.0, 2, 4, 8, 2.0, "nowhere")
"""Peaks that are easy to divide by."""


@pytest.fixture(scope="module", autouse=True)
def devices():
    """JAX has looked for devices, so that no test changes how many there are."""
    return jax.devices()


# ---- Arithmetic ---------------------------------------------------------------------------------


def test_hops():
    """A line of n has n - 1 between its ends, a ring half of n."""
    assert [estimate.axis_hops(n, 4) for n in (1, 2, 3, 4, 8)] == [0, 1, 2, 2, 4]


def test_an_all_reduce_on_v5e_4x4():
    """Two passes of 3 + 3 hops of 1 us; no ring, so one link of 50 GB/s on each of two axes."""
    small = Collective("all-reduce", 0, "")
    assert estimate.collective_seconds(small, (4, 4), V5E) == pytest.approx(12e-6)
    gradients = Collective("all-reduce", 22_000_000, "")
    expected = 12e-6 + 2 * 22e6 / 100e9
    assert estimate.collective_seconds(gradients, (4, 4), V5E) == pytest.approx(expected)


def test_other_collectives_and_slices():
    gather = Collective("all-gather", 1_000_000, "")
    rings = 3 * 2e-6 + 1e6 / (3 * 2 * 50e9)  # v4:4x4x4 has three rings of four
    assert estimate.collective_seconds(gather, (4, 4, 4), V4) == pytest.approx(rings)
    assert estimate.collective_seconds(gather, (2, 1, 1), V4) == pytest.approx(1e-6 + 1e6 / 50e9)
    assert estimate.collective_seconds(gather, (1, 1), V5E) == 0


def test_a_phase_and_a_batch():
    none = estimate.phase_seconds(200, 40, [], (1, 1), TINY_CHIP)
    assert none == (2.0, 4.0, 0.0) and none.step == 4.0
    other = estimate.Seconds(3.0, 1.0, 0.5)
    assert estimate.total([none, other]) == (5.0, 5.0, 0.5)
    assert estimate.step_seconds([none, other]) == 4.0 + 3.5
    assert estimate.total([]) == (0, 0, 0)


def test_the_batch_from_which_collectives_are_not_longer():
    """4 examples on a device compute for 0.5 ms; 0.9 ms of collectives need 7.2, so 8 of them."""
    seconds = estimate.Seconds(0.5e-3, 0, 0.9e-3)
    assert estimate.balanced_batch(64, 16, seconds) == 8 * 16
    assert estimate.balanced_batch(64, 16, estimate.Seconds(0.5e-3, 0, 0.5e-3)) == 64
    assert estimate.balanced_batch(64, 16, estimate.Seconds(0.0, 0, 1.0)) is None


def test_what_a_host_feeds():
    found = estimate.feed(8000, 4, 1e6, 3, 100)
    assert found == (2000, 2e9, 6000, 20)
    assert estimate.feed(8000, 4, 1e6, 3, None).cores is None


# ---- What a core reads and decodes --------------------------------------------------------------

STREAMS = {
    "audio": Stream("spectrogram", (1024, 128, 1)),
    "video": Stream("clip", (6, 256, 256, 3)),
    "flow": Stream("flow", (3, 256, 256, 2)),
    "text": Stream("tokens", (256,)),
    "numbers": Stream("vector", (8,)),
}


def write_rates(path, **rates):
    rows = [{"recipe": name, "loaded": rate, "workers": 2} for name, rate in rates.items()]
    path.write_text(json.dumps({"rows": rows}))
    return str(path)


def test_rates_of_a_benchmark(tmp_path):
    """Of one worker; six frames take twice the time of three, and flow has two JPEG per frame."""
    path = write_rates(tmp_path / "x.json", spectrogram=4000, clip=200, text=8000)
    seconds = 1 / 2000 + 2 / 100 + 2 / 100 + 1 / 4000
    assert input_rate.parse(path, STREAMS).per_core == pytest.approx(1 / seconds)
    assert [input_rate.jpegs(stream) for stream in STREAMS.values()] == [0, 6, 6, 0, 0]
    assert input_rate.parse("250", STREAMS).per_core == 250
    with pytest.raises(UserError, match="nothing to read and decode: leave out --input_rate"):
        input_rate.parse(path, {"numbers": STREAMS["numbers"]})


def test_rates_that_cannot_be_used(tmp_path):
    path = write_rates(tmp_path / "x.json", clip=200)
    (tmp_path / "y.json").write_text("[]")
    for text, sentence in {
        "-1": "must be a positive number",
        path: "has no rate for the recipe 'spectrogram'",
        str(tmp_path / "y.json"): "is not such a file",
        str(tmp_path / "z.json"): "No such file or directory",
    }.items():
        with pytest.raises(UserError, match=sentence):
            input_rate.parse(text, {"audio": STREAMS["audio"]})


def test_a_rate_measured_here(monkeypatch):
    monkeypatch.setattr(input_rate, "SECONDS", 0.0)
    found = input_rate.measure({"text": STREAMS["text"]})
    assert found.per_core > 0 and found.source.startswith("measured here")
    with pytest.raises(UserError, match="leave out --measure_input"):
        input_rate.measure({"numbers": STREAMS["numbers"]})


# ---- Topologies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v5:2x2", "v5e", "v5e:", "v5e:2by2", "gpu:8", ""])
def test_an_unknown_topology(name):
    with pytest.raises(UserError, match=r"unknown topology .* known are v4:2x2x1, .* or cpu:N"):
        topologies.create_target(name)


@pytest.mark.parametrize(("name", "form"), [("v4:2x2", "v4:XxYxZ"), ("v5e:2x2x2", "v5e:XxY"),
                                            ("cpu:2x2", "cpu:N"), ("cpu:0", "cpu:N")])  # fmt: skip
def test_a_topology_of_another_form(name, form):
    with pytest.raises(UserError, match=f"write {form}; known are"):
        topologies.create_target(name)


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not installed: pip install -e '\.\[tpu\]'"):
        topologies.create_target("v5e:2x2")


def test_more_devices_than_jax_has():
    with pytest.raises(UserError, match="JAX has started with 8 CPU devices: repeat it in a new"):
        topologies.create_target("cpu:64")


def test_the_list_has_every_chip():
    header, rows, below = topologies.table()
    assert [row[0] for row in rows] == list(topologies.CHIPS) == list(topologies.EXAMPLES)
    assert all(len(row) == len(header) for row in rows)
    assert all(any(line.startswith(f"  {name}: ") for line in below) for name in topologies.CHIPS)


# ---- Reports ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    """Of the tiny configuration on four simulated devices."""
    return preflight(files.load_config(TINY), "cpu:4")


def test_simulated_devices(report):
    assert report.fits and report.batch_per_device == 16
    assert [c.label for c in report.programs] == [
        "alternate/audio", "alternate/text", "evaluation", "initialisation",
    ]  # fmt: skip
    for compiled in report.programs[:2]:
        assert compiled.collectives()["all-reduce"][0] >= 1
        assert compiled.text.conditionals == compiled.text.loops_with_products == 0
        assert programs.donated_share(compiled) == 1
    mine, others = programs.of_encoders(report.programs[0].text, report.encoders)
    assert mine and others and all("Mlp" in product.where for product in mine)
    assert report.stages == () and report.feed is None
    assert [v.kind for v in report.verdicts] == ["fits"]
    json.dumps(to_json(report), allow_nan=False)
    assert "## Estimated" not in to_markdown(report)


def on_a_chip(report, chip=TINY_CHIP, **changes):
    """The report as if the devices were such chips."""
    return report._replace(target=report.target._replace(chip=chip), **changes)


def verdicts_of(report):
    return {verdict.kind: verdict for verdict in verdicts.verdicts(report)}


def test_a_program_that_is_larger_than_the_memory(report):
    found = verdicts_of(on_a_chip(report))
    assert not found["does not fit"].fits and "fits" not in found
    assert "GiB of HBM: lower --config" in found["does not fit"].text


SENTENCES = {
    "Ran out of memory on HBM, the total memory required for HLO temporaries (48.00G) exceeds "
    "available HBM (15.75G).": 48 * 2**30,
    "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.50G of "
    "15.75G hbm.": int(17.5 * 2**30),
    "something else": None,
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_xla_says_of_too_large_a_program(sentence, report):
    def lower():
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {sentence}\nand much more")

    compiled = programs.compile_one("alternate", "audio", lower)
    assert compiled.problem == sentence and compiled.needed == SENTENCES[sentence]
    found = on_a_chip(report, V5E, programs=(compiled, *report.programs[1:]))
    assert not verdicts_of(found)["does not fit"].fits
    assert "does not fit" in to_markdown(found) and sentence in json.dumps(to_json(found))


def test_other_errors_of_the_compiler_are_not_hidden():
    def lower():
        raise jax.errors.JaxRuntimeError("INTERNAL: a defect")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a defect"):
        programs.compile_one("alternate", "audio", lower)


def test_a_program_that_breaks_what_the_step_promises(report):
    """A branch, a loop with products, half of the state donated, an encoder in float32."""
    first = report.programs[0]
    text = first.text._replace(
        conditionals=1, loops_with_products=2, donated=frozenset(),
        products=tuple(
            Product("f32", precision, 1.0, f"jit(f)/jvp(Mlp)/Dense_{i}/dot_general")
            for i, precision in enumerate(("default", "highest"))
        ),
    )  # fmt: skip
    config = files.load_config(TINY)
    config.compute_dtype = "bfloat16"
    from mla_jax.config import fields

    broken = on_a_chip(
        report, V5E, programs=(first._replace(text=text),), config=fields.resolve(config)
    )
    said = [v.text for v in verdicts.verdicts(broken) if v.kind == "program"]
    for words in (
        "has 1 conditionals",
        "has 2 loops",
        "donates 0%",
        "multiplies 1 of 2 convolutions",
    ):
        assert any(words in text for text in said), said
    whole = on_a_chip(report, V5E, programs=report.programs[1:2])
    assert [v for v in verdicts.verdicts(whole) if v.kind == "program"] == []


def test_too_few_examples_for_the_devices():
    config = files.load_config(TINY)
    config.batch_size = 2
    found = preflight(config, "cpu:4")
    assert not found.fits and found.programs == ()
    (verdict,) = found.verdicts
    assert verdict.kind == "too small a batch" and "--config.batch_size=4" in verdict.text
    assert "0.5 per device" in to_markdown(found)
    json.dumps(to_json(found), allow_nan=False)


def test_places_name_layers_once():
    found = [Collective("all-reduce", 4, f"jit(f)/jvp(Net)/BatchNorm_{i}/sum") for i in range(3)]
    found.append(Collective("all-reduce", 4, "jit(f)/head/sum"))
    assert programs.places(found) == {"BatchNorm_*/sum": 3, "head/sum": 1}


# ---- The command --------------------------------------------------------------------------------


def test_the_command_on_simulated_devices(commands, tmp_path):
    options = [f"--config={TINY}:modalities=audio", "--topology=cpu:4"]
    options += [f"--workdir={tmp_path / 'x'}", "--method=unimodal"]
    done = commands.run("mla_jax.preflight", options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Preflight: unimodal on digits, cpu:4\n")
    assert (tmp_path / "x" / "preflight.md").read_text() in done.stdout
    found = json.loads((tmp_path / "x" / "preflight.json").read_text())
    assert found["topology"]["devices"] == 4 and found["fits"] and found["method"] == "unimodal"
    small = commands.run("mla_jax.preflight", [*options, "--config.batch_size=2"])
    assert small.returncode == 1 and "too small a batch" in small.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --topology=NAME"),
        (["--topology=v5e:2y2"], "unknown topology 'v5e:2y2'"),
        (["--topology=cpu:4", "--examples=0"], "--examples=0 must be at least 1"),
        (["--topology=cpu:4", "--method=nla"], "did you mean 'mla'?"),
        (["--topology=cpu:4", "--input_rate=x.json"], "leave out --input_rate"),
        (["--topology=cpu:4", "--input_rate=1", "--measure_input"], "input rate: leave out one"),
        (["--topology=cpu:3"], "batch_size=64 does not divide among 3 devices"),
        (["--topology=cpu:4", "--workdir=README.md"], "README.md is a file"),
        (["--topology=cpu:4", "--workdir=gs://bucket/x"], "this is written to a local folder"),
    ],
)
def test_mistakes(options, sentence, commands, tmp_path):
    options = [f"--config={TINY}", f"--workdir={tmp_path / 'x'}", *options]
    done = commands.run("mla_jax.preflight", options)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_list_needs_no_configuration(commands):
    done = commands.run("mla_jax.preflight", ["--topology=list"])
    assert done.returncode == 0 and "\n| v5e | 197 | 16 | 819 | 50 |" in done.stdout


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the compiler for TPUs is not installed: pip install -e '.[tpu]'",
)


def on_a_slice(config, folder):
    """What the command finds for ``v5e:2x2``, optimised as it would be for a user."""
    hasty = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    done = subprocess.run(
        [sys.executable, "-m", "mla_jax.preflight", f"--config={config}",
         "--topology=v5e:2x2", f"--workdir={folder}"],
        cwd=ROOT, env={k: v for k, v in os.environ.items() if k not in hasty},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "preflight.json").read_text())


@needs_libtpu
def test_attention_on_a_slice(tmp_path):
    """Matrix products of the transformers are in bfloat16; where a gradient of the scores stays in
    float32, no precision is named, so that a TPU multiplies it as bfloat16."""
    (tmp_path / "small.py").write_text(
        "from mla_jax.config import files\n"
        "def get_config(argument=None):\n"
        "    config = files.load_config('configs/food101.py:synthetic,modalities=image')\n"
        "    config.encoders = {'image': {'name': 'm3ae_image', 'size': 'tiny'}}\n"
        "    config.batch_size, config.feature_dim = 8, 64\n"
        "    return config\n"
    )
    found = on_a_slice(tmp_path / "small.py", tmp_path)
    phase, evaluation, _ = found["programs"]
    assert set(evaluation["products"]["encoders"]) == {"bf16"}
    encoders = phase["products"]["encoders"]
    assert set(encoders) == {"bf16", "f32"}  # none "f32 (high)" or "f32 (highest)"
    assert all("BTNH,BSNH->BNTS" in place for place in encoders["f32"]["places"])
    assert encoders["bf16"]["number"] > 4 * encoders["f32"]["number"]


@needs_libtpu
def test_digits_on_a_slice_of_four_chips(tmp_path):
    """What the TPU compiler makes of the steps: no branch, no loop, all of the state donated, the
    encoders in bfloat16; and what that means."""
    found = on_a_slice("configs/digits.py:modalities=image", tmp_path)
    assert found["topology"]["devices"] == 4 and found["compute_dtype"] == "bfloat16"
    phase, evaluation, initialisation = found["programs"]
    assert [p["name"] for p in found["programs"]] == ["image", "evaluation", "initialisation"]
    for program, convolutions in ((phase, 8), (evaluation, 3)):  # of three layers
        assert program["conditionals"] == program["loops"] == 0
        (dtype, products), *others = program["products"]["encoders"].items()
        assert (dtype, products["number"], others) == ("bf16", convolutions, [])
        assert program["flops"] > 1e6 and program["peak"] > 0 and program["collectives"]
    assert phase["donated"] >= 0.95
    assert initialisation["conditionals"] == 0
    kinds = [verdict["kind"] for verdict in found["verdicts"]]
    assert kinds == ["fits", "collectives longer than compute"]
    assert found["estimated"][0]["examples_per_second"] > 0


def test_statistics_per_device_are_those_of_the_slice():
    """Not of the devices of this machine, of which the tests have eight."""
    config = files.load_config(TINY, {"batch_norm": "device"})
    target = topologies.create_target("cpu:4")
    assert preflight_module.resolved_for(config, target).batch_norm_devices == 4
