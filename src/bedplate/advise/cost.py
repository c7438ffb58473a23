"""What a layout costs in a year, and what it emits. Pure; amounts are drawn by `draws`, the same for all layouts.

    year = servers x price x annuity(discount, life) + energy + space + network + licences + staff
    energy = watts(load) x PUE x 8,766 h x price of a kWh;  watts(load) = idle + (full - idle) x load
    licences = price x cores, at least 16 for each CPU and 72 in all;  staff = hours for each event x events x wage

Growth and interest turn the years ahead into one equal yearly amount. What has no price is left out, and said so.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from bedplate.advise import literature, trouble
from bedplate.advise.amounts import Amount, Floats
from bedplate.advise.draws import Middle, Value
from bedplate.advise.fleet import Profile, ServerModel, cpu_overhead, given_or
from bedplate.advise.packing import Layout
from bedplate.model.quantity import parse

HOW = {
    "servers": "servers needed x price x annuity(discount, life)",
    "energy": "watts(load) x PUE x 8,766 h x price of a kWh; spare bare servers are off",
    "space": "servers x rack units x price of a rack unit and year",
    "network": "servers x price of a server's ports and year",
    "licences": "cores of hypervisors, at least 16 for each CPU and 72 in all, x price; KVM has none",
    "staff": "hours for each event x events of a year x wage",
}
"""What each item of a cost is."""
HOURS = 8_766.0
"""Of a year."""


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """What people have to do with, in a year of the whole layout."""

    failures: float
    patches: float


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one layout, in its currency, for a year."""

    items: dict[str, Floats]
    missing: tuple[str, ...]
    """What has no price."""

    @property
    def total(self) -> Floats:
        """All items."""
        return np.asarray(sum(self.items.values(), np.zeros(1)), dtype=np.float64)


def expected_events(profile: Profile, layout: Layout) -> Events:
    """By rates alone, where nothing was simulated."""
    patches = given_or(profile.operations.patches, literature.PATCHES.amount).mid
    used = {m: n - layout.metal_spares.get(m, 0) for m, n in layout.servers.items()}
    return Events(
        failures=sum(n * trouble.failures_a_year(profile, profile.model(m)) for m, n in layout.servers.items()),
        patches=sum(used.values()) * patches,
    )


def of(profile: Profile, layout: Layout, events: Events, value: Value) -> Cost:
    """The cost of a layout."""
    prices = profile.prices
    items: dict[str, Floats] = {}
    missing: list[str] = []

    def add(name: str, *, needs: Amount | None, what: str, made: Iterator[Floats]) -> None:
        if needs is None:
            missing.append(what)
        else:
            items[name] = np.asarray(sum(made, np.zeros(1)), dtype=np.float64)

    unpriced = [m for m in layout.servers if profile.model(m).price is None]
    if unpriced:
        missing.append(f"servers: {', '.join(unpriced)} has no price")
    items["servers"] = np.asarray(sum(_purchase(profile, layout, value), np.zeros(1)), dtype=np.float64)
    add("energy", needs=prices.electricity, what="energy: prices.electricity", made=_energy(profile, layout, value))
    add("space", needs=prices.space, what="space: prices.space", made=_space(profile, layout, value))
    add("network", needs=prices.network, what="network: prices.network", made=_network(profile, layout, value))
    items["licences"] = _licences(profile, layout, value)
    add("staff", needs=prices.staff, what="staff: prices.staff", made=_staff(profile, layout, events, value))
    factor = _growth(profile, value)
    return Cost(items={k: v * factor for k, v in items.items()}, missing=tuple(missing))


def _growth(profile: Profile, value: Value) -> Floats:
    """By how much the years ahead are dearer than this one, on average, each counted by its present value."""
    growth = _rate(profile.operations.growth, "growth", value)
    discount = _rate(profile.prices.discount, "discount", value)
    years = np.arange(profile.operations.years).reshape(-1, 1)
    weights = (1.0 + discount) ** -years
    return ((1.0 + growth) ** years * weights).sum(axis=0) / weights.sum(axis=0)


def _rate(amount: Amount | None, name: str, value: Value) -> Floats:
    return np.zeros(1) if amount is None else value(name, amount)


def _annuity(profile: Profile, value: Value) -> Floats:
    """Share of a price that a year of a server's life costs, with interest."""
    life = value("life", given_or(profile.prices.life, literature.LIFE.amount))
    rate = np.maximum(_rate(profile.prices.discount, "discount", value), 1e-9)
    return rate / (1.0 - (1.0 + rate) ** -life)


def _models(profile: Profile, layout: Layout) -> Iterator[tuple[ServerModel, int]]:
    for name, count in layout.servers.items():
        yield profile.model(name), count


def _purchase(profile: Profile, layout: Layout, value: Value) -> Iterator[Floats]:
    for model, count in _models(profile, layout):
        if model.price is not None:
            yield count * value(f"price of {model.name}", model.price) * _annuity(profile, value)


def _space(profile: Profile, layout: Layout, value: Value) -> Iterator[Floats]:
    assert profile.prices.space is not None
    for model, count in _models(profile, layout):
        yield count * model.rack_units * value("space", profile.prices.space)


def _network(profile: Profile, layout: Layout, value: Value) -> Iterator[Floats]:
    assert profile.prices.network is not None
    yield layout.count * value("network", profile.prices.network)


# --- energy -------------------------------------------------------------------------------------------------------


def kilowatt_hours(profile: Profile, layout: Layout, value: Value) -> Floats:
    """In a year, with what cooling and distribution take (PUE). Spare bare servers are switched off."""
    pue = value("PUE", given_or(profile.prices.pue, literature.PUE.amount))
    return np.asarray(sum(_watts(profile, layout, value), np.zeros(1)) * pue * HOURS / 1000.0, dtype=np.float64)


def _watts(profile: Profile, layout: Layout, value: Value) -> Iterator[Floats]:
    overhead = value("CPU overhead of VMs", cpu_overhead(profile, literature.CPU_OVERHEAD.amount))
    cpus = sum(profile.model(m).cpus * n for m, n in layout.hypervisors.items())
    virtual = sum(g.used for g in layout.groups if g.substrate == "vm") * (1.0 + overhead)
    for name, count in layout.hypervisors.items():
        yield count * _power(profile.model(name), np.minimum(1.0, virtual / max(1, cpus)), value)
    for group in layout.groups:
        if group.substrate == "metal":
            load = min(1.0, group.used / (group.nodes * group.cpu))
            yield group.nodes * _power(profile.model(group.model), np.array([load]), value)


def _power(model: ServerModel, load: Floats, value: Value) -> Floats:
    idle = model.power.idle if model.power else literature.IDLE.amount
    full = model.power.full if model.power else literature.FULL.amount
    low, high = value(f"idle power of {model.name}", idle), value(f"full power of {model.name}", full)
    return low + (high - low) * load


def _energy(profile: Profile, layout: Layout, value: Value) -> Iterator[Floats]:
    assert profile.prices.electricity is not None
    yield kilowatt_hours(profile, layout, value) * value("electricity", profile.prices.electricity)


def carbon(profile: Profile, layout: Layout, value: Value) -> Floats:
    """kg of CO2 equivalent in a year: the grid's, and what making the servers took over their life (GreenSKU)."""
    grid = value("grid", given_or(profile.prices.grid, literature.GRID.amount))
    life = value("life", given_or(profile.prices.life, literature.LIFE.amount))
    made = sum(count * embodied(model) for model, count in _models(profile, layout))
    return kilowatt_hours(profile, layout, value) * grid + made / life


def embodied(model: ServerModel) -> float:
    """kg of CO2 equivalent that making one server took: 1.65 for a GB of DDR5, 17.3 for a TB of SSD, 58 for a NIC,
    350 for the chassis (GreenSKU). CPUs and accelerators are not in that list and so not counted."""
    memory = parse(model.memory) / 1e9
    storage = 0.0 if model.storage == "0" else parse(model.storage) / 1e12
    return (
        memory * literature.CARBON_DIMM_GB.amount.mid
        + storage * literature.CARBON_SSD_TB.amount.mid
        + model.nics * literature.CARBON_NIC.amount.mid
        + literature.CARBON_CHASSIS.amount.mid
    )


# --- licences and staff -------------------------------------------------------------------------------------------


def licensed_cores(profile: Profile, layout: Layout) -> int:
    """Cores of hypervisors that a suite counts: at least 16 for each CPU and 72 in all."""
    counted = 0
    for name, count in layout.hypervisors.items():
        model = profile.model(name)
        counted += count * max(model.physical_cores, literature.LICENCE_CORES_PER_CPU * model.sockets)
    return max(counted, literature.LICENCE_CORES_LEAST) if counted else 0


def _licences(profile: Profile, layout: Layout, value: Value) -> Floats:
    price = profile.prices.hypervisor
    if price is None:
        return np.zeros(1)
    return licensed_cores(profile, layout) * value("hypervisor licence", price)


def staff_hours(profile: Profile, layout: Layout, events: Events, value: Value) -> Floats | None:
    """Hours of work in a year; None where no hours for any event are given."""
    hours = profile.prices.hours
    parts = [
        events.failures * value("hours for a failure", hours.failure) if hours.failure else None,
        events.patches * value("hours for a patch", hours.patch) if hours.patch else None,
        value("hours for the virtual layer", hours.year) if hours.year and layout.hypervisors else None,
    ]
    given = [p for p in parts if p is not None]
    return np.asarray(sum(given, np.zeros(1)), dtype=np.float64) if given else None


def _staff(profile: Profile, layout: Layout, events: Events, value: Value) -> Iterator[Floats]:
    assert profile.prices.staff is not None
    hours = staff_hours(profile, layout, events, value)
    if hours is not None:
        yield hours * value("wage", profile.prices.staff)


# --- what it hangs on ---------------------------------------------------------------------------------------------


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """How far one quantity moves the difference between two layouts, the others at their likeliest."""

    name: str
    amount: str
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        """How far."""
        return abs(self.at_high - self.at_low)


def sensitivities(profile: Profile, a: tuple[Layout, Events], b: tuple[Layout, Events]) -> list[Sensitivity]:
    """Of the yearly cost of `a` less that of `b`, the widest first."""

    def difference(value: Value) -> float:
        return float((of(profile, *a, value).total - of(profile, *b, value).total)[0])

    middle = Middle()
    difference(middle)
    found = [
        Sensitivity(
            name=name,
            amount=str(amount),
            at_low=difference(Middle(name, "low")),
            at_high=difference(Middle(name, "high")),
        )
        for name, amount in middle.asked.items()
        if amount.low < amount.high
    ]
    return sorted((s for s in found if s.width > 0), key=lambda s: (-s.width, s.name))


def licence_break_even(profile: Profile, virtual: tuple[Layout, Events], other: tuple[Layout, Events]) -> float | None:
    """The licence (for a core and a year) at which the first costs as much as the second; None where none does."""
    free = msgspec.structs.replace(profile, prices=msgspec.structs.replace(profile.prices, hypervisor=None))
    middle = Middle()
    a, b = of(free, *virtual, middle).total[0], of(free, *other, middle).total[0]
    cores = licensed_cores(profile, virtual[0]) - licensed_cores(profile, other[0])
    growth = _growth(profile, middle)[0]
    return float((b - a) / cores / growth) if cores > 0 and b > a else None
