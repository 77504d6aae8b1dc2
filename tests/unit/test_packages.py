"""The packages of a tree, from the lists in its layers."""

import os

import pytest

from forgefile.page.packages import Package, packages


def layer(folder, *paragraphs):
    path = folder / "var/lib/dpkg/status"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(paragraphs))
    return str(folder)


def told(name, version, kib, status="install ok installed", architecture="amd64"):
    return (
        f"Package: {name}\nStatus: {status}\nInstalled-Size: {kib}\nArchitecture: {architecture}\n"
        f"Version: {version}\nDescription: words\n Version: 0\n .\n more: words\n"
    )


def test_each_package_belongs_to_the_layer_that_put_its_version_there(tmp_path):
    low = layer(tmp_path / "1", told("libc6", "2.36", 12_000), told("vim", "9.0", 3000), told("sed", "4.9", 900))
    none = tmp_path / "2"
    none.mkdir()
    high = layer(tmp_path / "3", told("libc6", "2.36", 12_000), told("vim", "9.1", 3100),
        told("nano", "7", 50), told("gone", "1", 5, "deinstall ok config-files"))  # fmt: skip
    assert packages([low, str(none), high]) == [
        Package("libc6", "2.36", 12_000 << 10, 0),
        Package("vim", "9.1", 3100 << 10, 2),
        Package("nano", "7", 50 << 10, 2),
    ]


def test_two_architectures_are_two_packages(tmp_path):
    both = layer(tmp_path / "1", told("libc6", "1", 2), told("libc6", "1", 1, architecture="i386"))
    assert [package.size for package in packages([both])] == [2048, 1024]


def test_a_layer_may_take_the_list_away(tmp_path):
    low = layer(tmp_path / "1", told("libc6", "1", 2))
    if os.geteuid():
        pytest.skip("only root makes whiteouts")
    (tmp_path / "2/var/lib").mkdir(parents=True)
    os.mknod(tmp_path / "2/var/lib/dpkg", 0o020000, 0)
    assert packages([low, str(tmp_path / "2")]) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n\n: \n", b"Package: x\n", b"Status: install ok installed\n"])
def test_odd_lists_have_no_packages(tmp_path, content):
    folder = layer(tmp_path / "1")
    (tmp_path / "1/var/lib/dpkg/status").write_bytes(content)
    assert packages([folder]) == []


def test_layers_that_are_gone_or_hold_odd_things_have_none(tmp_path):
    (tmp_path / "1/var/lib/dpkg/status").mkdir(parents=True)
    (tmp_path / "2/var").mkdir(parents=True)
    (tmp_path / "2/var/lib").symlink_to("/var/lib")
    os.mkfifo(tmp_path / "pipe")
    assert packages([str(tmp_path / name) for name in ("1", "2", "pipe", "nowhere")]) == []
    assert packages([]) == []
