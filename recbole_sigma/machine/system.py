"""What the operating system refuses, in a sentence with a remedy."""

from __future__ import annotations

import errno

OTHER_FOLDER = "name another folder (checkpoint_dir, log_dir, artifact_dir, --output)"
_SYSTEM = {
    errno.ENOSPC: f"there is no space left on the disk: free some, or {OTHER_FOLDER}",
    errno.EDQUOT: f"the disk quota of this account is used up: free some, or {OTHER_FOLDER}",
    errno.EFBIG: "the file size limit of this account is reached (ulimit -f): raise it",
    errno.EROFS: f"the disk is read-only: {OTHER_FOLDER}",
    errno.EACCES: f"no permission: {OTHER_FOLDER}",
    errno.EEXIST: f"a file stands where a folder is needed: {OTHER_FOLDER}",
    errno.ENOTDIR: f"a file stands where a folder is needed: {OTHER_FOLDER}",
    errno.EISDIR: "a folder stands where a file is needed: move it",
    errno.ELOOP: "links lead in a circle: name another path",
    errno.ENAMETOOLONG: "the name is too long for the file system: shorten it",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n) or lower worker",
}


def system_sentence(error: OSError) -> str:
    """What the operating system refused, and what to do."""
    what = _SYSTEM.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename}: {what}" if error.filename is not None else what
