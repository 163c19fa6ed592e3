"""How a fetch ends when it does not end well: one paragraph for a person, one exit code for a script.

The codes are those of sysexits.h, where it has one that fits.
"""

USAGE = 64        # an unknown item or flag
HASH = 65         # something arrived, and it is not what the catalog names
UNAVAILABLE = 69  # the registry is out of reach or lacks the wheel; running again may help
MACHINE = 71      # the catalog has no wheel for this machine
NO_PIP = 72       # this Python has no pip
CACHE = 73        # the cache cannot be written
DISK_FULL = 74    # no room
LOCKED = 75       # another run held the cache for too long
CATALOG = 78      # catalog.json itself is wrong


class Failure(Exception):
    def __init__(self, exit_code, text):
        super().__init__(text)
        self.exit_code = exit_code


class Stopped(BaseException):
    """A signal asked us to end. Not an Exception, so that nothing on the way swallows it."""

    def __init__(self, signal_number):
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number
