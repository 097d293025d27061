"""What Linux says of a board's processor: with it, emulated programs choose as they do there.

Without it cpuinfo, the library by which XNNPACK learns where it is, gives up, and models run in
TFLite's own kernels. With this machine's own /sys it takes an x86 for an Arm, and LiteRT dies of
SIGSEGV when it opens a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CORES = 4


@dataclass(frozen=True)
class Board:
    """A board of four equal cores made by Arm.

    Attributes:
        name: for people.
        qemu_cpu: what qemu calls the core.
        part: CPU part, as in MIDR_EL1.
        variant: CPU variant; revision: CPU revision.
        features: of /proc/cpuinfo.
        most_khz: highest clock.
    """

    name: str
    qemu_cpu: str
    part: int
    variant: int
    revision: int
    features: str
    most_khz: int

    @property
    def midr(self) -> int:
        """The register that names the core."""
        return 0x41 << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision

    def cpuinfo(self) -> str:
        """Return what /proc/cpuinfo says."""
        core = (
            "processor\t: {number}\nBogoMIPS\t: 108.00\n"
            f"Features\t: {self.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
            f"CPU variant\t: {self.variant:#x}\nCPU part\t: {self.part:#x}\n"
            f"CPU revision\t: {self.revision}\n\n"
        )
        cores = "".join(core.format(number=number) for number in range(_CORES))
        return f"{cores}Model\t\t: {self.name}\n"

    def sysfs(self) -> dict[str, str]:
        """Return what the files below /sys/devices/system/cpu hold, by their path there."""
        everyone = f"0-{_CORES - 1}\n"
        files = dict.fromkeys(("possible", "present", "online"), everyone)
        for number in range(_CORES):
            files |= {
                f"cpu{number}/topology/physical_package_id": "0\n",
                f"cpu{number}/topology/core_id": f"{number}\n",
                f"cpu{number}/topology/core_siblings_list": everyone,
                f"cpu{number}/topology/thread_siblings_list": f"{number}\n",
                f"cpu{number}/cpufreq/cpuinfo_max_freq": f"{self.most_khz}\n",
                f"cpu{number}/regs/identification/midr_el1": f"{self.midr:#018x}\n",
            }
        return files

    def write(self, folder: Path) -> None:
        """Write both into a new directory: `cpuinfo`, and `sys` to be mounted on /sys."""
        folder.mkdir()
        (folder / "cpuinfo").write_text(self.cpuinfo())
        for name, text in self.sysfs().items():
            file = folder / "sys/devices/system/cpu" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


_PI_4 = "fp asimd evtstrm crc32 cpuid"
_PI_5 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
    " asimddp"
)
PI_4 = Board("Raspberry Pi 4 Model B", "cortex-a72", 0xD08, 0, 3, _PI_4, 1_800_000)
"""Without the dot product of bytes that XNNPACK has kernels for."""
PI_5 = Board("Raspberry Pi 5 Model B", "cortex-a76", 0xD0B, 4, 1, _PI_5, 2_400_000)
"""With it (asimddp)."""
