"""A FUSE mount that passes everything on to a folder, sends no events for what changes there, and fails on cue.

    volume.py REAL MOUNT CUE    CUE is a file: `ok`, `hang`, or `all NUMBER`, `read NUMBER` (only what opens and reads
                                files fails), `list NUMBER` (only what lists folders) or `zero 0`, each for paths that end
                                in a second word where there is one
"""

import functools
import os
import pathlib
import sys
import time

import mfusepy as fuse

real, mount, cue = sys.argv[1:4]
PATHS = "getattr readdir readlink mkdir rmdir unlink rename symlink chmod chown utimens truncate create open read write fsync".split()


def cued(path):
    """What should happen to a path now, and with which error."""
    while True:
        word, number, end, *_ = pathlib.Path(cue).read_text().split() + [""] * 3
        if word != "hang":
            return (word, int(number or 0)) if path.endswith(end) else ("ok", 0)
        time.sleep(0.05)


class Volume(fuse.Operations):
    use_ns = True

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        return functools.partial(self.fail_on_cue, name, found) if name in PATHS else found

    def fail_on_cue(self, name, operation, path, *rest):
        word, number = cued(path)
        if word == "all" or word == "read" and name in ("open", "read") or word == "list" and name == "readdir":
            raise fuse.FuseOSError(number)
        try:
            return operation(path, *rest)
        except OSError as error:
            raise fuse.FuseOSError(error.errno) from error

    def getattr(self, path, handle=None):
        found = os.lstat(real + path)
        names = "st_mode st_nlink st_uid st_gid st_size st_atime_ns st_mtime_ns st_ctime_ns".split()
        known = {name.removesuffix("_ns"): getattr(found, name) for name in names}
        if cued(path)[0] == "zero" and os.path.isfile(real + path):
            known["st_size"] = 0
        return known

    def readdir(self, path, handle):
        return [".", "..", *os.listdir(real + path)]

    def readlink(self, path):
        return os.readlink(real + path)

    def mkdir(self, path, mode):
        return os.mkdir(real + path, mode)

    def rmdir(self, path):
        return os.rmdir(real + path)

    def unlink(self, path):
        return os.unlink(real + path)

    def rename(self, old, new, *_):
        return os.rename(real + old, real + new)

    def symlink(self, target, source):
        return os.symlink(source, real + target)

    def chmod(self, path, mode):
        return os.chmod(real + path, mode)

    def chown(self, path, user, group):
        return os.chown(real + path, user, group)

    def utimens(self, path, times=None):
        return os.utime(real + path, ns=times)

    def truncate(self, path, length, handle=None):
        return os.truncate(real + path, length)

    def create(self, path, mode, info=None):
        return os.open(real + path, os.O_CREAT | os.O_RDWR, mode)

    def open(self, path, flags):
        return os.open(real + path, flags)

    def read(self, path, size, offset, handle):
        return b"" if cued(path)[0] == "zero" else os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        return os.pwrite(handle, data, offset)

    def release(self, path, handle):
        return os.close(handle)

    def fsync(self, path, datasync, handle):
        return os.fsync(handle)


fuse.FUSE(Volume(), mount, foreground=True, attr_timeout=0, entry_timeout=0, direct_io=True)
