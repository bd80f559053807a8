"""Hostfiles and Slurm allocations become one device per slot."""

import os

import pytest

from theanompi.config import ConfigError
from theanompi.config.files import MOST_TEXT
from theanompi.launch.hosts import expand_nodes, read_hostfile, slurm_devices


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node0\nnode1\n", ["node0", "node1"]),
        ("node0 slots=2\nnode1 slots=1 max_slots=4", ["node0", "node0", "node1"]),
        ("# all\n\nnode0:2  # two\n10.0.0.1:1\r\n", ["node0", "node0", "10.0.0.1"]),
        ("a.b-c.org slots = 2\n", ["a.b-c.org"] * 2),
        ("node0\nnode1\nnode0\n", ["node0", "node0", "node1"]),
        ("\ufeffnode0:9999\nnode1\n", ["node0"] * 9999 + ["node1"]),
    ],
)
def test_every_syntax_of_a_hostfile(tmp_path, text, expected):
    path = tmp_path / "hosts.txt"
    path.write_text(text, encoding="utf-8")
    assert read_hostfile(path) == tuple(f"{host}:auto" for host in expected)
    assert read_hostfile(path, "cuda") == tuple(f"{host}:cuda" for host in expected)


@pytest.mark.parametrize(
    "line", ["node1 slot=2", "node1:", "node1:0", "node1 slots=two", "node1 node2", "=3"]
)
def test_a_wrong_line_of_a_hostfile_is_named(tmp_path, line):
    path = tmp_path / "hosts.txt"
    path.write_text(f"node0\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read_hostfile(path)
    assert str(caught.value) == (
        f"{path}, line 2: expected a host and its slots, such as node0, node0:2 or node0 slots=2, got {line!r}"
    )


def test_a_hostfile_that_is_not_there_or_empty(tmp_path):
    path = tmp_path / "hosts.txt"
    with pytest.raises(ConfigError, match=r"hostfile: expected a readable text file, got .* \(No such file"):
        read_hostfile(path)
    path.write_text("# none\n")
    with pytest.raises(ConfigError, match="hosts.txt: expected at least one host, got none"):
        read_hostfile(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node0", ["node0"]),
        ("node[01-03,7]", ["node01", "node02", "node03", "node7"]),
        ("a[9-11],b,c[1]-x", ["a9", "a10", "a11", "b", "c1-x"]),
        ("r[1-2]n[08-09]", ["r1n08", "r1n09", "r2n08", "r2n09"]),
    ],
)
def test_node_lists_are_written_out(text, expected):
    assert expand_nodes(text) == expected


@pytest.mark.parametrize("text", ["", "a[1-", "a[]", "a[x]", "a,,b", "a[1-2-3]", "a]", "a[3-1]", ","])
def test_what_is_no_node_list(text):
    with pytest.raises(ConfigError) as caught:
        expand_nodes(text)
    assert str(caught.value) == f"SLURM_JOB_NODELIST: expected a list such as node[01-03,7], got {text!r}"


def test_an_allocation_is_one_device_per_task():
    allocation = {"SLURM_JOB_NODELIST": "n[1-3],m", "SLURM_TASKS_PER_NODE": "2(x3),1"}
    assert slurm_devices(allocation) == tuple(f"{host}:auto" for host in "n1 n1 n2 n2 n3 n3 m".split())
    assert slurm_devices({"SLURM_JOB_NODELIST": "n[1-2]"}, "cuda") == ("n1:cuda", "n2:cuda")
    assert slurm_devices({}) is None


def test_an_allocation_of_the_very_machine_needs_no_host():
    allocation = {"SLURM_JOB_NODELIST": "n1", "SLURM_TASKS_PER_NODE": "4"}
    assert slurm_devices({**allocation, "SLURMD_NODENAME": "n1"}) == ("auto",) * 4
    # salloc, on the machine from where jobs are sent
    assert slurm_devices(allocation) == ("n1:auto",) * 4


@pytest.mark.parametrize("counts", ["2", "2,1,1", "two,1", "0,1", ""])
def test_task_counts_that_do_not_fit(counts):
    with pytest.raises(
        ConfigError, match="SLURM_TASKS_PER_NODE: expected counts for the 2 nodes of the alloc"
    ):
        slurm_devices({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": counts})


@pytest.mark.parametrize("text", ["node0:10001", "node0 slots=9999\nnode1:2", "node0\n" * 10_001])
def test_a_hostfile_with_more_slots_than_any_machine(tmp_path, text):
    path = tmp_path / "hosts.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r", line \d+: expected at most 10000 slots up to here, got more$"):
        read_hostfile(path)


def test_numbers_of_thousands_of_digits_are_no_counts(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_text("node0:" + "9" * 5000)
    with pytest.raises(ConfigError, match="line 1: expected a host and its slots, ") as caught:
        read_hostfile(path)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match="SLURM_TASKS_PER_NODE: expected counts"):
        slurm_devices({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "9" * 5000})


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full"])
def test_a_device_is_no_hostfile(path):
    with pytest.raises(ConfigError, match=rf"got '{path}' \(a device\)$"):
        read_hostfile(path)


def test_a_file_of_more_bytes_than_any_hostfile_has_is_none(tmp_path):
    path = tmp_path / "hosts"
    path.write_bytes(b"#" * (MOST_TEXT + 1))
    with pytest.raises(ConfigError, match=r"^hostfile: expected a .*\(more than 4,194,304 bytes\)$"):
        read_hostfile(path)


def test_a_pipe_or_a_path_that_is_none_is_no_hostfile(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        ("n" * 300, "File name too long"),
        (f"{__file__}/below", "Not a directory"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(ConfigError, match=rf"\({reason}\)$"):
            read_hostfile(path)


def test_more_nodes_than_any_machine_has_and_lists_that_take_for_ever():
    for text in ("n[1-999999999]", "n[1-99][1-99][1-99]", "a" * 60 + "["):
        with pytest.raises(ConfigError, match="^SLURM_JOB_NODELIST: expected "):
            expand_nodes(text)
    with pytest.raises(ConfigError, match="^SLURM_TASKS_PER_NODE: expected counts for the 2 nodes"):
        slurm_devices({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "2(x999999999)"})
