"""Take the internet from a process, its threads and its children, for good: Linux on x86-64 and on 64-bit ARM.

The kernel does it (seccomp): who asks for an internet socket gets SIGSYS, whether in Python or in native code, and
whether it would have minded a failure or passed over it in silence. Names are not looked up either, for that takes a
socket too. Python's traceback of the thread that asked is printed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import platform
import signal
import socket
import struct
import sys

SYSTEMS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""System -> the kernel's number for it (AUDIT_ARCH) and for the call ``socket``."""

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _TRAP = 0x7FFF0000, 0x00030000
_CALL_AT, _SYSTEM_AT, _FAMILY_AT = 0, 4, 16  # in the kernel's struct seccomp_data
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("statements", ctypes.c_char_p))


def forbid_internet() -> None:
    """Install the filter; to be called before other threads are started, which would not have it."""
    system, socket_call = SYSTEMS[platform.machine()]
    statements = [
        (_LOAD, 0, 0, _SYSTEM_AT),
        (_IF_EQUAL, 0, 5, system),  # a program for another kind of system could call by another number
        (_LOAD, 0, 0, _CALL_AT),
        (_IF_EQUAL, 0, 4, socket_call),
        (_LOAD, 0, 0, _FAMILY_AT),
        (_IF_EQUAL, 1, 0, socket.AF_INET),
        (_IF_EQUAL, 0, 1, socket.AF_INET6),
        (_RETURN, 0, 0, _TRAP),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *statement) for statement in statements)
    faulthandler.register(signal.SIGSYS, file=sys.stderr, all_threads=False, chain=True)
    libc = ctypes.CDLL(None, use_errno=True)
    for call, first, second in (
        (_NO_NEW_PRIVILEGES, 1, None),
        (_SET_SECCOMP, _FILTER, ctypes.byref(_Program(len(statements), code))),
    ):
        if libc.prctl(call, ctypes.c_ulong(first), second, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
