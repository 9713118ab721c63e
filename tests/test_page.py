"""comparison.html: it holds all rows and runs, needs no network, and nothing in it breaks it."""

import html
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from mla_jax.compare import page, page_runs
from mla_jax.compare.page_runs import RunFolder
from tests.comparisons import HOSTILE, build, embedded, labels, write_run

FUSED = (0.75, 0.125, 0.5)


@pytest.fixture
def comparison(tmp_path):
    return build(tmp_path, FUSED)


def written(path: pathlib.Path, comparison: dict, **options) -> str:
    page.write(path, comparison, **options)
    return (path / "comparison.html").read_text(encoding="utf-8")


def test_every_row_and_seed_is_there(tmp_path, comparison):
    text = written(tmp_path, comparison)
    mla = [f"mla:projection.alpha={i}" for i in (0, 2, 1)]  # the best first
    assert labels(text) == ["unimodal", *mla]
    data = embedded(text)
    assert [row["label"] for row in data["rows"]] == ["unimodal", *mla]
    alone, best, *_ = data["rows"]
    found = [(run["part"], run["seed"], run["folder"]) for run in alone["runs"]]
    assert found == [(m, s, f"unimodal-{m}/seed{s}") for m in ("image", "audio") for s in (0, 1)]
    assert list(alone["runs"][0]["accuracy"]["test"]["y"]) == ["image"]
    for row in data["rows"][1:]:
        assert [run["seed"] for run in row["runs"]] == [0, 1]
    run, folder = best["runs"][1], tmp_path / best["runs"][1]["folder"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]
    assert run["loss"]["x"] == [1, 2, 3] and run["chosen"] == 3 and run["every"] == 1
    for name in ("image", "audio"):
        told = [line["train"][f"{name}/loss"] for line in lines]
        assert run["loss"]["y"][name] == pytest.approx(told, rel=1e-3)
    for split in ("validation", "test"):
        told = [line[split]["fused"] for line in lines]
        assert run["accuracy"][split]["y"]["fused"] == pytest.approx(told, rel=1e-3)
    counts = json.loads((folder / "confusion.json").read_text())["audio"]
    cells = run["confusion"]["audio"]["cells"]
    assert sum(cells[2::3]) == sum(map(sum, counts))
    assert all(counts[i][j] == n for i, j, n in zip(*[iter(cells)] * 3, strict=True))
    for fact in (comparison["date"], "abc1234", "jax 0.10.2", "1 x cpu", "0.750 ± 0.000"):
        assert fact in text


def test_it_needs_no_network_and_escapes_everything(tmp_path, comparison):
    text = written(tmp_path, comparison)
    assert (
        "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    )
    assert re.findall(r'(?:src|href)="([^"]{,22})', text) == ["data:image/png;base64,"]
    assert "@import" not in text and "default-src 'none'" in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img src=x" not in text and html.escape(comparison["command"]) in text
    assert embedded(text)["classes"] == [["zero", "one", HOSTILE]]
    comparison["rows"][1]["label"] = HOSTILE
    text = written(tmp_path, comparison, runs={})
    assert text.count("<script") == 2 and labels(text)[1] == HOSTILE and "<img src=x" not in text
    assert embedded(text)["rows"][1] == {"label": HOSTILE, "runs": []}


@pytest.mark.parametrize(("epochs", "classes"), [(60, 10), (300, 45), (30, 120)])
def test_it_stays_small(tmp_path, epochs, classes):
    """24 rows and three seeds, four modalities: what does not fit is left out, and said to be."""
    modalities, names = ("image", "audio", "text", "flow"), [f"class {i}" for i in range(classes)]
    found = build(tmp_path, [(i + 1) / 32 for i in range(23)], (0, 1, 2), modalities, names, epochs)
    text = written(tmp_path, found)
    assert len(text.encode()) < 2_000_000
    data = embedded(text)
    assert len(data["rows"]) == 24 and all(len(row["runs"]) >= 3 for row in data["rows"])
    run = data["rows"][1]["runs"][0]
    assert run["loss"]["x"][-1] == run["accuracy"]["test"]["x"][-1] == epochs  # the last is kept
    assert (run["every"] > 1) == (epochs == 300) and (data["matrices"] < 2) == (classes == 45)
    if classes == 120:
        counts = run["confusion"]["fused"]
        assert len(counts["mistakes"]) == 3 * len(counts["totals"]) == 3 * page_runs.MOST_MISTAKES
        assert all(
            i != j for i, j in zip(counts["mistakes"][::3], counts["mistakes"][1::3], strict=True)
        )


DAMAGE = [
    None,
    "",
    "nothing\n",
    "[1]\n",
    '{"step": 1}\n',
    "null\n",
    '{"config": 3, "fused": [[1]]}',
]
DAMAGE += ['{"step": 1, "epoch": 1, "train": 2, "test": {"macro_f1": null, "fused": "x"}}\n']
DAMAGE += ['{"fused": [[1, 2], [3]], "selection": null, "class_names": 2}']


@pytest.mark.parametrize("content", DAMAGE)
@pytest.mark.parametrize("name", ["metrics.jsonl", "confusion.json", "config.json", "data.json"])
def test_what_is_missing_or_damaged_is_left_out(tmp_path, name, content):
    comparison = build(tmp_path, FUSED[:1], seeds=(0,))
    for folder in tmp_path.glob("mla*/seed0"):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_text(content)
        (folder / "result.json").unlink()
    (tmp_path / "comparison.png").unlink()
    text = written(tmp_path, comparison)
    assert "There is no comparison.png" in text
    (run,) = embedded(text)["rows"][1]["runs"]
    assert run["chosen"] == 0
    if name == "metrics.jsonl":
        assert run["loss"] is None and run["accuracy"] == {} and run["confusion"]
    else:
        assert run["loss"]["x"] == [1, 2, 3]
    assert embedded(text)["rows"][0]["runs"][0]["loss"]["x"] == [1, 2, 3]


def test_runs_may_lie_elsewhere(tmp_path, comparison):
    elsewhere = tmp_path / "other" / "run"
    write_run(elsewhere, 7, ["fused", "image"], ["a", "b"], 2)
    label = comparison["rows"][1]["label"]
    (tmp_path / "page").mkdir()
    text = written(tmp_path / "page", comparison, runs={label: [RunFolder(7, "", elsewhere)]})
    rows = embedded(text)["rows"]
    assert [len(row["runs"]) for row in rows] == [0, 1, 0, 0]
    assert rows[1]["runs"][0]["folder"] == elsewhere.as_posix()


def test_configuration_differences():
    configs = {
        "unimodal": [{"modalities": ["a"], "epochs": 3}, {"modalities": ["b"], "epochs": 3}],
        "mla": [{"modalities": ["a", "b"], "epochs": 3, "method.name": "mla", "method.x": ""}],
        "lost": [{}],
    }
    assert page_runs.differences(configs) == {
        "method.name": {"mla": "mla"},
        "method.x": {"mla": '""'},
        "modalities": {"unimodal": "a | b", "mla": "a, b"},
    }
    assert page_runs.differences({"a": [{"x": 1}], "b": [{"x": 1}]}) == {}
    text = page.differences_html(["mla", "<b>"], {"x": {"<b>": "<i>"}})
    assert "&lt;b&gt;" in text and "&lt;i&gt;" in text and "–" in text


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0.983 ± 0.006", "0.983"),
        ("25,980", "25980"),
        ("[0.977, 0.988]", "0.977"),
        ("–", ""),
        ("nan", ""),
        ("-1.5e-3", "-1.5e-3"),
    ],
)
def test_what_cells_are_sorted_by(cell, value):
    assert page.sort_value(cell) == value


CLICKS = """
<pre id="clicked"></pre><script>
const seen = {};
const all = (selector, root) => [...(root || document).querySelectorAll(selector)];
const order = () => all("table.sortable tbody tr").map((r) => Number(r.dataset.row));
const head = (name) => all("table.sortable thead button").find((b) => b.textContent === name);
const panel = () => document.getElementById("run");
seen.before = order();
for (const name of ["fused", "parameters", "method"]) {
  head(name).click();
  seen[name] = order();
  seen[name + " sorted"] = head(name).parentNode.getAttribute("aria-sort");
  head(name).click();
  seen[name + " again"] = order();
}
document.querySelector("tr[data-row='2'] td").click();
seen.chosen = all("tr.chosen").map((r) => Number(r.dataset.row));
seen.folder = panel().querySelector("code").textContent;
panel().querySelectorAll(".seeds button")[1].click();
seen.seed = panel().querySelector("code").textContent;
const drawn = (chart, what) => all(what, chart).length;
seen.charts = all(".chart", panel()).map((chart) => [
  chart.querySelector("h3").textContent, drawn(chart, "path"), drawn(chart, "circle"),
]);
seen.matrices = all(".matrix", panel()).length;
seen.classes = all("tbody th", panel().querySelector(".matrix")).map((t) => t.textContent);
document.querySelector("tr[data-row='0'] button").click();
const part = panel().querySelectorAll("select")[1];
part.value = "audio";
part.dispatchEvent(new Event("change"));
seen.part = panel().querySelector("code").textContent;
seen.images = document.images.length;
seen.title = document.title;
document.getElementById("clicked").textContent = JSON.stringify(seen);
</script>"""


def test_a_browser_sorts_and_shows_runs(tmp_path, comparison):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not browser:
        pytest.skip("no chromium on PATH: nobody clicked on the page")
    path = tmp_path / "clicked.html"
    path.write_text(written(tmp_path, comparison).replace("</body>", CLICKS + "</body>"))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    command = [browser, *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="clicked">(.*?)</pre>', done.stdout, re.S)
    assert found and found[1], done.stderr
    seen = json.loads(html.unescape(found[1]))
    # Rows as written: unimodal, then MLA by fused accuracy; its labels are alpha 0, 2, 1.
    assert seen["before"] == [0, 1, 2, 3]
    assert seen["fused"] == [1, 2, 3, 0] and seen["fused sorted"] == "descending"
    assert seen["fused again"] == [3, 2, 1, 0]  # a row without the figure stays last
    # 58,000 for the two halves of unimodal, 39,000, 29,000 and 14,000
    assert seen["parameters"] == [0, 1, 2, 3] and seen["parameters again"] == [3, 2, 1, 0]
    assert seen["method"] == [1, 3, 2, 0] and seen["method sorted"] == "ascending"
    assert seen["method again"] == [0, 2, 3, 1]
    assert seen["chosen"] == [2]
    assert re.fullmatch(r"mla-projection.alpha-2.0-\w{8}/seed0", seen["folder"])
    assert seen["seed"] == seen["folder"].replace("seed0", "seed1")
    charts = [["train: loss", 2, 6], ["validation: accuracy", 3, 9], ["test: accuracy", 3, 9]]
    assert seen["charts"] == charts and seen["matrices"] == 3
    assert seen["classes"] == ["zero", "one", HOSTILE]
    assert seen["part"] == "unimodal-audio/seed1"
    assert seen["images"] == 1 and seen["title"] == "Methods on digits"
