"""What the documents list is what the code says."""

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest

from edged.cli import _parser as edged_parser
from edged.models.transitions import Reason
from edged.operator.cli import _parser as edgectl_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PREFIXES = re.compile(r"(camera|broker|edgetpu)_[a-z_]+")
# Keys and names that look like reasons and are none.
NOT_REASONS = {"camera_config", "edgetpu_library"}


def reasons_in_code() -> set[str]:
    found = set()
    for path in (ROOT / "edged").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and len(node.args) > _slug_at(node.func) >= 0:
                first = node.args[_slug_at(node.func)]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and PREFIXES.fullmatch(node.value)
                and path.name not in {"config.py", "config_words.py", "config_rules.py"}
            ):
                found.add(node.value)
    slugs = {slug for slug in found if re.fullmatch(r"[a-z]+(_[a-z]+)+", slug)} - NOT_REASONS
    return slugs | {reason.value for reason in Reason}


def _slug_at(function: ast.expr) -> int:
    """Which argument of a call is a reason; -1 for none."""
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if name.endswith("Error"):
        return 0
    return {"Finding": 2, "Verdict": 1, "_no": 0}.get(name, -1)


def test_every_reason_is_explained_and_every_explained_one_exists() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text()
    listed = re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)

    assert len(listed) == len(set(listed))
    assert sorted(reasons_in_code()) == sorted(listed)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_no_blank_line_cuts_a_table(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = table.splitlines()
        assert re.fullmatch(r"[-:| ]+", lines[1 % len(lines)]), f"{page.name}: {lines[0]}"


PARSERS = {"edged": edged_parser, "edgectl": edgectl_parser}


def commands(page: Path) -> list[list[str]]:
    """The command lines of our programs in a page's shell blocks and sentences, as words."""
    found = []
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    # In sentences those with an option: a name such as `edged models` is no line to type.
    said = re.findall(r"`((?:edged|edgectl) [^`\[|]* -[^`\[|]*)`", text.replace("\n", " "))
    for block in [*blocks, *said]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                # Behind sudo and `docker exec edged` as well; a name among arguments is none.
                if word in PARSERS and words[start - 1 : start] in ([], ["sudo"], ["edged"]):
                    ends = [at for at, later in enumerate(words) if later in {"|", "&&", ";"}]
                    end = min([at for at in ends if at > start], default=len(words))
                    found.append(words[start:end])
                    break
    return found


def test_there_are_command_lines_to_be_tried() -> None:
    assert len([line for page in PAGES for line in commands(page)]) > 50


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_are_such_that_the_parsers_take(page: Path) -> None:
    for program, *words in commands(page):
        try:
            PARSERS[program]().parse_args(words)
        except SystemExit as end:
            assert not end.code, f"{page.name}: {program} {shlex.join(words)}"


def test_the_life_of_a_deployment_is_drawn_from_the_tables() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "state-diagram"))
    page = (ROOT / "docs" / "deployment.md").read_text()

    assert page.count("<!-- generated:") == 3
    assert script["generated"](page) == page
    assert "stateDiagram-v2" in page


def test_the_readme_names_the_commands() -> None:
    readme = (ROOT / "README.md").read_text()

    for command in ("scripts/demo", "scripts/test", "edged run", "edged check-config",
                    "edged snapshot", "edged doctor", "edged status", "edged models list",
                    "edged deployments"):  # fmt: skip
        assert command in readme
