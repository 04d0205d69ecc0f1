"""What kind of file system a folder lies on: over a network, SQLite's locks and shared memory fail.

See https://sqlite.org/wal.html ("does not work over a network filesystem").
"""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")

_OVER_A_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "coda", "davfs", "ncpfs", "9p"),
    *("beegfs", "ceph", "gfs2", "glusterfs", "gpfs", "lustre", "ocfs2"),
    *("fuse.ceph-fuse", "fuse.glusterfs", "fuse.gcsfuse", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
}


def kind_of(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Name the type of the file system that a folder, made or not, lies on; None: nobody says."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:  # not on Linux
        return None
    place = folder.resolve()
    kinds: dict[Path, str] = {}  # what is mounted later covers what was before
    for line in lines:
        _device, point, kind, *_options = line.split(" ")
        kinds[Path(_unescaped(point))] = kind
    return next((kinds[each] for each in (place, *place.parents) if each in kinds), None)


def is_over_a_network(kind: str | None) -> bool:
    """Tell whether a type of file systems is one where a queue cannot lie."""
    return kind in _OVER_A_NETWORK


def _unescaped(text: str) -> str:
    """Read the octal escapes that stand for blanks."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
