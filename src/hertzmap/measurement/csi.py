"""From paths to what a base station measures: CFR, CIR taps, impairments, features.

Uplink: the UE sounds, the stations listen; by reciprocity the paths of the downlink serve with
their ends swapped. Gains of paths between ports come from `propagation.arrays`. Equation numbers
are those of DiffLoc (arXiv 2510.14111); impairments are ours and options.

The response of a port pair on subcarrier k, f_k relative to the carrier f_c:

    H[k] = sum over paths p of  b_p exp(-j 2 pi (f_c + f_k) tau_p),   f_k = (k - N / 2) df
    b_p  = F_station(departure)' a_p F_ue(arrival) * s_station(departure) * s_ue(arrival)

With W = N df and a unitary inverse DFT (2) over k as it stands, tap l is, without any DFT,

    g[l] = sum over p of  b_p exp(-j 2 pi (f_c - W / 2) tau_p) D(l - guard - W tau_p)
    D(u) = 1 / sqrt(N) * sum over used k of  exp(j 2 pi k u / N)
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
from jaxtyping import Complex, Float
from pydantic import ConfigDict

from hertzmap.core.channels import Channels
from hertzmap.core.errors import ConfigError

LEVEL_FLOOR_DB = -60.0
"""Floor of angle-delay features below the total power [dB]."""


@final
@dataclass(frozen=True)
class Sounding:
    """Band and taps. Source: DiffLoc, Table III (4,096 subcarriers at 30 kHz, 150 taps)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    subcarriers: int = 4096
    """Subcarriers N of the DFT."""
    spacing_hz: float = 30e3
    """Subcarrier spacing [Hz]."""
    active: int = 4096
    """Subcarriers in use, those in the middle; 3,276 for a 100 MHz carrier."""
    taps: int = 150
    """Taps that are kept, from the first one."""
    guard: int = 0
    """Taps that a path of no delay is moved by, so that less of it is cut off."""

    def __post_init__(self) -> None:
        if not (1 <= self.active <= self.subcarriers and 1 <= self.taps <= self.subcarriers):
            msg = (
                "Sounding needs 1 to `subcarriers` for `active` and `taps`, got "
                f"{self.subcarriers}, {self.active}, {self.taps}"
            )
            raise ConfigError(msg)
        if self.spacing_hz <= 0 or self.guard < 0:
            msg = f"Sounding needs spacing_hz above 0 and guard of at least 0, got {self}"
            raise ConfigError(msg)

    @property
    def rate_hz(self) -> float:
        """Sampling rate W [Hz]; a tap is 1 / W."""
        return self.subcarriers * self.spacing_hz

    @property
    def first_active(self) -> int:
        """First subcarrier in use."""
        return (self.subcarriers - self.active) // 2

    @property
    def frequency_hz(self) -> Float[np.ndarray, " subcarriers"]:
        """Frequency of each subcarrier relative to the carrier [Hz]."""
        return (np.arange(self.subcarriers) - self.subcarriers // 2) * self.spacing_hz


def synthesize_taps(
    channels: Channels,
    gains: Complex[np.ndarray, "paths antennas ports"],
    sounding: Sounding | None = None,
    late_s: Float[np.ndarray, " links"] | None = None,
) -> Complex[np.ndarray, "links antennas ports taps"]:
    """CIR taps (3) of every link, straight from the paths; links without paths are zero.

    Args:
        channels: the paths.
        gains: of `propagation.arrays.port_gains`.
        sounding: band and taps.
        late_s: error of each link's delay [s], none by default. What then comes before time 0 is
            seen at the end of the DFT's window, beyond the taps, but for its side lobes.
    """
    sounding = sounding or Sounding()
    pairs = gains.shape[1:]
    delay_s = channels.delay_s
    if late_s is not None:
        delay_s = delay_s + late_s[channels.link_of_path]
    kernel = _tap_kernel(delay_s, sounding).astype(np.complex64)
    flat = gains.reshape(len(gains), pairs[0] * pairs[1]).astype(np.complex64)
    out = np.zeros((channels.links, flat.shape[1], sounding.taps), np.complex64)
    for link in np.flatnonzero(np.diff(channels.offset)):
        mine = channels.paths(int(link))
        np.matmul(flat[mine].T, kernel[mine], out=out[link])
    return out.reshape(channels.links, *pairs, sounding.taps)


def _tap_kernel(
    delay_s: Float[np.ndarray, " paths"], sounding: Sounding
) -> Complex[np.ndarray, "paths taps"]:
    """What one path of unit gain at the carrier gives to each tap."""
    late = np.arange(sounding.taps) - sounding.guard - sounding.rate_hz * delay_s[:, None]
    # sum of a geometric series over the used subcarriers, written about their middle
    middle = sounding.first_active + 0.5 * (sounding.active - 1)
    turn = np.pi * late / sounding.subcarriers
    series = np.where(
        np.abs(np.sin(turn)) < 1e-12,
        float(sounding.active),
        np.sin(sounding.active * turn) / np.where(np.abs(np.sin(turn)) < 1e-12, 1.0, np.sin(turn)),
    )
    # f_0 = -W / 2 turns a path of delay tau by exp(+j pi W tau)
    phase = 2.0 * turn * middle + np.pi * sounding.rate_hz * delay_s[:, None]
    guarded = np.exp(1j * np.mod(phase, 2.0 * np.pi))
    return series * guarded / np.sqrt(sounding.subcarriers)


def frequency_response(
    channels: Channels,
    gains: Complex[np.ndarray, "paths antennas ports"],
    link: int,
    sounding: Sounding | None = None,
) -> Complex[np.ndarray, "antennas ports subcarriers"]:
    """CFR H of one link (1); unused subcarriers are zero. 4 MiB a link: never store all."""
    sounding = sounding or Sounding()
    mine = channels.paths(link)
    waves = channels.delay_s[mine, None] * sounding.frequency_hz
    used = np.zeros(sounding.subcarriers)
    used[sounding.first_active :][: sounding.active] = 1.0
    return np.einsum("pru,pk->ruk", gains[mine], used * np.exp(-2j * np.pi * np.mod(waves, 1.0)))


def taps_of_response(
    response: Complex[np.ndarray, "*links subcarriers"], sounding: Sounding | None = None
) -> Complex[np.ndarray, "*links taps"]:
    """First taps (3) of the unitary inverse DFT (2) of a CFR."""
    sounding = sounding or Sounding()
    taps = np.fft.ifft(response, axis=-1, norm="ortho")
    return np.roll(taps, sounding.guard, axis=-1)[..., : sounding.taps]


@final
@dataclass(frozen=True)
class Impairments:
    """What spoils a measured channel; every one is off by default, as in the paper.

    Usual sizes: timing 130 ns (half a step of the timing advance at 30 kHz), clocks 1 ns, gain
    6 dB, antennas 5 degrees and 0.5 dB; at 25 m/s a Doppler shift of 300 Hz is left over.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    snr_db: float | None = None
    """Mean power of a link's CFR over subcarriers and port pairs, over the noise there [dB]."""
    timing_s: float = 0.0
    """Greatest transmit time offset of a UE [s]: uniform to both sides, alike for all stations."""
    clock_std_s: float = 0.0
    """Clock error of a station [s], alike for all snapshots of a call."""
    random_phase: bool = False
    """A random common phase for each station and snapshot, as after correcting the CFO."""
    port_offset_hz: float = 0.0
    """Frequency error left over [Hz]; turns ports that sound one after another."""
    port_gap_s: float = 1e-3
    """Time between the soundings of two ports [s]."""
    gain_std_db: float = 0.0
    """Gain of a station's receiver in a snapshot [dB]."""
    antenna_std_db: float = 0.0
    """Gain error of a station's antenna [dB], alike for all snapshots of a call."""
    antenna_std_rad: float = 0.0
    """Phase error of a station's antenna [rad], alike for all snapshots of a call."""

    def __post_init__(self) -> None:
        for name in (
            *("timing_s", "clock_std_s", "gain_std_db", "antenna_std_db", "antenna_std_rad"),
            "port_gap_s",
        ):
            if not 0.0 <= getattr(self, name) < np.inf:
                msg = f"Impairments.{name} must be at least 0, got {getattr(self, name)}"
                raise ConfigError(msg)


def delayed(
    channels: Channels, impairments: Impairments, run: np.random.Generator
) -> Float[np.ndarray, " links"]:
    """Error of each link's delay [s]: the UE's timing and the stations' clocks.

    Args:
        channels: the paths.
        impairments: how large.
        run: generator of the run; stations' clocks are drawn first.
    """
    clock = impairments.clock_std_s * run.standard_normal(len(channels.transmitters))
    timing = impairments.timing_s * run.uniform(-1.0, 1.0, size=channels.snapshots)
    return (timing[:, None] + clock).ravel()


def impaired_taps(
    channels: Channels,
    gains: Complex[np.ndarray, "paths antennas ports"],
    impairments: Impairments,
    run: np.random.Generator,
    sounding: Sounding | None = None,
) -> Complex[np.ndarray, "links antennas ports taps"]:
    """Taps as a station sees them: delays, phases and gains wrong, noise added.

    Delay errors turn the carrier too. White noise on the CFR is white on the taps of a unitary DFT,
    with the same variance if all subcarriers are in use; else we scale it by the share in use and
    leave out that neighbouring taps then share some of it.

    Args:
        channels: the paths.
        gains: of `propagation.arrays.port_gains`.
        impairments: what is wrong.
        run: generator of the run.
        sounding: band and taps.
    """
    sounding = sounding or Sounding()
    stations = len(channels.transmitters)
    late_s = delayed(channels, impairments, run)
    carrier = np.array([one.carrier_hz for one in channels.transmitters])
    turn = np.exp(-2j * np.pi * np.mod(np.tile(carrier, channels.snapshots) * late_s, 1.0))
    turned = gains * turn[channels.link_of_path, None, None]
    taps = synthesize_taps(channels, turned, sounding, late_s)
    antenna = 10.0 ** (
        impairments.antenna_std_db / 20.0 * run.standard_normal((stations, taps.shape[1]))
    ) * np.exp(1j * impairments.antenna_std_rad * run.standard_normal((stations, taps.shape[1])))
    level = 10.0 ** (impairments.gain_std_db / 20.0 * run.standard_normal(channels.links))
    phase = run.uniform(0.0, 2.0 * np.pi, size=channels.links)
    level = level * np.exp(1j * phase * impairments.random_phase)
    port = np.exp(
        2j * np.pi * impairments.port_offset_hz * impairments.port_gap_s * np.arange(taps.shape[2])
    )
    factor = np.tile(antenna, (channels.snapshots, 1))[:, :, None] * level[:, None, None] * port
    taps *= factor[..., None].astype(np.complex64)
    if impairments.snr_db is not None:
        # mean over subcarriers of the CFR's power is that of the paths, as they are far apart
        power = np.abs(factor) ** 2
        flat = np.abs(gains) ** 2
        mean = np.zeros((channels.links, *flat.shape[1:]))
        np.add.at(mean, channels.link_of_path, flat)
        variance = (mean * power).mean(axis=(1, 2)) / 10.0 ** (impairments.snr_db / 10.0)
        variance = variance * sounding.active / sounding.subcarriers
        noise = run.standard_normal((2, *taps.shape), dtype=np.float32)
        scale = np.sqrt(0.5 * variance).astype(np.float32)[:, None, None, None]
        taps += scale * (noise[0] + 1j * noise[1])
    return taps


def fingerprint(
    taps: Complex[np.ndarray, "links antennas ports taps"],
) -> Float[np.ndarray, "links features"]:
    """Magnitudes, then phases in (-pi, pi] (4): 38,400 numbers of 32 x 4 x 150 taps."""
    flat = taps.reshape(len(taps), -1)
    return np.concatenate([np.abs(flat), np.angle(flat)], axis=1).astype(np.float32)


def angle_delay_power(
    taps: Complex[np.ndarray, "links antennas ports taps"],
    panel: tuple[int, int, int] = (2, 4, 4),
    align: Literal["none", "first"] = "none",
) -> Float[np.ndarray, "links features"]:
    """Power by beam and tap [dB], and the overall level [dB]: what survives phases. Ours.

    A unitary 2-D DFT over the panel gives the beams; powers are added over polarisations and UE
    ports, divided by the total, in dB with a floor at `LEVEL_FLOOR_DB`. A link without power is at
    the floor throughout, its level NaN.

    Args:
        taps: of `synthesize_taps`.
        panel: polarisations, rows and columns of the stations' arrays.
        align: ``first`` moves the strongest beam's first strong tap (within 10 dB of the greatest)
            to tap 0, which gives up range and so does not mind timing.
    """
    links, _, ports, count = taps.shape
    beams = np.fft.fft2(taps.reshape(links, *panel, ports, count), axes=(2, 3), norm="ortho")
    power = (np.abs(beams) ** 2).sum(axis=(1, 4)).reshape(links, -1, count)
    total = power.sum(axis=(1, 2))
    if align == "first":
        by_tap = power.sum(axis=1)
        first = np.argmax(by_tap >= 0.1 * by_tap.max(axis=1, keepdims=True), axis=1)
        index = (np.arange(count) + first[:, None]) % count
        power = np.take_along_axis(power, index[:, None, :], axis=2)
    share = power / np.where(total > 0, total, np.inf)[:, None, None]
    relative = 10.0 * np.log10(np.maximum(share, 10.0 ** (LEVEL_FLOOR_DB / 10.0)))
    with np.errstate(divide="ignore"):
        level = np.where(total > 0, 10.0 * np.log10(total), np.nan)
    return np.concatenate([relative.reshape(links, -1), level[:, None]], axis=1).astype(np.float32)
