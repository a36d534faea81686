"""Which arrays a noun becomes in a shard, and back: channels, radio cells.

Names follow the dataset's specification; every array carries unit and meaning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter

from hertzmap.core.channels import (
    DIFFRACTED,
    REFLECTED,
    SCATTERED,
    TRANSMITTED,
    Channels,
)
from hertzmap.core.sequences import (
    NO_INDEX,
    NOT_SIMULATED,
    PRESENT,
    QUANTITIES,
    REASONS,
    MeasurementSequence,
)
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.datasets.store import Layer

PATHS_A_CHUNK = 4096
"""Paths that are read at once: about 250 kB."""
POSE = ("east_m", "north_m", "up_m", "yaw_rad", "pitch_rad", "roll_rad", "total_dbm", "carrier_hz")
"""Columns of ``cells/pose``."""
_PATTERNS = TypeAdapter(list[AntennaPattern])


def cell_layers(
    transmitters: Sequence[Transmitter],
    total_dbm: float,
    pci: Sequence[int] | None = None,
) -> tuple[dict[str, Layer], dict[str, Any]]:
    """Arrays and attributes of the group ``cells``.

    Args:
        transmitters: the radio cells, in their order.
        total_dbm: total transmit power of each [dBm].
        pci: physical cell identity of each, 0 to 1007; counted from 0 by default.
    """
    patterns = list(dict.fromkeys(one.pattern for one in transmitters))
    pose = np.array(
        [
            (*one.place_m, one.yaw_rad, one.pitch_rad, one.roll_rad, total_dbm, one.carrier_hz)
            for one in transmitters
        ],
        dtype=np.float64,
    ).reshape(-1, len(POSE))
    number = np.arange(len(transmitters)) if pci is None else np.asarray(pci)
    used = np.array([patterns.index(one.pattern) for one in transmitters])
    layers = {
        "cells/pose": Layer(
            pose,
            ("cells", "pose"),
            "see columns",
            "place, orientation, power and carrier of each radio cell",
            attrs={"columns": list(POSE)},
        ),
        "cells/pci": Layer(
            number.astype(np.int32), ("cells",), "1", "physical cell identity", least=0, most=1007
        ),
        "cells/pattern": Layer(
            used.astype(np.int32),
            ("cells",),
            "1",
            "row of the antenna pattern in the group's list of patterns",
            least=0,
            most=max(len(patterns) - 1, 0),
        ),
    }
    attrs = {
        "names": [one.name for one in transmitters],
        "patterns": [asdict(pattern) for pattern in patterns],
    }
    return layers, attrs


def transmitters_of(
    values: Mapping[str, np.ndarray], attrs: Mapping[str, Any]
) -> tuple[Transmitter, ...]:
    """The radio cells again, from the arrays and attributes of the group ``cells``."""
    patterns = _PATTERNS.validate_python(attrs["patterns"])
    return tuple(
        Transmitter(
            place_m=(east, north, up),
            carrier_hz=carrier,
            pattern=patterns[pattern],
            yaw_rad=yaw,
            pitch_rad=pitch,
            roll_rad=roll,
            name=name,
        )
        for (east, north, up, yaw, pitch, roll, _, carrier), pattern, name in zip(
            values["pose"].tolist(), values["pattern"].tolist(), attrs["names"], strict=True
        )
    )


def channel_layers(channels: Channels) -> dict[str, Layer]:
    """Arrays of the group ``rt``: the paths of all links behind one another, and where each begins.

    Delays stay in double precision, as the phase of the carrier hangs on them; all else is single.
    """

    def paths(
        values: np.ndarray,
        axes: tuple[str, ...],
        units: str,
        text: str,
        attrs: Mapping[str, Any] | None = None,
        least: float | None = None,
    ) -> Layer:
        dims = ("paths", *axes)
        return Layer(values, dims, units, text, PATHS_A_CHUNK, least, attrs=attrs or {})

    angles, single = {"columns": ["azimuth", "zenith"]}, np.float32
    by_polarisation = "field gain by polarisation (vertical, horizontal), carrier's phase left out"
    met = {
        "flag_masks": [REFLECTED, DIFFRACTED, SCATTERED, TRANSMITTED],
        "flag_meanings": "reflected diffracted scattered transmitted",
    }
    return {
        "rt/offset": Layer(
            channels.offset.astype(np.int64),
            ("links_and_one",),
            "1",
            "first path of each link (sample, step, cell), and at last the number of paths",
            least=0,
            attrs={"offsets_of": "paths"},
        ),
        "rt/gain": paths(
            channels.gain.astype(np.complex64),
            ("ue_polarisations", "station_polarisations"),
            "1",
            by_polarisation,
        ),
        "rt/delay": paths(channels.delay_s, (), "s", "absolute delay", least=0.0),
        "rt/departure": paths(
            channels.departure_rad.astype(single),
            ("angles",),
            "rad",
            "direction that the path leaves the station towards",
            angles,
        ),
        "rt/arrival": paths(
            channels.arrival_rad.astype(single),
            ("angles",),
            "rad",
            "direction that the path comes to the UE from",
            angles,
        ),
        "rt/doppler": paths(channels.doppler_hz.astype(single), (), "Hz", "Doppler shift"),
        "rt/kind": paths(channels.kind, (), "1", "what the path met; 0 is line of sight", met),
        "rt/depth": paths(channels.depth, (), "1", "number of interactions"),
    }


def channels_of(
    values: Mapping[str, np.ndarray], transmitters: tuple[Transmitter, ...]
) -> Channels:
    """The channels again, in double precision, from arrays of the group ``rt``."""
    return Channels(
        transmitters,
        values["offset"],
        values["gain"].astype(np.complex128),
        values["delay"],
        values["departure"].astype(np.float64),
        values["arrival"].astype(np.float64),
        values["doppler"].astype(np.float64),
        values["kind"],
        values["depth"],
    )


def truth_layers(
    position_m: Float[np.ndarray, "samples steps 3"],
    velocity_m_s: Float[np.ndarray, "samples steps 3"],
) -> dict[str, Layer]:
    """Arrays of the group ``truth``: where the UEs are and how they move."""
    return {
        "truth/position": Layer(
            position_m,
            ("samples", "steps", "axes"),
            "m",
            "place of the UE (east, north, up above ground)",
            chunk=64,
        ),
        "truth/velocity": Layer(
            velocity_m_s,
            ("samples", "steps", "axes"),
            "m/s",
            "velocity of the UE (east, north, up)",
            chunk=64,
        ),
    }


SEQUENCE_CHUNK = 64
"""Samples that are read at once."""


def sequence_layers(sequences: MeasurementSequence) -> tuple[dict[str, Layer], dict[str, Any]]:
    """Arrays of the groups ``meas`` and ``rt``, and attributes of ``meas``.

    Missing values are stored as 0 beside their reason. Keys that were not simulated at all are left
    out, and come back as such.
    """
    axes = ("samples", "steps", "cells")
    simulated = [key for key in sequences.keys if np.any(sequences.reason[key] != NOT_SIMULATED)]
    layers: dict[str, Layer] = {}
    for key in simulated:
        quantity = QUANTITIES[key]
        dims = (*axes, "ports") if quantity.ports else axes
        group = "rt" if quantity.layer == "rt" else "meas"
        present = sequences.present(key)
        seen = present[..., None] if quantity.ports else present
        value = np.where(seen & np.isfinite(sequences.value[key]), sequences.value[key], 0.0)
        units = quantity.unit or "1"
        layers[f"{group}/{key}"] = Layer(
            value.astype(np.float32), dims, units, quantity.meaning, SEQUENCE_CHUNK
        )
        if quantity.indexed:
            layers[f"{group}/{key}_index"] = Layer(
                sequences.index[key].astype(np.int16),
                dims,
                "1",
                f"report index of {key}; {NO_INDEX} where missing",
                SEQUENCE_CHUNK,
                least=NO_INDEX,
            )
    reasons = np.stack([sequences.reason[key] for key in simulated], axis=-1)
    layers["meas/reason"] = Layer(
        reasons,
        (*axes, "layers"),
        "1",
        "why each value is there or not",
        SEQUENCE_CHUNK,
        least=0,
        most=len(REASONS) - 1,
        attrs={
            "keys": simulated,
            "flag_values": list(range(len(REASONS))),
            "flag_meanings": " ".join(text.replace(" ", "_") for text in REASONS),
        },
    )
    attrs = {"subcarrier_spacing_hz": sequences.subcarrier_spacing_hz}
    return layers, attrs


def sequences_of(
    values: Mapping[str, np.ndarray],
    keys: Sequence[str],
    time_s: Float[np.ndarray, "samples steps"],
    ue_id: Sequence[str],
    cells: Mapping[str, np.ndarray],
    subcarrier_spacing_hz: float,
) -> MeasurementSequence:
    """The sequences again.

    Args:
        values: arrays of ``meas`` and ``rt`` by their names without the group.
        keys: of the last axis of ``reason``.
        time_s: of each report [s].
        ue_id: name of each sample's UE.
        cells: arrays of the group ``cells``.
        subcarrier_spacing_hz: as stored [Hz].
    """
    value, index, reason = {}, {}, {}
    for position, key in enumerate(keys):
        why = values["reason"][..., position]
        gone = why != PRESENT
        shaped = gone[..., None] if QUANTITIES[key].ports else gone
        reason[key] = why
        value[key] = np.where(shaped, np.float32(np.nan), values[key])
        if QUANTITIES[key].indexed:
            index[key] = values[f"{key}_index"]
            value[key] = np.where(index[key] == NO_INDEX, np.float32(np.nan), value[key])
    return MeasurementSequence(
        tuple(ue_id),
        time_s,
        cells["id"],
        cells["pci"],
        value,
        index,
        reason,
        cells["nr_arfcn"],
        subcarrier_spacing_hz,
    )
