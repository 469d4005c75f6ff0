"""`python -m edgerl` is the `edgerl` command."""

from edgerl.cli import main

main()
