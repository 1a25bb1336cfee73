"""Another process that takes a training step when it is told to."""

import subprocess


class Stepper(object):
    """Runs a command that answers each line it reads with a step's seconds.

    Args:
      command: list of strings. The program prints its version first.

    Attributes:
      version: string.
    """

    def __init__(self, command):
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        self.version = self._process.stdout.readline().strip()

    def __call__(self, kind=""):
        """Returns the seconds of one step of `kind`."""
        self._process.stdin.write(kind + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
