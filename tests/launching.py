"""Commands in several processes, as a user starts them."""

import subprocess
import sys


def launched(n, arguments, **options):
    """What torchrun ended with, with n processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, **options)
