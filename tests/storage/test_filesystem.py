from collections.abc import Callable
from pathlib import Path

import pytest

from queue_max import ConfigurationError
from queue_max.storage import filesystem
from queue_max.storage.directory import Directory

OpenDirectory = Callable[..., Directory]

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/export /srv nfs4 rw 0 0
tmpfs /srv/scratch tmpfs rw 0 0
//nas/a\\040b /mnt/a\\040b cifs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/queue", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/queue/data", "nfs4"),
        ("/srvice", "ext4"),
        ("/srv/scratch/data", "tmpfs"),
        ("/mnt/a b/data", "cifs"),
    ],
)
def test_the_nearest_mount_decides(folder: str, kind: str, mounts: Path) -> None:
    assert filesystem.kind_of(Path(folder), mounts) == kind


def test_a_link_leads_to_where_it_points(tmp_path: Path, mounts: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/srv")
    assert filesystem.kind_of(link / "data", mounts) == "nfs4"


def test_where_nobody_says_what_is_mounted_nothing_is_known(tmp_path: Path) -> None:
    assert filesystem.kind_of(Path("/srv"), tmp_path / "none") is None


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"])
def test_what_lies_over_a_network_is_known(kind: str) -> None:
    assert filesystem.is_over_a_network(kind)


@pytest.mark.parametrize("kind", [None, "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "apfs"])
def test_what_is_local_may_hold_a_queue(kind: str | None) -> None:
    assert not filesystem.is_over_a_network(kind)


def test_a_queue_is_not_opened_over_a_network(
    open_directory: OpenDirectory, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "kind_of", lambda _folder: "nfs4")
    with pytest.raises(ConfigurationError, match=r"DATA_DIR=.*network file system \(nfs4\)"):
        open_directory().open(None)
    assert not data_dir.exists()
