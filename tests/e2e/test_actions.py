"""A job of GitHub Actions: the real command with the runner's variables, its log and its annotations."""


def test_a_job_of_github_actions(project):
    """Every line is told, in a group; what programs print is no command; secrets are hidden."""
    project.env = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(project.root.parent), "TOKEN": "correct-horse"}
    line = project.forgefile(
        "token = forge.secret('token', env='TOKEN')",
        "forge.target('a', Noisy(line='seq 3; echo ::error::no; cat $1; echo > $OUT', inputs=(token,)))",
        "forge.target('b', Noisy(line='exit 3'))",
    )
    ended = project.forge("-k", status=1)
    log = ended.out.splitlines()
    begin = next(n for n, told in enumerate(log) if told.startswith("::group::built a in "))
    assert log[begin + 2 : log.index("::endgroup::")] == ["1", "2", "3", "| ::error::no", "***"]
    name = project.root.name
    assert f"::error file={name}/Forgefile.py,line={line + 2},title=b failed::exit status 3" in log
    assert "correct-horse" not in ended.out + ended.err

    project.forgefile("forge.target('a', Noisy(lines='x'))")
    err = project.forge(status=2).err.splitlines()
    assert err[-1].startswith(f"::error file={name}/Forgefile.py,line={line}::")
