"""The program `genbench`: signals first, then the command line."""

from __future__ import annotations

from genbench import program

if program.is_program(__name__):
    program.set_up()  # before the slow imports: an interrupt during them is one, too

import sys

from genbench.command_line import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
