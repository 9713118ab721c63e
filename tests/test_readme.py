"""The README is short, and the Python of the README and of the pages runs as it is written."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from mla_jax import encoders

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
ELSEWHERE = ("representation.md",)
"""Its snippet needs arrays that ``test_representation.py`` makes."""
PAGES = [
    README,
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in ELSEWHERE),
]
SNIPPETS = {
    snippet: str(page.relative_to(ROOT))
    for page in reversed(PAGES)
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
}
"""Each once, with the page that has it; the README where it has it too."""
LINES = 200


@pytest.mark.parametrize("snippet", SNIPPETS, ids=SNIPPETS.values())
def test_a_snippet_of_the_pages(snippet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoders, "REGISTRY", dict(encoders.REGISTRY))
    names: dict = {}
    exec(compile(snippet, SNIPPETS[snippet], "exec"), names)
    if "run" in names:
        run, out = names["run"], names["out"]
        assert (out.classes == run.dataset().splits["test"].label).mean() == (
            run.result["test"]["fused"]
        )
        assert out.weights.shape == (950, 2)
    elif "Mine" in names:
        chosen = names["config"].encoders
        made = encoders.create_encoders(chosen, ("image",), 8, jnp.float32)
        inputs = {"image": jnp.ones((2, 14, 14, 1))}
        params, stats = made.init(jax.random.key(0), inputs)
        assert params["image"]["Dense_0"]["kernel"].shape == (196, 64)
        out, _ = made.apply("image", params["image"], stats["image"], inputs["image"], True)
        assert out.shape == (2, 8)
    else:
        assert names["weights"].shape == (8, 2)


def test_the_pages_have_snippets():
    assert sorted(SNIPPETS.values()) == [
        "README.md",
        "docs/how-to/own-encoder.md",
        "docs/how-to/own-method.md",
    ]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= LINES
