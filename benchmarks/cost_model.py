"""What synchronous training on k workers costs: messages, collectives, buckets behind backward. No measuring here.

A message of m bytes takes α + β·m seconds (Hockney 1994), adding up m received bytes takes γ·m; collectives are sums
of such terms (Thakur, Rabenseifner and Gropp 2005), and an exchange has the three phases of Goyal et al. 2017, §4:
sum within each server, allreduce between the servers, broadcast within each server. Nothing else is in it: no
caches, no contention, no slower workers that the others wait for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


class InputError(ValueError):
    """The numbers that the model was given cannot be used; the message is one line."""


@dataclass(frozen=True)
class Link:
    """What a message costs.

    Attributes
    ----------
    latency_s : float
        α, seconds per message.
    s_per_byte : float
        β, the inverse of the bandwidth in one direction; sending and receiving go on at the same time.
    reduce_s_per_byte : float
        γ, seconds to add one received byte to one's own.
    """

    latency_s: float
    s_per_byte: float
    reduce_s_per_byte: float = 0.0

    def message(self, nbytes: float) -> float:
        """Seconds of one message."""
        return self.latency_s + self.s_per_byte * nbytes


Algorithm = Callable[[int, float, Link], float]


def ring(p: int, nbytes: float, link: Link) -> float:
    """Allreduce round a ring, also called the bucket algorithm: 2(p−1) steps of b/p bytes.

    T = 2(p−1)·α + 2(p−1)/p·b·β + (p−1)/p·b·γ (Thakur et al. 2005; Patarasuk and Yuan 2009), for any p.

    Parameters
    ----------
    p : int
        Who takes part.
    nbytes : float
        b, bytes of the buffer.
    link : Link

    Returns
    -------
    float
        Seconds.

    Examples
    --------
    >>> ring(4, 1e6, Link(1e-3, 0.0))  # six steps
    0.006
    """
    piece = nbytes / p
    return (p - 1) * (2 * link.message(piece) + link.reduce_s_per_byte * piece)


def halving_doubling(p: int, nbytes: float, link: Link) -> float:
    """Allreduce by recursive halving, then doubling: 2·log2 p steps, with a fold where p is no power of two.

    T = 2·log2 p·α + 2(p−1)/p·b·β + (p−1)/p·b·γ (Rabenseifner 2004; Thakur et al. 2005). Otherwise, as MPICH does
    it, q is the power of two below p; p − q members hand their whole buffer to a partner first and get the
    result from it last: T(q) + 2α + 2b·β + b·γ.

    Parameters
    ----------
    p, nbytes, link
        As for `ring`.

    Returns
    -------
    float
        Seconds.

    Examples
    --------
    >>> halving_doubling(4, 1e6, Link(1e-3, 0.0)), halving_doubling(5, 1e6, Link(1e-3, 0.0))
    (0.004, 0.006)
    """
    q = 1 << p.bit_length() - 1
    scatter, gather = _halves(q, nbytes, link)
    fold = 2 * link.message(nbytes) + link.reduce_s_per_byte * nbytes if q < p else 0.0
    return scatter + gather + fold


def binary_blocks(p: int, nbytes: float, link: Link) -> float:
    """Halving and doubling in blocks of 2^i members, for any p, as in Goyal et al. 2017, §4 (Rabenseifner 2004).

    Each block halves by itself. Then, from the smallest block to the largest, every member of a block of s sends
    its sum in parts of b/S bytes to the S/s members of the next block (of S) who hold them too. Before the blocks
    double, the sums go back the same way. What one member sends or gets in such a step are several messages at
    once, which share the bandwidth and have one latency. For a power of two it is `halving_doubling`.

    Parameters
    ----------
    p, nbytes, link
        As for `ring`.

    Returns
    -------
    float
        Seconds until the last member has the sum, on the longest path.

    Examples
    --------
    >>> unit = Link(0.0, 1.0)
    >>> binary_blocks(8, 1.0, unit) == halving_doubling(8, 1.0, unit)
    True
    >>> halving_doubling(44, 1.0, unit), binary_blocks(44, 1.0, unit)
    (3.9375, 2.5)
    """
    sizes = [1 << i for i in range(p.bit_length()) if p >> i & 1]  # the smallest block first
    arrived = 0.0
    for smaller, size in zip([0, *sizes], sizes, strict=False):
        arrived = max(arrived, _halves(size, nbytes, link)[0])
        if smaller:
            arrived += link.message(nbytes / smaller) + link.reduce_s_per_byte * nbytes / size
    finished = arrived + _halves(sizes[-1], nbytes, link)[1]
    for smaller, size in reversed(list(zip(sizes, sizes[1:], strict=False))):
        arrived += link.message(nbytes / smaller)
        # The larger block doubles when its last member has sent.
        finished = max(finished, *(arrived + _halves(s, nbytes, link)[1] for s in (smaller, size)))
    return finished


def _halves(q: int, nbytes: float, link: Link) -> tuple[float, float]:
    """Seconds of the reduce-scatter and of the allgather among q = 2^i members."""
    moved = (q - 1) / q * nbytes
    gather = (q.bit_length() - 1) * link.latency_s + moved * link.s_per_byte
    return gather + moved * link.reduce_s_per_byte, gather


ALGORITHMS: dict[str, Algorithm] = {
    "ring": ring,
    "halving_doubling": halving_doubling,
    "binary_blocks": binary_blocks,
}


def within_server(workers: int, nbytes: float, link: Link) -> float:
    """The sum within a server, and the broadcast within it: chains, through which the buffer runs in small pieces.

    T = 2(g−1)·α + 2b·β + b·γ for g > 1 workers, 0 for one.

    Examples
    --------
    >>> within_server(8, 100e6, Link(0.0, 1 / 20e9))
    0.01
    """
    if workers == 1:
        return 0.0
    return 2 * (workers - 1) * link.latency_s + (2 * link.s_per_byte + link.reduce_s_per_byte) * nbytes


def pieces(gradients: Sequence[tuple[float, float]], nbytes: float) -> list[tuple[float, float]]:
    """Gradients in the order in which they become ready, as buckets that are exchanged one by one.

    Parameters
    ----------
    gradients : sequence of (ready, bytes)
        In any order.
    nbytes : float
        Bytes of a bucket; the last one may have fewer. 0: each gradient is a bucket of its own.

    Returns
    -------
    list of (ready, bytes)
        A bucket is ready with the last of its bytes.

    Examples
    --------
    >>> pieces([(2.0, 30.0), (1.0, 50.0)], 40.0)
    [(1.0, 40.0), (2.0, 40.0)]
    """
    ordered = sorted(gradients)
    if not nbytes:
        return ordered
    ends = np.cumsum([size for _, size in ordered])
    cuts = np.append(np.arange(nbytes, ends[-1] * (1 - 1e-9), nbytes), ends[-1])
    # Without the tolerance a rounded sum would push a bucket's last byte into the next gradient.
    last = np.searchsorted(ends, cuts * (1 - 1e-9))
    sizes = np.diff(cuts, prepend=0.0)
    return [(ordered[i][0], float(size)) for i, size in zip(last, sizes, strict=True)]


def exposed(buckets: Sequence[tuple[float, float]], cost: Callable[[float], float], end: float) -> float:
    """Seconds of communication that are left after backward.

    A bucket's exchange begins when the bucket is ready and the one before it is through, and takes nothing from
    backward: done_i = max(ready_i, done_{i−1}) + cost(bytes_i); what counts is max(0, done_last − end).

    Parameters
    ----------
    buckets : sequence of (ready, bytes)
        In the order of their exchange, seconds from the same zero as `end`.
    cost : callable
        Bytes → seconds.
    end : float
        When backward is over.

    Examples
    --------
    >>> exposed([(1.0, 2.0), (2.0, 2.0)], lambda nbytes: nbytes, 4.0)
    1.0
    """
    done = 0.0
    for ready, nbytes in buckets:
        done = max(done, ready) + cost(nbytes)
    return max(0.0, done - end)


@dataclass(frozen=True)
class Inputs:
    """What the model needs to know of a network, its workers and their links.

    Attributes
    ----------
    name : str
    images_per_worker : int
        n.
    forward_s : float
        Seconds of an iteration that are not backward: forward, update, loading.
    backward_s : float
    gradients : tuple of (ready, bytes)
        When each gradient is ready, in seconds after backward began.
    bucket_bytes : float
        See `pieces`.
    network : Link
        Between servers.
    server : Link
        Between workers of one server.
    workers_per_server : int
        g.
    """

    name: str
    images_per_worker: int
    forward_s: float
    backward_s: float
    gradients: tuple[tuple[float, float], ...]
    bucket_bytes: float
    network: Link
    server: Link
    workers_per_server: int

    def exchange_s(self, workers: int, algorithm: str, nbytes: float) -> float:
        """Seconds in which one bucket is summed over all workers (the three phases).

        Raises
        ------
        InputError
            When the servers would not be full.
        """
        per_server = min(workers, self.workers_per_server)
        if workers % per_server:
            raise InputError(
                f"workers: expected at most {per_server} or a multiple of it (full servers), got {workers}"
            )
        between = ALGORITHMS[algorithm](workers // per_server, nbytes, self.network)
        return within_server(per_server, nbytes, self.server) + between

    def all_exchanges_s(self, workers: int, algorithm: str) -> float:
        """Seconds of all buckets, one after the other."""
        return sum(
            self.exchange_s(workers, algorithm, size) for _, size in pieces(self.gradients, self.bucket_bytes)
        )

    def iteration_s(self, workers: int, algorithm: str, overlap: bool) -> float:
        """Seconds of one iteration, with the exchange behind backward (`overlap`) or after it."""
        if not overlap:
            left = self.all_exchanges_s(workers, algorithm)
        else:
            buckets = pieces(self.gradients, self.bucket_bytes)
            left = exposed(
                buckets, lambda nbytes: self.exchange_s(workers, algorithm, nbytes), self.backward_s
            )
        return self.forward_s + self.backward_s + left

    def efficiency(self, workers: int, algorithm: str, overlap: bool) -> float:
        """Images per second of `workers` over what they would be if one full server's rate multiplied."""
        base = self.iteration_s(self.workers_per_server, algorithm, overlap)
        return base / self.iteration_s(workers, algorithm, overlap)


def fit(samples: Sequence[tuple[int, float, float]], algorithm: str, reduce_s_per_byte: float = 0.0) -> Link:
    """Fit α and β to measured allreduces: least squares of relative errors, neither of them below 0.

    Each sample is an equation T = c_α(p)·α + c_β(p, b)·β + c_γ(p, b)·γ. The bytes sent and those added up are in the
    same proportion for every p and b, so γ cannot be told from β by such times: it is measured by itself.

    Parameters
    ----------
    samples : sequence of (p, bytes, seconds)
        Those of a single member (p = 1) say nothing and are left out.
    algorithm : str
        A key of `ALGORITHMS`: what the MPI library ran.
    reduce_s_per_byte : float
        γ.

    Raises
    ------
    InputError
        For an unknown algorithm, times that are not above 0, or fewer than two sizes.

    Examples
    --------
    >>> link = fit([(2, b, ring(2, b, Link(1e-5, 1e-9))) for b in (1e3, 1e6)], "ring")
    >>> round(1e6 * link.latency_s, 6), round(1e9 * link.s_per_byte, 6)
    (10.0, 1.0)
    """
    if algorithm not in ALGORITHMS:
        raise InputError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    used = [sample for sample in samples if sample[0] > 1]
    sizes = {nbytes for _, nbytes, _ in used}
    if len(sizes) < 2:
        raise InputError(
            f"allreduce: expected times of at least two sizes, with two ranks or more, got {len(sizes)}"
        )
    if not all(math.isfinite(seconds) and seconds > 0 for *_, seconds in used):
        raise InputError("allreduce: expected times above 0 s, got one that is not")
    cost = ALGORITHMS[algorithm]
    reduce = Link(0.0, 0.0, reduce_s_per_byte)
    seconds = np.array([t for *_, t in used])
    terms = np.array([[cost(p, b, Link(1.0, 0.0)), cost(p, b, Link(0.0, 1.0))] for p, b, _ in used])
    rest = np.array([t - cost(p, b, reduce) for p, b, t in used])
    # nnls wants columns of like size: latencies are in units of 1 µs, inverse bandwidths of 1 ns/byte.
    scale = np.array([1e-6, 1e-9])
    solution, _ = nnls(terms * scale / seconds[:, None], rest / seconds)
    latency, s_per_byte = (solution * scale).tolist()
    return Link(latency, s_per_byte, reduce_s_per_byte)
