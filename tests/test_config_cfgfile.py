"""The cfg grammar: what a shell would read is read alike; what a shell would run is refused."""

import subprocess
from pathlib import Path

import pytest

from theanompi.config import FIELDS, ConfigError
from theanompi.config.cfgfile import KEYS, read_cfg
from theanompi.config.files import MOST_TEXT

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cfg(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "x.cfg"
        path.write_text(text)
        return path

    return write


def test_theano_mpis_keys(cfg):
    path = cfg(
        """
# a comment
RULE=BSP
MODELFILE=models.resnet50
MODELCLASS='ResNet50'
DEVICES=("node0:cuda0" # the first
         'node1:cuda0,cuda1'
)        # may span lines
BSP_SYNC_TYPE=cdd        # their way
BSP_EXCH_STRATEGY=ar
"""
    )
    assert read_cfg(path) == {
        "rule": "BSP",
        "modelfile": "models.resnet50",
        "modelclass": "ResNet50",
        "devices": ("node0:cuda:0", "node1:cuda:0", "node1:cuda:1"),
        "sync_type": "cdd",
        "exchange": "ar",
    }


@pytest.mark.parametrize(
    ("in_the_file", "elsewhere", "kept"),
    [("", None, True), ("RULE=EASGD", None, False), ("", "EASGD", False), ("RULE=EASGD", "BSP", True)],
)
def test_the_keys_of_bsp_mean_nothing_under_another_of_theano_mpis_rules(cfg, in_the_file, elsewhere, kept):
    values = read_cfg(
        cfg(f"BSP_SYNC_TYPE=avg\nBSP_EXCH_STRATEGY=ar\nEPOCHS=3\n{in_the_file}"), rule=elsewhere
    )
    values.pop("rule", None)
    assert values == {"epochs": 3} | ({"sync_type": "avg", "exchange": "ar"} if kept else {})


def test_every_field_is_a_key():
    fields = {name.upper() for name in FIELDS if name != "settings"}
    assert fields | {"BSP_SYNC_TYPE", "BSP_EXCH_STRATEGY", "HOSTFILE", "SIZE"} == set(KEYS)


WORDS = [
    "a#b",
    "'a b'",
    '"a b"',
    "a' 'b",
    r"a\ b",
    '"a\\"b"',
    "'$HOME'",
    r"\$HOME",
    '"a\\$b"',
    "a=b",
    "'a\nb'",
    '"it\'s"',
    "a\\\nb",
    '"a\\\nb"',
]


@pytest.mark.parametrize("word", WORDS)
def test_words_are_read_as_a_shell_reads_them(cfg, word):
    path = cfg(f"OUT={word}  # comment\nEPOCHS=3\n")
    shell = subprocess.run(
        ["sh", "-c", '. "$0"; printf "%s|%s" "$OUT" "$EPOCHS"', path],
        capture_output=True,
        text=True,
        check=True,
    )
    values = read_cfg(path)
    assert f"{values['out']}|{values['epochs']}" == shell.stdout


def test_arrays_and_values(cfg):
    path = cfg("\ufeffDECAY_EPOCHS=(30 60\n80)\nNESTEROV=false\nBASE_LR=0.05\r\nDEVICES=cuda0,cuda1")
    assert read_cfg(path) == {
        "decay_epochs": (30.0, 60.0, 80.0),
        "nesterov": False,
        "base_lr": 0.05,
        "devices": ("cuda:0", "cuda:1"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nEPOCS=3", "line 2: unknown key 'EPOCS'; did you mean 'EPOCHS'\\?"),
        ("OUT='a\nb\nc' # two\nEPOCS=3", "line 4: unknown key 'EPOCS'"),
        ("epochs=3", "line 1: unknown key 'epochs'"),
        ("OUT=$(touch ran)", "line 1: expected plain text, because the file is read and not run, got '\\$'"),
        ("OUT=`touch ran`", "line 1: expected plain text, .* got '`'"),
        ("OUT=$HOME/x", "line 1: expected plain text, .* got '\\$'"),
        ('\n\nOUT="$HOME/x"', 'line 3: expected plain text, .* got "\\$HOME/x"'),
        ('OUT="\\\\$(touch ran)"', "line 1: expected plain text"),
        ('OUT="`touch ran`"', "line 1: expected plain text"),
        ("OUT=a; touch ran", "line 1: expected plain text, .* got ';'"),
        ("OUT=a | b", "line 1: expected plain text, .* got '\\|'"),
        ("OUT=a b", "line 1: OUT: expected the end of the line after the value, got 'b'"),
        ("OUT = a", "line 1: expected KEY=value without spaces around '=', got 'OUT'"),
        ("EPOCHS= 3", "line 1: EPOCHS: expected the end of the line after the value, got '3'"),
        ("source other.cfg", "line 1: expected KEY=value .* got 'source'"),
        ("OUT='a", "line 1: expected plain text, .* got a quote that is not closed"),
        (
            "\nDEVICES=(cpu0\ncpu1",
            "line 2: DEVICES: expected '\\)' at the end of the array, got the end of the file",
        ),
        ("EPOCHS=(1 2)", "line 1: EPOCHS: expected one value, got an array of 2"),
        ("EPOCHS=3\nSEED=1\nEPOCHS=4", "line 3: expected EPOCHS once, got it in line 1 too"),
        ("SYNC_TYPE=cdd\nBSP_SYNC_TYPE=cdd", "line 2: expected BSP_SYNC_TYPE once, got it in line 1 too"),
        ("#\nEPOCHS=0", "line 2: epochs: expected a whole number of at least 1, got '0'"),
        ("HOSTFILE=", "line 1: hostfile: expected a text that is not empty, got ''"),
        ("SEED=" + "9" * 5000, "line 1: seed: expected a whole number of at least 0, got '9+ … 9+'$"),
        ("BASE_LR=" + "9" * 400, "line 1: base_lr: expected a number above 0, got '9+ … 9+'$"),
        (
            "OUT=" + "a" * 5000,
            "line 1: out: expected a text .* 'a+ … a+'; it has 5000 characters, 4096 are the most$",
        ),
        ("DEVICES=()", "line 1: devices: expected at least one device, got none"),
        ("'a\nb'\nEPOCHS=0", "line 1: expected KEY=value"),
        ("OUT='a\nb'\nEPOCHS=0", "line 3: epochs"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(cfg, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="x.cfg, " + message):
        read_cfg(cfg(text))
    assert not (tmp_path / "ran").exists()


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(
        ConfigError, match=r"cfg file: expected a readable text file, got '.*no.cfg' \(No such file"
    ):
        read_cfg(tmp_path / "no.cfg")
    (tmp_path / "b.cfg").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"got '.*b.cfg' \(not UTF-8 text\)"):
        read_cfg(tmp_path / "b.cfg")
    (tmp_path / "c.cfg").write_bytes(b"#" * MOST_TEXT)
    assert read_cfg(tmp_path / "c.cfg") == {}
    (tmp_path / "c.cfg").write_bytes(b"#" * MOST_TEXT + b"\nEPOCHS=3")
    with pytest.raises(ConfigError, match=r"got '.*c.cfg' \(more than 4,194,304 bytes\)"):
        read_cfg(tmp_path / "c.cfg")


def test_the_example():
    values = read_cfg(ROOT / "examples" / "bsp.cfg")
    assert (values["devices"], values["modelclass"], values["data"]) == (("cpu", "cpu"), "ResNet50", "digits")
