"""`python -m mindfcn` is the command `mindfcn`."""

import sys

from mindfcn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
