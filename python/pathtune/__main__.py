"""`python -m pathtune` is the command."""

import sys

from pathtune.cli import main

sys.exit(main())
