"""Between the kernel's attributes and pyfuse3's."""

import stat
import time

import pyfuse3

from nexusfs.contracts.node import Change, Node, Stat, StatFs

NOW_NS = 10**9
"""A touch is under way for less than this. For an owner it makes no difference."""


def entry(node: Node, st: Stat) -> pyfuse3.EntryAttributes:
    """What Linux learns of an inode, and for how long it may believe it."""
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = st.ino
    attr.entry_timeout = node.entry_ttl_s
    attr.attr_timeout = node.attr_ttl_s
    attr.st_mode = st.mode
    attr.st_nlink = st.nlink
    attr.st_uid = st.uid
    attr.st_gid = st.gid
    attr.st_rdev = st.rdev
    attr.st_size = st.size
    attr.st_blocks = st.blocks
    attr.st_atime_ns = st.atime_ns
    attr.st_mtime_ns = st.mtime_ns
    attr.st_ctime_ns = st.ctime_ns
    return attr


def absent(parent: Node) -> pyfuse3.EntryAttributes:
    """What Linux learns of a name that is not in `parent`; the number 0 says that."""
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = 0
    attr.entry_timeout = parent.entry_ttl_s
    return attr


def directory(ino: int) -> pyfuse3.EntryAttributes:
    """What a listing says of `.` and `..`: number and type."""
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = ino
    attr.st_mode = stat.S_IFDIR
    return attr


def change(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> Change:
    """The attributes that a setattr request wants set.

    The binding turns "now" into the time; two times of this moment are taken for a touch.
    """
    return Change(
        mode=attr.st_mode & 0o7777 if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        touch=fields.update_atime and fields.update_mtime and _is_now(attr),
    )


def _is_now(attr: pyfuse3.EntryAttributes) -> bool:
    oldest = time.time_ns() - NOW_NS
    return bool(attr.st_atime_ns > oldest and attr.st_mtime_ns > oldest)


def statvfs(st: StatFs) -> pyfuse3.StatvfsData:
    """Size and use, in the form of statvfs."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = st.bsize
    data.f_blocks = st.blocks
    data.f_bfree = st.bfree
    data.f_bavail = st.bavail
    data.f_files = st.files
    data.f_ffree = data.f_favail = st.ffree
    data.f_namemax = 255
    return data
