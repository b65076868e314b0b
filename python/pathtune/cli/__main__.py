"""`python -m pathtune.cli`."""

import sys

from pathtune.cli import main

sys.exit(main())
