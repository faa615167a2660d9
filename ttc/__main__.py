"""`python -m ttc` is the command line."""

from ttc.cli.main import main

main()
