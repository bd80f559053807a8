"""Stands in for the real worker where only `theanompi.experiments` is tested: writes as it does, but learns nothing.

Its figures depend on the settings and the iteration alone. A model called NotFinite diverges; one called Broken fails
after the first epoch, as long as there is no file "mended" in the current folder; one called Regression reports
other metrics. While there is a file "held", all stop after the first epoch, and leave when it is removed.
"""

import json
import random
import time
from pathlib import Path

from theanompi.config import from_environment, resolve
from theanompi.launch.ends import tell
from theanompi.launch.job import mpi_rank
from theanompi.record.folder import CHECKPOINT_FILE, CURVES_FILE, RunFolder, replace_text, write_config
from theanompi.record.metrics import CLASSIFIER, Reported
from theanompi.record.recorder import Recorder

PER_EPOCH = 4


def main() -> None:
    config = resolve(from_environment()[0])
    if mpi_rank():
        return
    out = Path(config.out or "")
    folder = RunFolder(out, resume=config.resume, overwrite=config.overwrite)
    folder.clear()
    about = Reported(("loss", "mae"), "mae", "items") if config.modelclass == "Regression" else CLASSIFIER
    write_config(
        out, {**config.to_dict(), "size": len(config.devices), "versions": {"worker": "1"}, **about.to_dict()}
    )
    begin = json.loads((out / CHECKPOINT_FILE).read_text(encoding="utf-8")) if config.resume else 0
    total = (config.epochs or 0) * PER_EPOCH
    resume_from = begin if config.resume else None
    recorder = Recorder(out, 0, 1, total, config.log_interval, False, resume_from, reported=about)
    print("begins at", begin, flush=True)
    for iteration in range(begin + 1, total + 1):
        epoch = (iteration - 1) // PER_EPOCH
        time.sleep(0.02)
        wrong = random.Random(
            f"{config.seed} {config.sync_type} {config.accumulation} {iteration}"
        ).randrange(100)
        sums = {"loss": (1.0, 100.0), about.headline: (float(wrong), 100.0)}
        recorder.start()
        recorder.end("calc")
        recorder.train(epoch, iteration, 100, sums, lr=0.1)
        if config.modelclass == "NotFinite" and iteration == PER_EPOCH + 2:
            recorder.diverged(epoch, iteration, "the loss is not finite on rank 0 (nan), η = 0.1")
            raise SystemExit(1)
        if config.modelclass == "Broken" and iteration == PER_EPOCH + 2 and not Path("mended").exists():
            raise ArithmeticError("the user's own mistake")
        if iteration % PER_EPOCH == 0:
            recorder.validation(epoch, iteration, 100, sums)
            replace_text(out / CHECKPOINT_FILE, json.dumps(iteration))
            if config.curves:
                (out / CURVES_FILE).touch()
            if Path("held").exists():
                while Path("held").exists():
                    time.sleep(0.02)
                raise SystemExit(1)
    recorder.close()
    folder.release()
    tell(well=True)


if __name__ == "__main__":
    main()
