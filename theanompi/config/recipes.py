"""Recipes by name: sets of defaults, each from a public source, that whatever a run gives overrides."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """Defaults for fields of `theanompi.config.RunConfig`.

    Attributes
    ----------
    source : str
        Who has trained by it, and where to read about it.
    minibatch : int
        For how many images the source gives its rate; others scale it.
    left_out : str
        What of the source is not in it, or done otherwise.
    settings : mapping
        By name.
    """

    source: str
    minibatch: int
    left_out: str
    settings: Mapping[str, Any]

    def defaults(self, epochs: int | None) -> dict[str, Any]:
        """The settings for a run of so many epochs, of which warmup and decay keep their shares.

        >>> RECIPES["goyal"].defaults(18)["decay_epochs"]
        [6.0, 12.0, 16.0]
        """
        values, usual = dict(self.settings), self.settings["epochs"]
        if epochs is not None:
            values |= {"epochs": epochs, "warmup_epochs": epochs * values["warmup_epochs"] / usual}
            if "decay_epochs" in values:
                values["decay_epochs"] = [epochs * epoch / usual for epoch in values["decay_epochs"]]
        return values


_ALL: dict[str, Any] = {
    "optimizer": "momentum",
    "momentum": 0.9,
    "momentum_form": "v",
    "nesterov": True,
    "weight_decay": 1e-4,
    "base_lr": 0.1,
    "base_batch": 256,
    "scaling": "linear",
    "warmup": "gradual",
    "warmup_epochs": 5,
    # Of what a model's class may have other defaults for.
    **dict.fromkeys(
        ("label_smoothing", "mixup", "cutmix", "random_erasing", "color_jitter", "lighting"), 0.0
    ),
}
_WARMUP = "warmup begins at the rate for 256 images, there at 0"
RECIPES: dict[str, Recipe] = {
    "goyal": Recipe(
        "Goyal et al. 2017, arXiv 1706.02677, §5.1",
        256,
        "",
        {**_ALL, "schedule": "steps", "decay_epochs": [30, 60, 80], "decay_factor": 0.1, "epochs": 90},
    ),
    # The figures are those in the authors' scripts for GluonCV, of training with mixup: 0.4 for 1,024 images.
    "bag-of-tricks": Recipe(
        "He et al. 2019, arXiv 1812.01187, and their scripts in GluonCV",
        1024,
        f"{_WARMUP}; without ResNet-D, distillation and changes of colour",
        {**_ALL, "schedule": "cosine", "epochs": 200, "label_smoothing": 0.1, "mixup": 0.2},
    ),
    # The figures are those of lars_util.py there and of its flags: 2,983 updates, which are 76 epochs.
    "lars-32k": Recipe(
        "Google's code for MLPerf v0.6 (Kumar et al. 2019, arXiv 1909.09756)",
        32_768,
        _WARMUP,
        {
            **_ALL,
            "optimizer": "lars",
            "momentum_form": "uncorrected",
            "nesterov": False,
            "base_lr": 31.2 / 128,
            "warmup_epochs": 25,
            "schedule": "poly",
            "epochs": 76,
            "label_smoothing": 0.1,
            "settings": {"optimizer.trust": 0.001, "schedule.power": 2.0, "schedule.end_factor": 1e-4 / 31.2},
        },
    ),
}
