"""The rule `Script`: a script of the user's, run in a tree or beside it."""

from collections.abc import Iterable, Mapping

from forgefile.model import Artifact, Copy, Rule, Run, Sandbox, Source, Step, Tree


class Script(Rule):
    """Run a script in a tree, or on the host beside it; what it changes in the tree is the layer.

    - `base`: the tree.
    - `script`: the script, a source. Its first line (`#!`) says what runs it; without one, sh does.
    - `arguments`: given to the script; artifacts stand for their paths.
    - `inputs`: further artifacts that the script reads, at `$FORGE_INPUTS/NAME` of targets,
      `$FORGE_SOURCES/PATH` and `$FORGE_SECRETS/NAME`.
    - `where`: `tree` (default): the tree is the script's root, with /proc, /sys, /dev and a private /tmp, and services
      do not start; `host`: the script runs with the host's programs, read-only, and finds the tree at `$TREE`.
    - `environment`: variables for the script, beside PATH, HOME, LC_ALL=C.UTF-8, TZ=UTC and SOURCE_DATE_EPOCH.
    - `network`: whether the script may use the network; default no.
    - `mounts`: whether the script may mount, seen by nobody else; then it can make no device nodes; default no.
    - `jobserver`: whether make(1), run by the script without a `-j` of its own, uses the idle cores; default no.
    - `tools`: host programs that a script on the host uses, so that a change to one of them rebuilds.

    Make the script repeatable: the same inputs should give the same files.
    """

    output = "tree"

    base: Tree
    script: Source
    arguments: tuple[str | Artifact, ...] = ()
    inputs: tuple[Artifact, ...] = ()
    where: str = "tree"
    environment: Mapping[str, str] = {}
    network: bool = False
    mounts: bool = False
    jobserver: bool = False
    tools: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse an unknown place to run."""
        if self.where not in ("tree", "host"):
            raise self.refuse("where", f"is {self.where!r}; expected 'tree' or 'host'")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Copy the script so that it may be executed, and run it."""
        program = f"{box.tmp}/script"
        yield Copy(box.path(self.script), program, mode=0o755)
        words = (word if isinstance(word, str) else box.path(word) for word in self.arguments)
        paths = {"FORGE_INPUTS": f"{box.prefix}/in", "FORGE_SOURCES": f"{box.prefix}/src", "FORGE_TMP": box.tmp}
        paths["FORGE_SECRETS"] = f"{box.prefix}/secret"
        if self.where == "host":
            paths["TREE"] = box.out
        yield Run(
            (program, *words),
            root=box.out if self.where == "tree" else None,
            env={**paths, **self.environment},
            network=self.network,
            mounts=self.mounts,
            jobserver=self.jobserver,
            tools=self.tools,
        )
