"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest

from bitship import targets
from bitship.graph.document import document

ROOT = Path(__file__).resolve().parents[1]


def test_the_op_reference_is_generated_from_the_op_table() -> None:
    assert (ROOT / "docs" / "integer_graph.md").read_text() == document()


@pytest.mark.parametrize(
    "path",
    sorted(p.relative_to(ROOT) for p in ROOT.glob("*.md"))
    + sorted(
        p.relative_to(ROOT) for p in ROOT.glob("*/**/*.md") if not p.parts[len(ROOT.parts)].startswith((".", "build"))
    ),
    ids=str,
)
def test_links_lead_somewhere(path: Path) -> None:
    text = (ROOT / path).read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / path).parent / link).exists(), f"{path}: {link}"


def test_every_target_named_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"--target ([\w-]+)|target=\"([\w-]+)\"", text):
        assert (name[0] or name[1]) in targets.names()
