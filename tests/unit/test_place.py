"""Where a shell is, as it is kept for the next one."""

import marshal

from forgefile.job import Job, View
from forgefile.model import Cache, Run
from forgefile.shell import Place


def test_a_place_comes_back_as_it_was():
    caches = Cache(name="debs", path="/run/forge/tmp/debs", downloads=True), Cache(name="ccache", path="/cache")
    step = Run(("/bin/sh", "-l"), root="/run/forge/out", env={"A": "b c"}, cwd="/srv", caches=caches, mounts=True)
    job = Job(
        target="root", store="/s", staging="", log="/dev/null", failed_as="root", steps=(step,),
        views=(View(at="/run/forge/in/base", layers=("1", "2")), View(at="/run/forge/src/a", host="/a", writable=True)),
        output="tree", epoch=1, programs=(("sh", "/bin/sh"),), base=("3",), hidden=("/opt/forge",),
    )  # fmt: skip
    place = Place(job, step)
    again = Place.of(marshal.loads(marshal.dumps(place.plain())))
    assert again == place
    assert again.job.steps[0] is again.step
