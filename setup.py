"""The metadata of theanompi; the settings of its tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="theanompi",
    version=re.findall(r'^__version__ = "(.+)"$', (ROOT / "theanompi/__init__.py").read_text("utf-8"), re.M)[
        0
    ],
    description="Large-minibatch data-parallel training of PyTensor networks over MPI",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The theanompi developers",
    license="MIT",
    keywords=[
        "deep learning",
        "data parallelism",
        "distributed training",
        "large minibatch",
        "MPI",
        "PyTensor",
        "Theano",
        "Lasagne",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["theanompi", "theanompi.*"]),
    package_data={
        "theanompi": ["py.typed"],
        "theanompi.data": ["*.h5"],
        "theanompi.device.ops": ["*.c"],
        "theanompi.examples": ["*.cfg", "experiments/*.toml", "slurm/*.sbatch"],
    },
    entry_points={
        "console_scripts": [
            "tmlauncher = theanompi.__main__:main",
            "tmpack = theanompi.data.pack.command:main",
        ]
    },
    python_requires=">=3.11,<3.15",
    install_requires=[
        "pytensor>=3.0,<3.4",
        "torch>=2.11",
        "mpi4py>=4.1",
        "numpy>=2",
        "h5py>=3",
        "pillow>=10",
        "simplejpeg>=1.7",
        "scipy",
        "tqdm",
        "matplotlib",
    ],
    extras_require={
        # One MPI at a time: each brings its own mpirun into the environment.
        "mpich": ["mpich"],
        "openmpi": ["openmpi"],
        # impi-rt 2021.19 needs a libfabric package that the package index lacks.
        "impi": ["impi-rt<2021.19"],
        # For kernels on GPUs; torch's builds for CUDA bring it along. The tests run the kernels without a GPU.
        "triton": ["triton>=3.6"],
        # What --logger writes with, each by itself.
        "loggers": ["tensorboard", "wandb", "mlflow"],
        "test": ["pytest", "pytest-timeout", "pytest-xdist", "scikit-learn", "tensorboard"],
        "lint": ["ruff", "mypy"],
        "docs": ["sphinx", "numpydoc", "myst-nb", "furo"],
        # The other decoders of benchmarks/loader_throughput.py; PyTurboJPEG also needs libturbojpeg, below 3.
        "bench": ["opencv-python-headless", "pyturbojpeg<2"],
    },
)
