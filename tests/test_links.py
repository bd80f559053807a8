"""What a rule exchanges by, beside stand-ins for the other ranks: what is made, who is called, what is given back."""

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mpi4py import MPI

from theanompi.config import RunConfig
from theanompi.device import FlatBuffer
from theanompi.exchange import Choice
from theanompi.exchange.window import COUNT, FLAG
from theanompi.record.progress import Progress
from theanompi.training import links as module
from theanompi.training.links import Links
from theanompi.training.ranks import Agreed


class Way:
    """An exchanger, a centre, a mailbox, a helper or a bell."""

    def __init__(self, *made, **how):
        self.made, self.how, self.closed, self.computing, self.adds = made, how, 0, False, []
        self.description, self.window = "by a stand-in", SimpleNamespace(hurried=None)

    def close(self):
        self.closed += 1

    def hurried(self):
        return not self.computing

    def add(self, rank, number, value):
        self.adds.append((rank, number, value))
        return 40 if number == COUNT else int(rank == 1)


@pytest.fixture
def ways(monkeypatch):
    """All that was made, in order."""
    made = []

    def way(*arguments, **how):
        made.append(Way(*arguments, **how))
        return made[-1]

    def choose(comm, buffer, **how):
        return Choice("ar", way("chosen", comm, buffer, **how), {"ar": 1e-3, "shm": 2e-3}, {})

    monkeypatch.setattr(module, "choose", choose)
    for name in ("get_exchanger", "WindowCentre", "WindowMailbox", "ThreadHelper", "LockedWindow"):
        monkeypatch.setattr(module, name, way)
    return made


def rank_of(size, rank=1, **settings):
    comm = SimpleNamespace(Get_rank=lambda: rank, Get_size=lambda: size)
    return Links(comm, RunConfig(**settings), Progress(), SimpleNamespace(asked=False))


BUFFER, OTHER = FlatBuffer({"w": (250_000,)}), FlatBuffer({"w": (3,)})


def test_the_strategy_that_was_the_fastest_for_a_first_buffer_is_taken_for_all(ways):
    links = rank_of(3, exchange="auto", require_cuda_aware=True)
    first = links.sum(BUFFER)
    words = links.words
    assert words.startswith("ar, by a stand-in\n  ar ") and "1.00 GB/s   taken\n" in words
    second = links.sum(OTHER, averages=True)
    assert [way.made for way in ways] == [("chosen", links._comm, BUFFER), ("ar", links._comm, OTHER)]
    assert [way.how for way in ways] == [
        {"require_cuda_aware": True},
        {"averages": True, "require_cuda_aware": True},
    ]
    assert links.words == words and first.progress is second.progress is links._progress


@pytest.mark.parametrize(
    ("size", "exchange", "name"), [(1, "auto", "overlap"), (1, "ar", "ar"), (3, "ar", "ar")]
)
def test_what_is_named_is_taken_and_a_single_rank_has_nothing_to_choose_by(ways, size, exchange, name):
    links = rank_of(size, 0, exchange=exchange)
    links.sum(BUFFER)
    assert links.words == f"{name}, by a stand-in" and ways[0].made[0] == name


def test_who_waits_for_what_all_share_is_in_no_hurry_while_a_helper_lets_it_compute(ways):
    links = rank_of(3)
    centre, mailbox = links.centre(BUFFER), links.mailbox(OTHER)
    assert [way.made for way in ways] == [(links._comm, b, links._progress) for b in (BUFFER, OTHER)]
    assert centre.window.hurried() and mailbox.window.hurried()
    helper = links.helper(SimpleNamespace(flat=SimpleNamespace(device="cuda:1")))
    assert helper.made == ("cuda:1",) and centre.window.hurried()
    helper.computing = True
    assert not centre.window.hurried() and not mailbox.window.hurried()


@pytest.mark.parametrize(
    ("error", "others", "times"),
    [
        (None, (1, 2, False), 0),
        (ArithmeticError, (1, 2, False), 0),
        (Agreed, (1, 2, False), 1),
        (Agreed, (1, 1, True), 0),
    ],
)
def test_all_is_given_back_once_and_of_errors_only_where_all_ranks_have_agreed_and_made_as_much(
    ways, error, others, times
):
    """Any other one takes the others along, which may be in the midst of an exchange."""
    links = rank_of(3)
    links._comm.allgather = lambda own: [others, own, others]
    links.sum(BUFFER), links.centre(BUFFER), links.mailbox(BUFFER), links.helper(BUFFER), links.hang_bell()
    with suppress(ArithmeticError, Agreed), links.closed_where_all_end():
        if error is not None:
            raise error
    assert [way.closed for way in ways] == [times] * 5
    for _ in range(2):
        links.close()
    assert [way.closed for way in ways] == [1] * 5


def test_who_is_called_counts_at_rank_0_and_looks_at_its_own_bell(ways):
    links = rank_of(3)
    links.call()
    assert not links.called()
    links.hang_bell()
    assert links.count(2) == 42 and links.called()
    assert ways[0].adds == [(0, COUNT, 2), (1, FLAG, 0)]
    links._stop.asked = True
    assert links.called() and links.called()
    assert ways[0].adds[2:] == [(0, FLAG, 1), (1, FLAG, 1), (2, FLAG, 1), (1, FLAG, 0), (1, FLAG, 0)], (
        "rings once"
    )
    assert not rank_of(3).called()
    quiet = rank_of(3, 2)
    quiet.hang_bell()
    assert not quiet.called()


def test_networks_that_change_places_need_not_be_contiguous_and_whose_is_waited_for_is_told():
    def replace(what, to, sendtag, source, recvtag):
        assert (to, source, sendtag, recvtag) == (2, 2, 0, 0) and what[1] == MPI.FLOAT
        assert what[0].flags.c_contiguous and links._progress.exchange.what == "waiting for rank 2"
        what[0] += 10

    links = rank_of(3)
    links._comm.Sendrecv_replace = replace
    values = torch.arange(6.0).reshape(2, 3).T
    links.trade(values, 2)
    assert torch.equal(values, torch.arange(10.0, 16.0).reshape(2, 3).T)


def test_numbers_are_summed_in_double_precision():
    links = Links(MPI.COMM_SELF, RunConfig(), Progress(), SimpleNamespace(asked=False))
    assert links.total([2**24 + 1, np.float64(0.1)]) == [2**24 + 1, 0.1]
