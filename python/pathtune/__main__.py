"""`python -m pathtune`: the command line."""

import sys

from pathtune.cli import main

sys.exit(main())
