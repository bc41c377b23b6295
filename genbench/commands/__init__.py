"""The commands of `genbench`, one module each; see `genbench.command_line`."""
