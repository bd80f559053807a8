"""Set before any test module imports what would start threads or processes.

One thread per process, and signals as in a terminal: what a script starts in the background ignores SIGINT, under
nohup also SIGHUP, and so would all that the tests start.
"""

import os
import signal

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
