"""Train ResNet-50 with the recipe of "Accurate, Large Minibatch SGD" (Goyal et al. 2017).

Each process is one worker: alone, or one of several under mpirun.

    python examples/train_resnet50.py
    mpirun -np 2 python examples/train_resnet50.py --epochs 2
"""

from theanompi import BSP
from theanompi.cli import from_flags

if __name__ == "__main__":
    config, plan = from_flags(
        "Train ResNet-50, by default on the packaged digits; under mpirun, each process is one worker.",
        modelfile="models.resnet50",
        modelclass="ResNet50",
    )
    BSP().run(config, plan=plan)
