"""From a machine's entry to libvirt's domain XML, and back from its metadata. Pure.

No secret is ever in the XML: keys of SSH users are public, user data and payloads go other ways.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Literal
from xml.etree import ElementTree

import msgspec

from bedplate.agent.credentials import machine_credentials
from bedplate.model.blueprint import MachineEntry, Nic
from bedplate.model.cpus import FEATURES, CpuModel
from bedplate.model.ids import Generation, MachineUid, StoreId

METADATA_URI = "https://bedplate.dev/xmlns/libvirt/domain/1.0"
METADATA_PREFIX = "bedplate"
OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"
TRANSLATION_CACHE_MIB = 1024
"""Room for translated code, for each of the first two CPUs of an emulated guest. A control plane filled 512 MiB every
minute, and then all of it is translated anew."""


EMULATED_KERNEL = (
    *("tsc=reliable", "mitigations=off", "preempt=none", "psi=0"),
    *("audit=0", "apparmor=0", "nowatchdog", "no_timer_check"),
)
"""Kernel arguments of emulated guests, for which each system call and each switch of tasks is dear. Late timer ticks
make the kernel distrust the time stamp counter, and then each look at the clock goes to an emulated device: half of all
time went there. There is no speculation to guard against. Real guests have none of these."""


class DomainFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths on the server that a domain is made from."""

    disk: str
    console_log: str
    nvram: str
    kernel: str = ""
    initrd: str = ""
    seed: str = ""
    """Cloud-init seed; in memory, not there after the first boot."""
    direct: bool = True
    """The pool's file system can do direct I/O."""


class DomainMark(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain's metadata says: whose it is and how it was defined."""

    store: StoreId
    uid: MachineUid
    generation: Generation
    boot: int
    """Boot number it was defined for."""
    disk_pool: str
    digest: str = ""
    """Of the XML it was defined with: libvirt fills in so much that its own can't be compared."""


def domain_name(machine: MachineEntry) -> str:
    """The domain's name in libvirt: readable, and unique by its end."""
    return f"{machine.namespace}-{machine.name}-{machine.uid[:8]}"


def mark_xml(mark: DomainMark, *, bare: bool = False) -> str:
    """The metadata element. `bare`: without its namespace, which libvirt adds itself where one sets metadata by hand
    and refuses to find there already."""
    element = ElementTree.Element(
        "machine" if bare else f"{{{METADATA_URI}}}machine",
        {
            "store": mark.store,
            "uid": mark.uid,
            "generation": str(mark.generation),
            "boot": str(mark.boot),
            "pool": mark.disk_pool,
            "digest": mark.digest,
        },
    )
    ElementTree.register_namespace(METADATA_PREFIX, METADATA_URI)
    return ElementTree.tostring(element, encoding="unicode")


def read_mark(xml: str) -> DomainMark | None:
    """Read a metadata element; None where it is none of ours."""
    try:
        element = ElementTree.fromstring(xml)
        return DomainMark(
            store=StoreId(element.attrib["store"]),
            uid=MachineUid(element.attrib["uid"]),
            generation=Generation(int(element.attrib["generation"])),
            boot=int(element.attrib["boot"]),
            disk_pool=element.attrib["pool"],
            digest=element.attrib.get("digest", ""),
        )
    except (ElementTree.ParseError, KeyError, ValueError):
        return None


def mark_of(xml: str) -> DomainMark | None:
    """The mark in a domain's definition, wherever in it the mark's namespace is declared."""
    element = ElementTree.fromstring(xml).find(f"./metadata/{{{METADATA_URI}}}machine")
    return read_mark(ElementTree.tostring(element, encoding="unicode")) if element is not None else None


def domain_xml(machine: MachineEntry, *, store: StoreId, accelerator: Literal["kvm", "tcg"], files: DomainFiles) -> str:
    """Give the domain's definition, with its mark (whose digest covers all else)."""
    plain = _domain(machine, accelerator, files)
    digest = hashlib.sha256(ElementTree.tostring(plain)).hexdigest()[:16]
    mark = DomainMark(
        store=store,
        uid=machine.uid,
        generation=machine.generation,
        boot=machine.boot,
        disk_pool=machine.disk_pool,
        digest=digest,
    )
    metadata = ElementTree.Element("metadata")
    metadata.append(ElementTree.fromstring(mark_xml(mark)))
    plain.insert(2, metadata)
    ElementTree.indent(plain)
    return ElementTree.tostring(plain, encoding="unicode")


def _domain(machine: MachineEntry, accelerator: Literal["kvm", "tcg"], files: DomainFiles) -> ElementTree.Element:
    root = ElementTree.Element("domain", type="kvm" if accelerator == "kvm" else "qemu")
    _text(root, "name", domain_name(machine))
    _text(root, "uuid", machine.uid)
    _text(root, "title", f"{machine.namespace}/{machine.name}")
    _text(root, "memory", str(machine.memory_mib), unit="MiB")
    _text(root, "vcpu", str(machine.cpu))
    _boot(root, machine, accelerator, files)
    _cpu(root, machine, accelerator)
    _text(root, "on_poweroff", "destroy")
    _text(root, "on_reboot", "restart")
    _text(root, "on_crash", "destroy")
    devices = ElementTree.SubElement(root, "devices")
    _disks(devices, files)
    _interface(devices, machine.nic)
    _console(devices, files)
    agent = ElementTree.SubElement(devices, "channel", type="unix")
    ElementTree.SubElement(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
    balloon = ElementTree.SubElement(devices, "memballoon", model="virtio")
    ElementTree.SubElement(balloon, "stats", period="10")
    rng = ElementTree.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    return root


def _boot(
    root: ElementTree.Element, machine: MachineEntry, accelerator: Literal["kvm", "tcg"], files: DomainFiles
) -> None:
    """Direct kernel boot where the image has a kernel, else UEFI; SMBIOS strings carry systemd's credentials."""
    extra = " ".join([f"systemd.hostname={machine.name}", *(EMULATED_KERNEL if accelerator == "tcg" else ())])
    system = ElementTree.SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    if files.kernel:
        _text(system, "kernel", files.kernel)
        if files.initrd:
            _text(system, "initrd", files.initrd)
        _text(system, "cmdline", " ".join([machine.image.command_line, extra]).strip())
    else:
        _text(system, "loader", OVMF_CODE, readonly="yes", type="pflash")
        _text(system, "nvram", files.nvram, template=OVMF_VARS)
        ElementTree.SubElement(system, "boot", dev="hd")
    ElementTree.SubElement(system, "smbios", mode="sysinfo")
    sysinfo = ElementTree.SubElement(root, "sysinfo", type="smbios")
    strings = ElementTree.SubElement(sysinfo, "oemStrings")
    for entry in smbios_strings(machine, arguments="" if files.kernel else extra):
        _text(strings, "entry", entry)


def smbios_strings(machine: MachineEntry, *, arguments: str = "") -> list[str]:
    """The SMBIOS type 11 strings: network and public SSH keys as credentials of systemd, and kernel arguments for
    systemd's boot stub where the kernel is not started with a command line of ours."""
    strings = [_credential(name, content) for name, content in machine_credentials(machine)]
    if arguments:
        strings.append(f"io.systemd.stub.kernel-cmdline-extra={arguments}")
    return strings


def _credential(name: str, content: str) -> str:
    return f"io.systemd.credential.binary:{name}={base64.b64encode(content.encode()).decode()}"


def _cpu(root: ElementTree.Element, machine: MachineEntry, accelerator: Literal["kvm", "tcg"]) -> None:
    features = ElementTree.SubElement(root, "features")
    ElementTree.SubElement(features, "acpi")
    ElementTree.SubElement(features, "apic")
    if machine.cpu_model in FEATURES:
        _cpu_level(root, machine.cpu_model)
    elif accelerator == "kvm":
        ElementTree.SubElement(root, "cpu", mode="host-passthrough", check="none", migratable="on")
    else:
        ElementTree.SubElement(root, "cpu", mode="maximum")
    if accelerator == "tcg":
        tcg = ElementTree.SubElement(features, "tcg")
        _text(tcg, "tb-cache", str(TRANSLATION_CACHE_MIB * min(2, machine.cpu)), unit="MiB")
    clock = ElementTree.SubElement(root, "clock", offset="utc")
    ElementTree.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    ElementTree.SubElement(clock, "timer", name="hpet", present="no")


def _cpu_level(root: ElementTree.Element, model: CpuModel) -> None:
    """A CPU of exactly that level, whichever is there."""
    cpu = ElementTree.SubElement(root, "cpu", mode="custom", match="exact", check="partial")
    _text(cpu, "model", "qemu64", fallback="forbid")
    ElementTree.SubElement(cpu, "feature", policy="disable", name="svm")  # of AMD's alone, and in `qemu64`
    for name in FEATURES[model]:
        ElementTree.SubElement(cpu, "feature", policy="require", name=name.replace("sse4_", "sse4."))


def _disks(devices: ElementTree.Element, files: DomainFiles) -> None:
    disk = ElementTree.SubElement(devices, "disk", type="file", device="disk")
    cache = "none" if files.direct else "writeback"
    # On a full pool the guest is paused instead of being given write errors that ruin its file system.
    ElementTree.SubElement(disk, "driver", name="qemu", type="qcow2", cache=cache, discard="unmap", error_policy="stop")
    ElementTree.SubElement(disk, "source", file=files.disk)
    ElementTree.SubElement(disk, "target", dev="vda", bus="virtio")
    if files.seed:
        seed = ElementTree.SubElement(devices, "disk", type="file", device="cdrom")
        ElementTree.SubElement(seed, "driver", name="qemu", type="raw")
        ElementTree.SubElement(seed, "source", file=files.seed, startupPolicy="optional")
        ElementTree.SubElement(seed, "target", dev="sda", bus="sata")
        ElementTree.SubElement(seed, "readonly")


def _interface(devices: ElementTree.Element, nic: Nic) -> None:
    interface = ElementTree.SubElement(devices, "interface", type="bridge")
    ElementTree.SubElement(interface, "source", bridge=nic.bridge)
    ElementTree.SubElement(interface, "mac", address=nic.mac)
    ElementTree.SubElement(interface, "model", type="virtio")
    ElementTree.SubElement(interface, "mtu", size=str(nic.mtu))


def _console(devices: ElementTree.Element, files: DomainFiles) -> None:
    serial = ElementTree.SubElement(devices, "serial", type="pty")
    ElementTree.SubElement(serial, "log", file=files.console_log, append="off")
    ElementTree.SubElement(serial, "target", type="isa-serial", port="0")
    console = ElementTree.SubElement(devices, "console", type="pty")
    ElementTree.SubElement(console, "target", type="serial", port="0")


def _text(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = text
