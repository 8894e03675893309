"""`python -m rm_toolkit.cli`: the same as `rm-toolkit`."""

import sys

from . import main


sys.exit(main())
