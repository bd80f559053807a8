"""What `record_unchanged` runs under mpirun: several runs, one after the other in the same processes."""

import json
import sys

from theanompi.config import RunConfig
from theanompi.worker import run

if __name__ == "__main__":
    for settings in json.loads(sys.argv[1]):
        config = RunConfig.from_dict(settings)
        run(config, config.devices)
