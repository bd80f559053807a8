"""What scripts and cfg files of Theano-MPI's say, or people who come from other trainers, and what it is here."""

from collections.abc import Iterable

from theanompi.config.errors import closest
from theanompi.config.kinds import PLUGINS

INSTEAD = {("exchange", name): "shm adds up inside of a machine first" for name in ("copper", "copper16")}
"""By setting and value, what is said of it besides what the setting may be."""

_DATA = {
    "ImageNet (tmpack ilsvrc packs it)": ("alex_net", "googlenet", "resnet", "resnet50", "vgg"),
    "CIFAR-10 (tmpack cifar10 packs it)": ("cifar10", "wide_resnet"),
    "MNIST (tmpack mnist packs it)": ("lsgan", "wgan"),
    "IMDB (tmpack imdb packs it)": ("lstm",),
}
DATA = {f"theanompi.models.{module}": data for data, modules in _DATA.items() for module in modules}
"""By the module of a network of the zoo, what Theano-MPI's own read, wherever it had been put."""


def instead(name: str, value: object) -> str:
    """Return ``"; …"``, what stands in the place of a value of Theano-MPI's, or nothing.

    >>> instead("exchange", "copper")
    '; shm adds up inside of a machine first'
    >>> instead("rule", "BPS")
    ''
    """
    words = INSTEAD.get((name, value)) if isinstance(value, str) else None
    return f"; {words}" if words else ""


_CALLED = {
    "accumulation": "accumulate_grad_batches accumulation_steps grad_accum gradient_accumulation_steps",
    "base_lr": "eta init_lr initial_lr learning_rate lr lrate",
    "batch_size": "batch_sz bs file_batch_size mbs minibatch n_batch",
    "checkpoint_interval": "save_every save_freq save_interval save_steps snapshot snapshot_freq",
    "clip_norm": "clipnorm clip_grad_norm grad_clip gradient_clip gradient_clip_val max_grad_norm",
    "data": "data_dir dataset root train_data train_dir",
    "decay_epochs": "lr_policy lr_step lr_steps milestones step_size",
    "decay_factor": "decay_rate gamma lr_decay lr_gamma",
    "devices": "gpu gpus n_gpus n_workers ngpus nproc nproc_per_node num_gpus world_size",
    "ema": "ema_decay model_ema polyak",
    "epochs": "max_epochs n_epochs num_epochs",
    "exchange": "backend exch_strategy",
    "image_size": "crop_size image_width imgsz input_size resolution",
    "init": "finetune init_weights load load_weights pretrained weights",
    "label_smoothing": "smoothing",
    "length": "block_size bptt context_length max_len seq_len seq_length sequence_length",
    "loader_processes": "n_loaders num_workers para_load",
    "log_interval": "log_every log_freq logging_steps print_every print_freq printfreq",
    "logger": "mlflow tensorboard wandb",
    "max_iterations": "iterations max_iters max_steps n_iters num_iterations steps total_steps",
    "modelclass": "arch architecture model net network",
    "momentum": "mom mu use_momentum",
    "nesterov": "use_nesterov use_nesterov_momentum",
    "optimizer": "opt optim solver",
    "optimizer.beta1": "beta1 beta_1",
    "optimizer.beta2": "beta2 beta_2",
    "optimizer.epsilon": "adam_epsilon eps epsilon",
    "out": "checkpoint_dir log_dir logdir output output_dir save_dir work_dir",
    "precision": "amp autocast bf16 dtype float16 floatx fp16 half mixed_precision use_amp",
    "schedule": "lr_schedule lr_scheduler scheduler",
    "seed": "manual_seed random_seed random_state rng",
    "warmup_epochs": "warmup_iters warmup_steps",
    "weight_decay": "l2 l2_reg lambda wd",
}
_OURS = {theirs: own for own, names in _CALLED.items() for theirs in names.split()}


def ours(name: object) -> str | None:
    """What is called by another name elsewhere: a field, or a plug-in's setting, which is no field itself.

    >>> ours("learning-rate"), ours("floatX"), ours("optimizer.beta2"), ours("epochs")
    ('base_lr', 'precision', 'optimizer.beta2', None)
    """
    word = str(name).lower().replace("-", "_")
    plugin, dot, _ = word.partition(".")
    return word if dot and plugin in PLUGINS else _OURS.get(word)


def meant(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for a setting that there is not: what it is here, or else what is spelt alike.

    >>> meant("lr", ["epochs"]), meant("epoch", ["epochs"])
    ("; did you mean 'base_lr'?", "; did you mean 'epochs'?")
    >>> meant("eps", ["epochs"])
    "; did you mean 'optimizer.epsilon' in settings?"
    """
    own = ours(name)
    if own is None:
        return closest(str(name), known)
    return f"; did you mean {own!r}{' in settings' if '.' in own else ''}?"
