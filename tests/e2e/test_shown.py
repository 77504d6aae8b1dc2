"""What the pages show is run: each block of commands, and each command in the text, in a project with those targets."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from forgefile import cli
from forgefile.errors import ForgeError
from tests.e2e.conftest import COMMAND, PREAMBLE, REPOSITORY, Project

pytestmark = pytest.mark.xdist_group("shown")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
TUTORIAL = "docs/index.md"
"""Is run as a whole, with the real tools, by tests/system/test_tutorial.py; and so is what README.md has of it."""
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if path != REPOSITORY / TUTORIAL
}
ELSEWHERE = {
    "boot": "starts a machine",
    "shell": "waits for a person",
    "watch": "waits for a change",
    "completion zsh": "tests/e2e/test_completion.py",
    "completion fish": "tests/e2e/test_completion.py",
    "init": "in a folder of its own, below",
}
"""Commands that are not run here, and why not."""
NO_FORGE = ("pip install", "sudo ", "scripts/", ".venv/bin/python benchmarks/", "python3 -m venv", ". .venv/")
"""How lines begin that set up a machine."""
BODY = (
    'suite = forge.option("suite", "bookworm", choices=("bookworm", "trixie"))',
    'rootfs = forge.target("rootfs", Root(extra=suite))',
    'packages = forge.target("packages", Change(base=rootfs, line="echo installing; echo new >$OUT/etc/packages"))',
    'system = forge.target("system", Overlay(base=packages, source=forge.source("overlay")))',
    'tuned = forge.target("tuned", Script(base=system, script=forge.source("tune.sh")))',
    'disk = forge.target("disk.img", Pack(tree=tuned))',
    'forge.target("arm64/disk.img", Pack(tree=tuned))',
    'forge.target("disk.qcow2", Shell(line="cat $1", inputs=(disk,)))',
    "forge.default(disk)",
)
"""What most pages speak of. What else their Forgefiles declare is there too, as some file."""
DECLARED = {name for text in PAGES.values() for name in re.findall(r'forge\.target\("([^"]+)"', text)}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A project that has what the pages speak of, built."""
    if os.geteuid():
        pytest.skip("forge needs root for now")
    made = Project(tmp_path_factory.mktemp("shown") / "first")
    made.write("overlay/etc/motd", "Welcome.\n")
    made.write("old.img", "an earlier disk\n")
    made.write("tune.sh", "#!/bin/sh\ntouch /etc/tuned\n", mode=0o755)
    others = sorted(name for name in DECLARED if f'"{name}"' not in "".join(BODY))
    more = [f'forge.target("{name}", Shell(line="echo"))' for name in others]
    made.forgefile(*BODY, *more, preamble=PREAMBLE.replace("Command, Overlay", "Command, Overlay, Pack"))
    made.write("bin/forge", f'#!/bin/sh\nexec {COMMAND[0]} -m forgefile "$@"\n', mode=0o755)
    made.env["PATH"] = f"{made.root}/bin:{os.environ['PATH']}"
    build(made)
    return made


def build(stage: Project) -> None:
    """Build all, in so many builds that there is a history."""
    for name in ("rootfs", "packages", "system", "tuned", "disk.img", "arm64/*", "disk.qcow2", "*"):
        stage.forge(name)


def run(stage: Project, folder: Path, script: str) -> None:
    for exported in stage.root.glob("*.tar"):  # nothing is exported over anything
        exported.unlink()
    if "forge diff" in script:  # which needs a result before the present one, lest 'forge gc' was shown meanwhile
        stage.forge("-D", "suite=trixie", "*")
        stage.forge("*")
    argv = ("bash", "-eo", "pipefail", "-c", script)
    ended = subprocess.run(
        argv, cwd=folder, env=stage.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, f"{script}\n{ended.stdout}{ended.stderr}"


def why_not(line: str) -> str:
    """Return why a line is not run, or nothing."""
    words = re.sub(r"\s+#.*", "", line)
    return next((why for verb, why in ELSEWHERE.items() if re.search(rf"\bforge( -\S+)* {verb}\b", words)), "")


def lines(text: str) -> list[str]:
    """Return the lines of a block that are run here."""
    kept = [line for line in text.splitlines() if not line.startswith(NO_FORGE) and not why_not(line)]
    return list(map(asking, kept))


def asking(line: str) -> str:
    """Return a line of which the status 1 is an answer as well."""
    return f"{line.partition('  #')[0]} || [ $? = 1 ]" if line.startswith(("forge doctor", "forge diff")) else line


BLOCKS = [(page, match[3]) for page, text in PAGES.items() for match in BLOCK.finditer(text) if match[2] == "sh"]
TOLD = {told for text in PAGES.values() for told in re.findall(r"`(forge [^`\n]+)`", BLOCK.sub("", text))}


def is_whole(command: str) -> bool:
    """Tell whether a command in the text can be given as it is, and is not too slow to be given again."""
    if re.search(r"\b(?!FORGE)[A-Z]{2,}\b|…|--help|\bverify\b|\bdoctor\b", command) or why_not(command):
        return False
    verb, rest = cli._verb(shlex.split(command.partition("|")[0])[1:])
    try:
        cli._parser(verb).parse_intermixed_args(rest)
    except ForgeError:
        return False
    return True


@pytest.mark.parametrize("page", sorted({page for page, text in BLOCKS if any(lines(text))}))
def test_a_page_can_be_followed(stage, page):
    for number, text in enumerate(text for each, text in BLOCKS if each == page and "forge init" not in text):
        if script := "\n".join(lines(text)):
            run(stage, stage.root, f"# {page}, block {number}\n{script}")
        if "--all" in text:
            build(stage)  # what followed was written for who did not remove it


@pytest.mark.parametrize("command", sorted(filter(is_whole, TOLD)))
def test_a_command_in_the_text_works(stage, command):
    stage.forge("*")
    run(stage, stage.root, asking(command))


@pytest.mark.parametrize("command", [
    line.partition("  #")[0] for page, text in BLOCKS for line in text.splitlines()
    if page == "docs/commands.md" and line.startswith("forge init")
])  # fmt: skip
def test_a_project_can_be_begun(stage, tmp_path, command):
    run(stage, tmp_path, f'{command}\ntest -n "$(find . -name Forgefile.py)"')


def test_the_front_page_has_the_commands_of_the_tutorial():
    shown = (REPOSITORY / TUTORIAL).read_text()
    followed = {line for match in BLOCK.finditer(shown) if match[2] == "sh" for line in match[3].splitlines()}
    (begun,) = (text for page, text in BLOCKS if page == "README.md" and "forge init" in text)
    assert set(begun.splitlines()) <= followed
    assert all(shlex.split(line) for line in followed)
