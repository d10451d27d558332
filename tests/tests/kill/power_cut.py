"""Copies a directory as a power cut at this moment would leave it: without what is only in the page cache.

    python3 power_cut.py SOURCE TARGET

The kernel says of each page whether it still has to be written (cachestat, Linux 6.5). Whoever writes there must stand
still meanwhile. A page that is not on the disk is left out: at the end of a file the file is shorter, as it is after a
real power cut, because a file system makes a file longer only once its data is written; within a file there are
zeros. Names of files are taken as they are: they are in the journal, or were synced with their directory.

Prints one JSON object: {"lost": {path: pages}} or, where the kernel or the file system does not tell, {"blind": why}.
"""

import ctypes
import json
import os
import sys

CACHESTAT = 451
PAGE = os.sysconf("SC_PAGE_SIZE")
LIBC = ctypes.CDLL(None, use_errno=True)


class Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class Pages(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writing", "evicted", "lately")]


def unwritten(file, start=0, length=0):
    """How many pages of a stretch (by default of all) are not on the disk."""
    pages = Pages()
    stretch = Range(start, length)
    if LIBC.syscall(CACHESTAT, file.fileno(), ctypes.byref(stretch), ctypes.byref(pages), 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pages.dirty + pages.writing


def blindness(folder):
    """Why nothing can be told about files here; None when it can. Tried out, not looked up."""
    path = os.path.join(folder, "probe")
    try:
        with open(path, "wb+") as probe:
            probe.write(b"x" * PAGE)
            probe.flush()
            before = unwritten(probe)
            os.fsync(probe.fileno())
            after = unwritten(probe)
    except OSError as error:
        return f"cachestat: {error}"
    finally:
        os.unlink(path)
    if (before, after) != (1, 0):
        return f"a written page counts as {before} before and {after} after fsync"
    return None


def copy(source, target):
    """One file without its unwritten pages; says how many those were."""
    with open(source, "rb") as file, open(target, "wb") as out:
        lost = unwritten(file)
        if lost == 0:
            out.write(file.read())
            return 0
        content = file.read()
        kept_to = 0
        for start in range(0, len(content), PAGE):
            if unwritten(file, start, PAGE) == 0:
                out.seek(start)
                out.write(content[start : start + PAGE])
                kept_to = min(start + PAGE, len(content))
        out.truncate(kept_to)
        return lost


def main():
    source, target = sys.argv[1:]
    os.makedirs(target, mode=0o700)
    why = blindness(target)
    if why:
        print(json.dumps({"blind": why}))
        return
    lost = {}
    for folder, _, files in os.walk(source):
        below = os.path.relpath(folder, source)
        os.makedirs(os.path.join(target, below), exist_ok=True)
        for name in files:
            pages = copy(os.path.join(folder, name), os.path.join(target, below, name))
            if pages:
                lost[os.path.normpath(os.path.join(below, name))] = pages
    print(json.dumps({"lost": lost}))


main()
