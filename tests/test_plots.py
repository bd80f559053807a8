"""The curves: every kind of log can be drawn without a warning, and what is drawn is what was logged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from theanompi.cli import main
from theanompi.record.plots import plot_curves, plot_runs

ROOT = Path(__file__).resolve().parents[1]


def lines(epochs: int, iterations: int = 6) -> list[dict[str, Any]]:
    """A log with a line every second iteration."""
    log: list[dict[str, Any]] = []
    for epoch in range(epochs):
        for iteration in range(epoch * iterations + 2, (epoch + 1) * iterations + 1, 2):
            log.append(
                {
                    "kind": "train", "epoch": epoch, "iteration": iteration, "loss": 2 / iteration,
                    "error": 0.8 / iteration, "error_top5": 0.1, "lr": 0.1 / (1 + epoch),
                    "items_per_s": 20.0 + epoch, "calc_s": 5.0, "comm_s": 1.5, "sync_s": 0.5, "wait_s": 1.0,
                    "comm_hidden_s": 3.0, "sync_hidden_s": 1.0, "load_hidden_s": 4.0, "items": 200, "wall_s": 10.0,
                }
            )  # fmt: skip
        error = 0.5 / (epoch + 1)
        at = (epoch + 1) * iterations
        log.append(
            {
                "kind": "val",
                "epoch": epoch,
                "iteration": at,
                "loss": 1.0,
                "error": error,
                "error_top5": 0,
                "items": 9,
            }
        )
    return log


def draw(folder: Path, log: list[dict[str, Any]], torn: str = "") -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log) + torn)
    plot_curves(folder / "log.jsonl", folder / "curves.png")
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def curve(axes: Any, label: str) -> list[list[float]]:
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return [np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()]


def test_the_curves_are_the_logged_values_against_epochs(tmp_path: Path, figures: list[Figure]) -> None:
    diverged = {"kind": "diverged", "epoch": 2, "iteration": 13, "reason": "the loss is not finite"}
    draw(tmp_path, [*lines(2), diverged, {"kind": "summary", "iteration": 13}])
    error, loss, rate, time, speed, hidden = figures[0].axes
    thirds = pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert curve(error, "training") == [thirds, pytest.approx([40, 20, 80 / 6, 10, 8, 80 / 12])]
    assert curve(error, "validation") == [[1, 2], [50, 25]]
    assert error.get_title() == "Error, best validation 25.00 %"
    assert curve(loss, "training") == [thirds, pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])]
    assert curve(loss, "validation") == [[1, 2], [1, 1]]
    assert rate.get_yscale() == "log"
    assert np.asarray(rate.lines[0].get_ydata()).tolist() == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05]
    assert rate.get_xlabel() == hidden.get_xlabel() == "epoch (of 6 iterations)"
    assert curve(speed, "images/s") == [thirds, [20, 20, 20, 21, 21, 21]]


def bands(axes: Any) -> dict[str, tuple[float, float]]:
    """Where each band lies, from the beginning to the end."""
    extents = {band.get_label(): band.get_paths()[0].get_extents() for band in axes.collections}
    assert all((box.xmin, box.xmax) == (0, 2) for box in extents.values())
    return {label: (box.ymin, box.ymax) for label, box in extents.items()}


def test_the_shares_of_the_time_fill_the_panel(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, lines(2))
    assert bands(figures[0].axes[3]) == {
        "compute": (0, 50),
        "communication": (50, 65),
        "slower ranks": (65, 70),
        "loading": (70, 80),
        "other": (80, 100),
    }


def test_what_was_hidden_has_a_panel_of_its_own(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, lines(2))
    time, hidden = figures[0].axes[3], figures[0].axes[5]
    assert bands(hidden) == {"communication": (0, 30), "slower ranks": (30, 40), "loading": (40, 80)}
    assert hidden.get_title() == "meanwhile, hidden behind computing"
    assert all(band.get_hatch() and not band.get_facecolor().size for band in hidden.collections)
    assert not any(band.get_hatch() for band in time.collections)
    # Below the other one, against the same epochs.
    assert hidden.get_position().ymax < time.get_position().ymin
    assert hidden.get_xlim() == time.get_xlim()


def test_panels_of_a_column_have_their_epochs_below_each_other(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, lines(2))
    error, loss, rate, time, _, hidden = figures[0].axes
    for column in ([error, rate], [loss, time, hidden]):
        ends = {tuple(np.round(axes.get_position().intervalx, 6)) for axes in column}
        assert len(ends) == 1, ends
    for axes in (error, loss, rate, hidden):
        assert axes.get_xlabel() == "epoch (of 6 iterations)"
        assert any(label.get_visible() and label.get_text() for label in axes.get_xticklabels())


def test_the_legend_names_no_validation_where_there_has_been_none(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw(tmp_path, lines(1)[:2])
    for axes in figures[0].axes[:2]:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training"]


def test_the_legend_says_that_training_was_on_mixed_images(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, [line | ({"labels": "mixed"} if line["kind"] == "train" else {}) for line in lines(2)])
    legend = figures[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["training, mixed images", "validation"]


def test_a_log_of_an_older_version_is_drawn_as_it_was(tmp_path: Path, figures: list[Figure]) -> None:
    new = ("sync_s", "comm_hidden_s", "sync_hidden_s", "load_hidden_s", "iterations")
    draw(tmp_path, [{name: line[name] for name in line if name not in new} for line in lines(2)])
    assert len(figures[0].axes) == 5
    assert bands(figures[0].axes[3]) == {
        "compute": (0, 50),
        "communication": (50, 65),
        "slower ranks": (65, 65),
        "loading": (65, 75),
        "other": (75, 100),
    }
    assert figures[0].axes[3].get_xlabel() == "epoch (of 6 iterations)"


def test_the_shares_of_an_interval_lie_to_its_left(tmp_path: Path, figures: list[Figure]) -> None:
    log = lines(1)
    log[1] |= {"calc_s": 7.0, "comm_s": 0.0, "sync_s": 0.0}
    draw(tmp_path, log)
    vertices = np.asarray(figures[0].axes[3].collections[0].get_paths()[0].vertices)
    assert sorted(set(vertices[vertices[:, 1] == 70, 0].tolist())) == [2, 4]


def test_the_first_epoch_is_drawn_against_iterations(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, lines(1))
    assert figures[0].axes[5].get_xlabel() == "iteration"
    assert curve(figures[0].axes[0], "validation") == [[6], [50]]


def test_a_log_cut_short_in_an_epoch_keeps_its_scale(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, lines(3)[:-2], torn='{"kind": "trai')
    assert figures[0].axes[5].get_xlabel() == "epoch (of 6 iterations)"
    assert curve(figures[0].axes[0], "training")[0][-1] == pytest.approx(16 / 6)


def test_a_log_without_its_first_epoch_keeps_its_scale(tmp_path: Path, figures: list[Figure]) -> None:
    draw(tmp_path, lines(4)[4:])
    assert curve(figures[0].axes[0], "validation")[0] == [2, 3, 4]


def renamed(log: list[dict[str, Any]], **names: str) -> list[dict[str, Any]]:
    """The log of a model that calls its losses and metrics otherwise."""
    drop = {"error_top5"}
    return [{names.get(key, key): line[key] for key in line if key not in drop} for line in log]


def report(folder: Path, *metrics: str, headline: str, noun: str = "items") -> None:
    config = {"metrics": metrics, "metric": headline, "noun": noun}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_regression_is_drawn_under_its_own_names(tmp_path: Path, figures: list[Figure]) -> None:
    report(tmp_path, "loss", "mae", headline="mae", noun="windows")
    draw(tmp_path, renamed(lines(2), error="mae"))
    mae, loss, _, _, speed, _ = figures[0].axes
    assert curve(mae, "validation") == [[1, 2], [0.5, 0.25]]
    assert (mae.get_title(), mae.get_ylabel()) == ("mae, best validation 0.25", "mae")
    assert (loss.get_title(), loss.get_ylabel()) == ("Loss", "loss")
    assert curve(speed, "windows/s")[1] == [20, 20, 20, 21, 21, 21]


def test_losses_share_a_panel_in_which_they_may_be_negative(tmp_path: Path, figures: list[Figure]) -> None:
    report(tmp_path, "critic", "generator", headline="critic")
    log = renamed(lines(2), error="critic", loss="generator")
    for line in log:
        line["critic"] *= -1
    # Of an objective that has no update in an interval there is nothing to draw; the curve goes on.
    log[0]["generator"] = None
    draw(tmp_path, log)
    losses, rate, *_ = figures[0].axes
    assert losses.get_title() == "Losses"
    assert curve(losses, "critic, validation") == [[1, 2], [-0.5, -0.25]]
    assert curve(losses, "generator, training")[0] == pytest.approx([2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert losses.get_ylim()[0] < -0.4
    # As wide as two panels.
    assert losses.get_position().width > 1.5 * rate.get_position().width
    # The legend hides no curve.
    legend = losses.get_legend().get_window_extent()
    assert legend.ymin >= losses.get_window_extent().ymax - 1


def test_every_further_metric_has_a_panel(tmp_path: Path, figures: list[Figure]) -> None:
    report(tmp_path, "loss", "mae", "mae_of_best", "worst", headline="mae")
    log = [line | {"worst": 3.0, "mae_of_best": 0.1} for line in renamed(lines(2), error="mae")]
    draw(tmp_path, log)
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles[:4] == ["mae, best validation 0.25", "Loss", "worst, best validation 3", "Learning rate"]
    # A metric that the log does not have is no reason to draw nothing.
    draw(tmp_path, renamed(lines(2), error="mae"))
    assert figures[1].axes[2].get_title() == "worst"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "expected a JSON object, got a damaged file"),
        ('{"metrics": [1]}', "metrics: expected a list of names, got [1]"),
        ('{"metrics": []}', "metrics: expected a list of names, got []"),
        ('{"metric": "mae"}', "metric: expected one of its metrics, got 'mae'"),
        ('{"noun": 1}', "noun: expected a text, got 1"),
    ],
)
def test_a_damaged_config_is_one_line(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError) as caught:
        draw(tmp_path, lines(1))
    assert str(caught.value) == f"{tmp_path / 'config.json'}: {message}"


@pytest.mark.parametrize(
    "log",
    [
        lines(1)[:1],
        lines(1)[-1:],
        [line | {"loss": None, "error": None, "lr": None, "items_per_s": None} for line in lines(2)],
        [
            line | {"wall_s": 0.0, "items_per_s": None, "lr": 0.0, "loss": 0.0, "error": 0.0}
            for line in lines(2)[:3]
        ],
        lines(2)[:1] + [lines(2)[1] | {"loss": None, "wall_s": 0.0}] + lines(2)[2:],
        lines(3, iterations=1000),
    ],
    ids=["one line", "only validated", "nothing finite", "all zero", "a gap", "many lines"],
)
def test_odd_logs_are_drawn_too(tmp_path: Path, log: list[dict[str, Any]]) -> None:
    draw(tmp_path, log)


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "summary", "iteration": 0}\n')
    with pytest.raises(
        ValueError, match=r"log\.jsonl: expected lines of kind 'train' or 'val', got none to draw$"
    ):
        plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def a_run(folder: Path, epochs: int, **names: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(epochs)))
    if names:
        (folder / "config.json").write_text(json.dumps(names))
    return folder


def test_the_command_draws_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path / "run", 2)
    assert main(["plot", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'curves.png'}\n"
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000


def test_several_runs_are_one_picture_with_a_name_for_each(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [a_run(tmp_path / name / "seed-0", epochs) for name, epochs in (("one", 2), ("two", 4))]
    assert main(["plot", *map(str, runs), "-o", str(tmp_path / "both.png")]) == 0
    (figure,) = figures
    error, loss = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one/seed-0", "two/seed-0"]
    assert [axes.get_title() for axes in (error, loss)] == ["Error", "Loss"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in error.lines}
    assert drawn["two/seed-0"] == [[1, 50], [2, 25], [3, pytest.approx(50 / 3)], [4, 12.5]]
    assert error.get_xlabel() == "epoch" and error.get_ylabel() == "error (%)"
    assert [line.get_color() for line in error.lines] == [line.get_color() for line in loss.lines]
    # A run that has had no epoch yet has iterations only; and any number of runs has a colour each.
    young = tmp_path / "young"
    young.mkdir()
    (young / "log.jsonl").write_text(json.dumps(lines(1)[0]) + "\n")
    many = [a_run(tmp_path / str(i), 1) for i in range(12)]
    assert main(["plot", str(young), *map(str, many), "-o", str(tmp_path / "many.png")]) == 0
    assert figures[1].axes[0].get_xlabel() == "iteration"
    assert len({str(line.get_color()) for line in figures[1].axes[0].lines}) == 13


def test_names_are_drawn_letter_by_letter(tmp_path: Path, figures: list[Figure]) -> None:
    folders = [tmp_path / name for name in (r"$\foo{$", "_b", "a$b$c")]
    for folder in folders:
        folder.mkdir()
        draw(folder, lines(2))
    plot_runs(folders, tmp_path / "runs.png")
    *curves, together = figures
    (legend,) = together.legends
    escaped = [r"\$\foo{\$", "_b", r"a\$b\$c"]
    assert [figure.get_suptitle() for figure in curves] == escaped
    assert [text.get_text() for text in legend.get_texts()] == escaped
    validations = together.axes[0].lines[1::2]
    assert [line.get_color() for line in legend.get_lines()] == [line.get_color() for line in validations]


def test_a_run_that_blows_up_does_not_squeeze_the_others(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [a_run(tmp_path / str(i), 2) for i in range(3)]
    log = runs[0] / "log.jsonl"
    log.write_text(log.read_text().replace('"loss": 1.0', '"loss": 1e23'))
    plot_runs(runs, tmp_path / "a.png")
    error, loss = figures[0].axes
    assert loss.get_ylim() == (0, 1.5) and loss.get_title() == "Loss, cut off at the top"
    assert error.get_ylim() == (0, pytest.approx(52.5)) and error.get_title() == "Error"


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*argv: object) -> str:
        with pytest.raises(SystemExit, match="2"):
            main(["plot", *map(str, argv)])
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 300
        return line.removeprefix("tmlauncher plot: error: ")

    one, other = a_run(tmp_path / "one", 1), a_run(tmp_path / "other", 1, metrics=["nats"], metric="nats")
    log = tmp_path / "log.jsonl"
    assert line(tmp_path) == f"log {log}: expected a file, got none there"
    assert line(one, other) == "out: expected -o FILE.png for a picture of 2 runs, got none"
    assert line(one, "-o", "a.pdf") == "out: expected a name that ends with .png, got 'a.pdf'"
    assert "expected a folder to write in" in line(one, "-o", tmp_path / "nowhere" / "a.png")
    assert line(one, other, "-o", tmp_path / "a.png") == (
        f"run {other}: expected error and loss, as {one} reports, got nats"
    )


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, theanompi.record.plots; print('matplotlib' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "False\n"
