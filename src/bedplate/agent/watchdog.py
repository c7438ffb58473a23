"""The server's watchdog: a device that cuts its power unless it is fed. Decides nothing: who feeds it judges.

A kernel's device (`/dev/watchdog`) is told its time; a FIFO, as a lab has, knows none and is believed to keep to
`leases.WATCHDOG`. Once open it runs on, also when the agent dies; only `disarm` ends it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from bedplate.model.leases import RENEW, WATCHDOG

SET_TIMEOUT, GET_TIMEOUT = 0xC0045706, 0x80045707
"""`WDIOC_SETTIMEOUT`, `WDIOC_GETTIMEOUT` of linux/watchdog.h."""
LEAST = 2 * RENEW + 1
"""Seconds; a device that waits for less would cut the power for one slow feeding."""
FEED, DISARM = b"1", b"V"
"""Any byte feeds; `V` as the last one before closing is the magic close, by which the device stops."""
DEFAULT = "/dev/watchdog"

Control = Callable[[int, int, int], int]


class WatchdogRefused(Exception):
    """The device is not used; the text says why and what to do."""


def choose(option: str) -> str:
    """Give the device's path for the option: a path, empty for none, or `auto`: the usual one where it is there."""
    if option != "auto":
        return option
    return DEFAULT if Path(DEFAULT).exists() else ""


class Watchdog:
    """One watchdog. Its methods may be called from any thread and do not block."""

    def __init__(self, path: str, control: Control | None = None) -> None:
        """`path`: empty for no watchdog at all. `control`: ioctl with one integer, for tests."""
        self.path = path
        self.error = ""
        """Why it is not armed though it should be; empty: nothing is wrong."""
        self._control = control or _ioctl
        self._device: int | None = None
        self._mutex = threading.Lock()

    @property
    def armed(self) -> bool:
        """True while it runs, fed by this agent, and cuts the power in time."""
        return self._device is not None

    def arm(self) -> bool:
        """Open it, which feeds it, and set its time; gives whether it is armed. A refusal is in `error`."""
        if not self.path:
            return False
        with self._mutex:
            if self._device is None:
                try:
                    self._device = self._open()
                    self.error = ""
                except (OSError, WatchdogRefused) as error:
                    self.error = f"watchdog {self.path}: {error}"
            return self._device is not None

    def feed(self) -> None:
        """Put the power cut off. A device that can't be fed counts as not armed."""
        with self._mutex:
            if self._device is None:
                return
            try:
                os.write(self._device, FEED)
            except BlockingIOError:
                pass  # a FIFO whose reader is slow: it has plenty to read
            except OSError as error:
                self.error = f"watchdog {self.path} can't be fed: {error}"
                os.close(self._device)
                self._device = None

    def disarm(self) -> None:
        """Stop it. (A kernel built with NOWAYOUT lets it run on: then the next agent must feed it in time.)"""
        with self._mutex:
            if self._device is not None:
                _stop(self._device)
                self._device = None

    def leave(self) -> None:
        """Close it and let it run: it cuts the power unless another agent opens it in time."""
        with self._mutex:
            if self._device is not None:
                os.close(self._device)
                self._device = None

    def _open(self) -> int:
        device = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(device).st_mode
            if stat.S_ISFIFO(mode):
                os.write(device, FEED)
            elif stat.S_ISCHR(mode):
                self._set_time(device)
            else:
                raise WatchdogRefused("it is neither a device nor a FIFO; name /dev/watchdog or leave the option out")
        except BlockingIOError:
            pass
        except BaseException:
            _stop(device)  # a device that is not used must not cut the power
            raise
        return device

    def _set_time(self, device: int) -> None:
        try:
            self._control(device, SET_TIMEOUT, int(WATCHDOG))
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY}:
                raise
            # Some devices have a fixed time: what is read back counts.
        try:
            seconds = self._control(device, GET_TIMEOUT, 0)
        except OSError as error:
            raise WatchdogRefused(f"it does not tell its time ({error}): it is no watchdog that can be used") from error
        if seconds > WATCHDOG:
            raise WatchdogRefused(
                f"it waits {seconds} s and can't be set to {WATCHDOG:.0f} s: others would take this server for dead "
                "while it runs; use another device (softdog), or leave the option out"
            )
        if seconds < LEAST:
            raise WatchdogRefused(f"it waits only {seconds} s, at least {LEAST:.0f} s are needed: use another device")


def _stop(device: int) -> None:
    try:
        os.write(device, DISARM)
    except OSError:
        pass  # what can't be told to stop is at least closed
    finally:
        os.close(device)


def _ioctl(device: int, request: int, value: int) -> int:
    answer = fcntl.ioctl(device, request, struct.pack("i", value))
    return struct.unpack("i", answer)[0]
